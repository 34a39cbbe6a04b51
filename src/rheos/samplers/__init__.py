"""Integrating a field: rules plan tables of numbers, one dynamics runs them; tables are inverted, searched and fitted; runs are streamed and reused."""
from rheos.paths.asking import evaluating
from rheos.samplers.adaptive import BOGACKI_SHAMPINE, DORMAND_PRINCE, Adaptive, AdaptiveRungeKutta, AdaptiveState, EmbeddedPair
from rheos.samplers.bidirectional import BDIA
from rheos.samplers.catalogue import RULES, public_rules
from rheos.samplers.categories import categorical, expected_calls, predicted_token_law, suppression
from rheos.samplers.combinations import Combination, History
from rheos.samplers.compensation import Compensated, CompensationRegression, fit_compensation
from rheos.samplers.consistency import LCM
from rheos.samplers.defaults import default_rule
from rheos.samplers.edits import DynamicThreshold, dynamic_threshold
from rheos.samplers.exponential import DDIM, DDPM, DEIS, DPMSolverPP, Exponential, UniPC
from rheos.samplers.expressway import Expressway
from rheos.samplers.feature_reuse import DENSE_EARLY, Every, FeatureReuse, every, prior_noise
from rheos.samplers.gap import OdeSdeGap, diffusion_level, ode_sde_gap
from rheos.samplers.inversion import Pair, invert, sample_pair
from rheos.samplers.masked import AnyOrder, FirstHitting, MaskedAncestral, Unmasking, UnmaskingState, sample_tokens
from rheos.samplers.model_statistics import EMS, ModelStatistics, model_statistics
from rheos.samplers.momentum import GHVB, HeavyBall
from rheos.samplers.multistep import Multistep, MultistepState
from rheos.samplers.one_more_step import OneMoreStep, fit_one_more_step
from rheos.samplers.ordinary import AdamsBashforth, Euler, RungeKutta
from rheos.samplers.pseudo import PLMS
from rheos.samplers.residual import ResidualDDIM
from rheos.samplers.sampling import sample
from rheos.samplers.similarity import SimilarityFilter, SimilarityState, skip_probability
from rheos.samplers.singlestep import Singlestep
from rheos.samplers.solver_search import Decision, Mixed, begun, search_schedule
from rheos.samplers.spectral import SpectralDDIM
from rheos.samplers.stochastic import EulerMaruyama
from rheos.samplers.stream import StreamBatch, StreamState
from rheos.samplers.table_search import TableSearch, TableSearchState, trajectory
from rheos.samplers.tables import Row, Rule, Table
from rheos.samplers.time_shift import TimeShift
from rheos.samplers.tuning import Reference, Tuned, fixed_rules, tune

__all__ = [
    "BDIA", "BOGACKI_SHAMPINE", "DDIM", "DDPM", "DEIS", "DENSE_EARLY", "DORMAND_PRINCE", "EMS", "GHVB", "LCM", "PLMS", "RULES", "AdamsBashforth", "Adaptive",
    "AdaptiveRungeKutta", "AdaptiveState", "AnyOrder", "Combination", "Compensated", "CompensationRegression", "DPMSolverPP", "Decision", "DynamicThreshold",
    "EmbeddedPair", "Euler", "EulerMaruyama", "Every", "Exponential", "Expressway", "FeatureReuse", "FirstHitting", "HeavyBall", "History", "MaskedAncestral",
    "Mixed", "ModelStatistics", "Multistep", "MultistepState", "OdeSdeGap", "OneMoreStep", "Pair", "Reference", "ResidualDDIM", "Row", "Rule", "RungeKutta",
    "SimilarityFilter", "SimilarityState", "Singlestep", "SpectralDDIM", "StreamBatch", "StreamState", "Table", "TableSearch", "TableSearchState",
    "TimeShift", "Tuned", "UniPC", "Unmasking", "UnmaskingState", "begun", "categorical", "default_rule", "diffusion_level", "dynamic_threshold",
    "evaluating", "every", "expected_calls", "fit_compensation", "fit_one_more_step", "fixed_rules", "invert", "model_statistics", "ode_sde_gap",
    "predicted_token_law", "prior_noise", "public_rules", "sample", "sample_pair", "sample_tokens", "search_schedule", "skip_probability", "suppression",
    "trajectory", "tune",
]
