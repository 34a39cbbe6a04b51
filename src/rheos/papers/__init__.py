"""Papers: the catalog of all of them, and the claims that are measured again here.

`find`, `search` and `cite` ask the catalog; a claim file gives `Check`s and `judge` decides; `fixture` keeps what is dear to make.
Nothing here imports torch before a claim runs or a fixture is asked for.
"""
from __future__ import annotations

import importlib

from rheos.papers.catalog import Paper, cite, find, papers, search
from rheos.papers.checks import Check, RowVerdict, Scale, Verdict, judge

# These load on first use: fixtures hold tensors, and so bring torch.
LAZY = {
    "Fixture": "fixtures", "Problem": "problems", "Result": "results", "bars": "pictures", "digits_flow_teacher": "teachers",
    "digits_noise_teacher": "teachers", "digits_problem": "problems", "fixture": "fixtures", "heun": "teachers", "literal_controls": "controls",
    "measure": "runner", "short": "teachers",
}
__all__ = [
    "Check", "Fixture", "Paper", "Problem", "Result", "RowVerdict", "Scale", "Verdict",
    "bars", "cite", "digits_flow_teacher", "digits_noise_teacher", "digits_problem", "find", "fixture", "heun", "judge", "literal_controls", "measure",
    "papers", "search", "short",
]


def __getattr__(name: str):
    if name in LAZY:
        return getattr(importlib.import_module(f"rheos.papers.{LAZY[name]}"), name)
    raise AttributeError(f"module 'rheos.papers' has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *LAZY])
