"""Every claim file at smoke scale: it runs, its numbers are finite, its controls are measured, its plot can be drawn."""
from __future__ import annotations

import ast
import math

import pytest
from matplotlib.figure import Figure

from rheos.papers import Scale, find, literal_controls, runner

CLAIMS = runner.find_claims()


@pytest.mark.parametrize("slug", sorted(CLAIMS))
def test_a_claim_runs_at_smoke_scale(slug, record_property):
    assert literal_controls(CLAIMS[slug]) == []
    claim = runner.open_claim(CLAIMS[slug])
    assert claim.room == find(slug).room
    result = runner.measure(claim, scale=Scale.SMOKE)
    (checks,) = result.checks.values()
    assert any(check.core for check in checks)
    for check in checks:
        assert math.isfinite(check.value)
        assert check.control is None or math.isfinite(check.control)
    record_property("cpu_seconds", result.cpu_seconds[claim.seeds[0]])          # 1.5 is wanted; a busy machine may take longer
    assert result.cpu_seconds[claim.seeds[0]] <= 10
    if claim.plot is not None:
        axes = Figure().subplots()
        claim.plot(axes, list(checks))
        assert axes.has_data()


@pytest.mark.parametrize("slug", sorted(CLAIMS))
def test_a_claim_says_what_it_stands_for(slug):
    said = ast.get_docstring(ast.parse(CLAIMS[slug].read_text(encoding="utf-8")))
    assert said is not None and "claim" in said.lower() and "here" in said.lower()
