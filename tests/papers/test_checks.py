"""Checks and the judge: the truth table, laws that any verdict keeps, and what is refused."""
from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rheos.papers import checks
from rheos.papers.checks import Check, Scale, judge

PASS, FAIL = 0.2, 0.8                        # against "<= 0.5"
P, F, C = (PASS, 0.9), (FAIL, 0.9), (PASS, 0.3)        # (value, control): a pass, a fail, a pass whose control passes too


def rows(*numbers, core=True):
    return [Check(f"row {i}", value, "<=", 0.5, control, core) for i, (value, control) in enumerate(numbers)]


@pytest.mark.parametrize(("by_seed", "outcomes", "paper"), [
    ([[P], [P], [P]], ["pass"], "holds"),
    ([[F], [F]], ["fail"], "does not hold here"),
    ([[P], [F]], ["unclear"], "not measurable here"),                                   # seeds disagree
    ([[C], [P]], ["unclear"], "not measurable here"),                                   # a control that passes once is enough
    ([[(FAIL, 0.3)], [F]], ["unclear"], "not measurable here"),                         # also where the value fails
    ([[(PASS, math.nan)]], ["unclear"], "not measurable here"),                         # nothing to compare with
    ([[(PASS, math.inf)]], ["unclear"], "not measurable here"),
    ([[(math.nan, 0.9)]], ["fail"], "does not hold here"),
    ([[(-math.inf, 0.9)]], ["fail"], "does not hold here"),                             # would keep the bound, is no measurement
    ([[P, P], [P, P]], ["pass", "pass"], "holds"),
    ([[P, F], [P, F]], ["pass", "fail"], "holds in part"),
    ([[P, F, C], [P, F, C]], ["pass", "fail", "unclear"], "holds in part"),
    ([[F, C], [F, C]], ["fail", "unclear"], "does not hold here"),
    ([[P, C], [P, C]], ["pass", "unclear"], "not measurable here"),
    ([[P, P], [P, F]], ["pass", "unclear"], "not measurable here"),
    ([[C, C], [C, C]], ["unclear", "unclear"], "not measurable here"),
])
def test_truth_table(by_seed, outcomes, paper):
    verdict = judge({seed: rows(*numbers) for seed, numbers in enumerate(by_seed)})
    assert [row.outcome for row in verdict.rows] == outcomes
    assert verdict.paper == str(verdict) == paper


def test_supporting_rows_are_told_and_decide_nothing():
    support = [Check("support", FAIL, "<=", 0.5, None, core=False)]
    verdict = judge({0: rows(P) + support, 3: support + rows(P)})
    assert [(row.name, row.outcome, row.core) for row in verdict.rows] == [("row 0", "pass", True), ("support", "fail", False)]
    assert verdict.paper == "holds"


@pytest.mark.parametrize(("value", "relation", "passes"), [(0.5, "<=", True), (0.5, ">=", True), (0.4, ">=", False), (0.6, "<=", False)])
def test_a_bound_includes_its_edge(value, relation, passes):
    check = Check("edge", value, relation, 0.5, control=value)
    assert check.passes is check.control_passes is passes


number = st.one_of(st.floats(-2, 2), st.sampled_from([math.nan, math.inf, -math.inf, 0.5]))


@st.composite
def claims(draw):
    """Rows for some seeds: same bounds, other numbers; at least one core row."""
    bounds = [("core", draw(st.sampled_from(["<=", ">="])), draw(st.floats(-1, 1)), True)]
    bounds += [(f"row {i}", draw(st.sampled_from(["<=", ">="])), draw(st.floats(-1, 1)), draw(st.booleans()))
               for i in range(draw(st.integers(0, 3)))]
    seeds = draw(st.lists(st.integers(0, 99), min_size=1, max_size=4, unique=True))
    return {seed: [Check(name, draw(number), relation, threshold, draw(number), core) for name, relation, threshold, core in bounds]
            for seed in seeds}


@settings(derandomize=True, deadline=None, max_examples=300)
@given(claim=claims(), data=st.data())
def test_laws_of_the_verdict(claim, data):
    verdict = judge(claim)
    outcome = {row.name: row.outcome for row in verdict.rows}
    # The order of seeds and of rows is of no matter.
    seeds = data.draw(st.permutations(list(claim)))
    shuffled = judge({seed: data.draw(st.permutations(claim[seed])) for seed in seeds})
    assert shuffled.paper == verdict.paper and {row.name: row.outcome for row in shuffled.rows} == outcome
    # A mirror of all numbers changes nothing.
    flip = {"<=": ">=", ">=": "<="}
    mirror = {seed: [Check(c.name, -c.value, flip[c.relation], -c.threshold, -c.control, c.core) for c in rows]
              for seed, rows in claim.items()}
    assert judge(mirror) == verdict
    # One more seed never turns a row that failed or was unclear into a pass, and a repeated seed changes nothing.
    assert judge({**claim, 1000: claim[seeds[0]]}) == verdict
    if len(claim) > 1:
        fewer = {row.name: row.outcome for row in judge({seed: claim[seed] for seed in seeds[1:]}).rows}
        assert all(fewer[name] == "pass" for name in outcome if outcome[name] == "pass")
    # It holds exactly when every core number passes for every seed and no control does.
    core = [check for rows in claim.values() for check in rows if check.core]
    assert (verdict.paper == checks.HOLDS) == all(c.passes and math.isfinite(c.control) and not c.control_passes for c in core)


