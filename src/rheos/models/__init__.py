"""Models: a trained field with its transform, classes and card; training one, saving it, loading it."""
from rheos.models.conditions import Conditions
from rheos.models.devices import pick_device
from rheos.models.experts import Experts, load_experts, partition, train_experts
from rheos.models.learn import Training, steps_within, train
from rheos.models.masked import MaskedModel, MaskedTraining, train_masked
from rheos.models.model import Model, load
from rheos.models.recursion import Generation, recursive_training
from rheos.models.transforms import Standardise

__all__ = [
    "Conditions", "Experts", "Generation", "MaskedModel", "MaskedTraining", "Model", "Standardise", "Training", "load", "load_experts", "partition",
    "pick_device", "recursive_training", "steps_within", "train", "train_experts", "train_masked",
]
