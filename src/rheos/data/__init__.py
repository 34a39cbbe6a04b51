"""Data as plain arrays: real data by name or file, and toy targets whose density is known."""
from rheos.data.dataset import Dataset
from rheos.data.digits import digits_mixture
from rheos.data.mixtures import GaussianMixture
from rheos.data.sources import load
from rheos.data.targets import Checkerboard, eight_gaussians, ring, skewed, two_moons

__all__ = ["Checkerboard", "Dataset", "GaussianMixture", "digits_mixture", "eight_gaussians", "load", "ring", "skewed", "two_moons"]
