"""Layers and backbones. Networks are called net(x, t, cond)."""
from rheos.nets.condition import Condition, FourierTime, keep_condition, without_condition
from rheos.nets.mlp import ResidualMLP

__all__ = ["Condition", "FourierTime", "ResidualMLP", "keep_condition", "without_condition"]
