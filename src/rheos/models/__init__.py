"""Models: a trained field with its transform, classes and card; training one, saving it, loading it."""
from rheos.models.devices import pick_device
from rheos.models.learn import Training, train
from rheos.models.model import Model, load
from rheos.models.transforms import Standardise

__all__ = ["Model", "Standardise", "Training", "load", "pick_device", "train"]
