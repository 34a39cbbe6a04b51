"""Layers and backbones. Networks are called net(x, t, cond)."""
from rheos.nets.attention import SelfAttention
from rheos.nets.choice import NETS, net_for
from rheos.nets.classifier import MLPClassifier
from rheos.nets.condition import Condition, FourierTime, keep_condition, without_condition
from rheos.nets.dit import DiT
from rheos.nets.mlp import ResidualMLP
from rheos.nets.patches import fold, unfold
from rheos.nets.skips import ConstantSkip, LearnedSkip, Skip, skip_from_json
from rheos.nets.token_transformer import TokenTransformer
from rheos.nets.unet import UNet, UNetFeatures

__all__ = [
    "NETS", "Condition", "ConstantSkip", "DiT", "FourierTime", "LearnedSkip", "MLPClassifier", "ResidualMLP", "SelfAttention", "Skip", "TokenTransformer",
    "UNet", "UNetFeatures", "fold", "keep_condition", "net_for", "skip_from_json", "unfold", "without_condition",
]
