"""How far a set of samples is from the data, and how near to its neighbours."""
from rheos.metrics.baselines import gaussian_fit
from rheos.metrics.features import DigitFeatures, digit_features
from rheos.metrics.floor import Floor, floor
from rheos.metrics.neighbours import nearest
from rheos.metrics.sets import frechet, sliced_w2

__all__ = ["DigitFeatures", "Floor", "digit_features", "floor", "frechet", "gaussian_fit", "nearest", "sliced_w2"]
