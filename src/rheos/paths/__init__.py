"""Probability paths from noise to data, and the fields that live on them."""
from rheos.paths.basis import Basis, Fourier2d
from rheos.paths.discrete import Betas
from rheos.paths.exact import ExactField
from rheos.paths.field import Field
from rheos.paths.kinetic import Arc, KineticOptimal, Separation
from rheos.paths.masked import MaskedPath
from rheos.paths.masked_field import GuidedTokens, MaskedField
from rheos.paths.mixture import LearnedRouter, Mixture, PosteriorRouter
from rheos.paths.noise import Base, Gaussian, NoiseLaw, Student, transfer_sigma
from rheos.paths.offset_noise import Offset
from rheos.paths.path import Path, PathPoint
from rheos.paths.predictions import KINDS, Prediction
from rheos.paths.schedules import EDM, VE, VP, BrownianBridge, Coefficients, Cosine, Interpolant, Linear, Residual, Schedule
from rheos.paths.separation import data_separation, kinetic_energy
from rheos.paths.shortest import Shortest, fisher_length, fisher_times
from rheos.paths.snr_matching import Matched, matched
from rheos.paths.terminal import TerminalGap, scaled_linear, terminal_gap, zero_terminal_snr
from rheos.paths.times import LAM, QUADRATIC, RHO, RHO7, SQRT_U, Clock, T, Times, U

__all__ = [
    "EDM",
    "KINDS",
    "LAM",
    "QUADRATIC",
    "RHO",
    "RHO7",
    "SQRT_U",
    "VE",
    "VP",
    "Arc",
    "Base",
    "Basis",
    "Betas",
    "BrownianBridge",
    "Clock",
    "Coefficients",
    "Cosine",
    "ExactField",
    "Field",
    "Fourier2d",
    "Gaussian",
    "GuidedTokens",
    "Interpolant",
    "KineticOptimal",
    "LearnedRouter",
    "Linear",
    "MaskedField",
    "MaskedPath",
    "Matched",
    "Mixture",
    "NoiseLaw",
    "Offset",
    "Path",
    "PathPoint",
    "PosteriorRouter",
    "Prediction",
    "Residual",
    "Schedule",
    "Separation",
    "Shortest",
    "Student",
    "T",
    "TerminalGap",
    "Times",
    "U",
    "data_separation",
    "fisher_length",
    "fisher_times",
    "kinetic_energy",
    "matched",
    "scaled_linear",
    "terminal_gap",
    "transfer_sigma",
    "zero_terminal_snr",
]
