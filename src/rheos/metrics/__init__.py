"""How far a set of samples is from the data, and how near to its neighbours."""
from rheos.metrics.baselines import gaussian_fit
from rheos.metrics.classifiers import classifier_two_sample
from rheos.metrics.coverage import DensityCoverage, PrecisionRecall, density_coverage, hausdorff, precision_recall
from rheos.metrics.features import DigitFeatures, digit_features
from rheos.metrics.floor import Floor, floor
from rheos.metrics.kernels import RBF, Kernel, Polynomial, energy, mmd
from rheos.metrics.neighbours import nearest
from rheos.metrics.sets import frechet, sliced_w2
from rheos.metrics.transport import sinkhorn, wasserstein

__all__ = [
    "RBF",
    "DensityCoverage",
    "DigitFeatures",
    "Floor",
    "Kernel",
    "Polynomial",
    "PrecisionRecall",
    "classifier_two_sample",
    "density_coverage",
    "digit_features",
    "energy",
    "floor",
    "frechet",
    "gaussian_fit",
    "hausdorff",
    "mmd",
    "nearest",
    "precision_recall",
    "sinkhorn",
    "sliced_w2",
    "wasserstein",
]
