"""Data as plain arrays: real data by name, a user's own files, and toy targets whose density is known."""
from rheos.data.bins import Bins
from rheos.data.captions import embed
from rheos.data.chains import MarkovChain
from rheos.data.columns import Columns
from rheos.data.dataset import Dataset
from rheos.data.digits import digits_mixture
from rheos.data.discrete import TableTokens, discrete
from rheos.data.encodings import Encoding, encoding_from_json
from rheos.data.graphs import GraphData
from rheos.data.mixtures import GaussianMixture
from rheos.data.sources import NAMES, load
from rheos.data.targets import Checkerboard, eight_gaussians, ring, skewed, two_moons
from rheos.data.tokens import Tokens

__all__ = [
    "NAMES", "Bins", "Checkerboard", "Columns", "Dataset", "Encoding", "GaussianMixture", "GraphData", "MarkovChain", "TableTokens", "Tokens",
    "digits_mixture", "discrete", "eight_gaussians", "embed", "encoding_from_json", "load", "ring", "skewed", "two_moons",
]