def test_numbers_come_from_tensors_and_arrays():
    check = Check("mixed", torch.tensor(0.25, requires_grad=True), "<=", np.float64(0.5), np.array(3), core=True)
    assert (check.value, check.threshold, check.control) == (0.25, 0.5, 3.0)
    assert all(type(number) is float for number in (check.value, check.threshold, check.control))
    assert Check("bf16", torch.tensor(1.5, dtype=torch.bfloat16), ">=", 1, 0).value == 1.5


@pytest.mark.parametrize(("change", "said"), [
    ({"relation": "<"}, "check.relation must be '<=' or '>=', got '<'"),
    ({"threshold": math.nan}, "check.threshold must be finite"),
    ({"threshold": math.inf}, "check.threshold must be finite"),
    ({"control": None}, "check.control must be measured in a core row"),
    ({"value": torch.ones(1)}, "check.value must be a number or a 0-d tensor, got Tensor"),
    ({"value": "0.1"}, "check.value must be a number"),
    ({"value": True}, "check.value must be a number"),
    ({"control": np.bool_(False)}, "check.control must be a number"),
    ({"value": 1j}, "check.value must be a number"),
    ({"name": "  "}, "check.name must say what is measured"),
    ({"core": 1}, "check.core must be True or False"),
])
def test_refuses_what_is_no_check(change, said):
    with pytest.raises(ValueError, match=said.replace("(", r"\(")):
        Check(**{"name": "row", "value": 0.1, "relation": "<=", "threshold": 0.5, "control": 0.9, "core": True, **change})


ROW = Check("row", 0.1, "<=", 0.5, 0.9)


@pytest.mark.parametrize(("by_seed", "said"), [
    ({}, "at least one seed"),
    ({0: []}, "at least one core row"),
    ({0: [Check("row", 0.1, "<=", 0.5, None, core=False)]}, "at least one core row"),
    ({0: [ROW, ROW]}, r"names of their own, got \['row'\] more than once for seed 0"),
    ({0: [ROW], 4: [ROW, Check("more", 0.1, "<=", 0.5, 0.9)]}, r"seeds 0 and 4 differ in \['more'\]"),
    ({0: [ROW], 1: []}, r"seeds 0 and 1 differ in \['row'\]"),
    ({0: [ROW], 1: [Check("raw", 0.1, "<=", 0.5, 0.9)]}, r"differ in \['raw', 'row'\]"),
    ({0: [ROW], 1: [Check("row", 0.1, ">=", 0.5, 0.9)]}, r"differ in \['row'\]"),
    ({0: [ROW], 1: [Check("row", 0.1, "<=", 0.6, 0.9)]}, r"differ in \['row'\]"),
    ({0: [ROW], 1: [Check("row", 0.1, "<=", 0.5, 0.9, core=False)]}, r"differ in \['row'\]"),
])
def test_judge_refuses_what_cannot_be_judged(by_seed, said):
    with pytest.raises(ValueError, match=said):
        judge(by_seed)


def test_scales():
    assert [scale.value for scale in Scale] == ["full", "smoke"]


def test_bars_show_every_row_that_has_a_control():
    from matplotlib.figure import Figure

    from rheos.papers import bars

    rows = [Check("a", 0.2, "<=", 0.5, control=2.0), Check("b", 0.3, "<=", 0.6, control=1.5), Check("told", 7.0, "<=", 9.0, control=None, core=False)]
    ax = bars(Figure().subplots(), rows, ["first", "second"], method="ours")
    assert [round(bar.get_height(), 6) for bar in ax.patches] == [0.2, 0.3, 2.0, 1.5]
    assert [text.get_text() for text in ax.get_xticklabels()] == ["first", "second"] and ax.lines[0].get_ydata().tolist() == [0.5, 0.6]
    with pytest.raises(ValueError, match="labels must be 2, one a row with a control, got 3"):
        bars(Figure().subplots(), rows, ["a", "b", "c"], method="ours")
