"""Momentum (Wizadwongsa et al., Diffusion sampling with momentum for mitigating divergence artifacts, 2023, arXiv:2307.11118).

Claim: high-order multistep solvers throw samples off when guidance is strong and steps are few; filtering the combined direction (HB) widens the
region of stability and the artifacts go, at the price of order 1; filtering the predictions and weighing what comes out (GHVB) keeps the order and
most of the gain. Here: the exact field of real digits (16 principal components, one Gaussian a class) on the variance-preserving path, equal
steps in t, guided to threes by 8; PLMS of 4 predictions is what momentum is put into, at as many calls. Largest |x| on the way,
and the median over samples of the distance to the exact end. The paper shows images of a guided latent diffusion model.

The controls are PLMS itself, from other starts so that it is measured; for the row on accuracy HB, whose loss of order GHVB is there to avoid.
Supporting rows: the same on a network trained on digits, momentum around ++2M and UniPC, GHVB with weights fitted to the times (ours), and DDIM,
which has no artifacts either.
"""
import torch

from rheos.core import Watcher, evolve
from rheos.papers import Check, Problem, Scale, bars, digits_noise_teacher, digits_problem
from rheos.guidance import classifier_free
from rheos.paths import T, Times
from rheos.samplers import DDIM, PLMS, DPMSolverPP, Multistep, Rule, UniPC
from rheos.samplers.momentum import GHVB, HeavyBall
