"""How far a set of samples is from the data, and how near to its neighbours."""
from rheos.metrics.baselines import gaussian_fit
from rheos.metrics.classifiers import classifier_two_sample
from rheos.metrics.colour import ColourFeatures, colour_features
from rheos.metrics.coverage import DensityCoverage, PrecisionRecall, density_coverage, hausdorff, precision_recall
from rheos.metrics.features import DigitFeatures, digit_features
from rheos.metrics.floor import Floor, floor
from rheos.metrics.grey import GreyFeatures, grey_features
from rheos.metrics.image_features import ImageFeatures, channel_axis, image_features
from rheos.metrics.kernels import RBF, Kernel, Polynomial, energy, mmd
from rheos.metrics.neighbours import nearest
from rheos.metrics.ngrams import ngram_distance
from rheos.metrics.off_mode import hallucinated, hallucination
from rheos.metrics.repeated import PowerLaw, coverage_at, fit_power_law, pass_at_k
from rheos.metrics.sets import frechet, sliced_w2
from rheos.metrics.spectrum import power_spectrum
from rheos.metrics.tables import associations, category_distance, correlation_error, number_distance
from rheos.metrics.tokens import token_entropy
from rheos.metrics.trajectory_variance import TrajectoryVariance
from rheos.metrics.transport import sinkhorn, wasserstein

__all__ = [
    "RBF", "ColourFeatures", "DensityCoverage", "DigitFeatures", "Floor", "GreyFeatures", "ImageFeatures", "Kernel", "Polynomial", "PowerLaw",
    "PrecisionRecall", "TrajectoryVariance", "associations", "category_distance", "channel_axis", "classifier_two_sample", "colour_features",
    "correlation_error", "coverage_at", "density_coverage", "digit_features", "energy", "fit_power_law", "floor", "frechet", "gaussian_fit", "grey_features",
    "hallucinated", "hallucination", "hausdorff", "image_features", "mmd", "nearest", "ngram_distance", "number_distance", "pass_at_k", "power_spectrum",
    "precision_recall", "sinkhorn", "sliced_w2", "token_entropy", "wasserstein",
]
