"""Learning as a dynamics: games of players, ordinary descent, averaged weights, learning rates."""
from rheos.training.averaging import Average
from rheos.training.descent import Descent, DescentState
from rheos.training.game import Game, GameState, Hook, Player
from rheos.training.oscillation import FeatureOscillation, decoder_blocks, feature_norms
from rheos.training.rates import Constant, Cosine, Linear

__all__ = [
    "Average", "Constant", "Cosine", "Descent", "DescentState", "FeatureOscillation", "Game", "GameState", "Hook", "Linear", "Player", "decoder_blocks",
    "feature_norms",
]
