"""Reflow, then distillation: what is simulated and by whom, guidance folded in once, conditions kept, budgets, one step exactly; refusals."""
from functools import partial

import pytest
import torch
from torch import nn

from rheos.core import Draws
from rheos.data import skewed
from rheos.distill import Budget, reflow_distill
from rheos.guidance import classifier_free
from rheos.nets import ResidualMLP
from rheos.objectives import L2, Matching, OnData, Perceptual
from rheos.paths import ExactField, Field, Path, matched
from rheos.samplers import Euler, sample

LABELS = torch.tensor([0, 2, 2, 1, 2, 0, 2, 2])
QUICK = {"pairs": 24, "steps": 3, "distill_steps": 2, "batch": 8}
STILL = {**QUICK, "optimizer": partial(torch.optim.SGD, lr=0.0), "rate": None, "average": None, "clip": None}


class Shifts(nn.Module):
    """A straight flow that moves by a learned vector a label, none: the last row. A linear layer that is 0 at first can be learned too."""

    event = (2,)

    def __init__(self, shifts):
        super().__init__()
        self.shifts = nn.Parameter(torch.tensor(shifts))
        self.layer = nn.Linear(3, 2)
        nn.init.zeros_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)

    def forward(self, x, t, cond=None):
        cond = torch.full((len(x),), -1) if cond is None else cond
        if bool((cond >= len(self.shifts) - 1).any()):
            raise ValueError(f"cond must be a class from 0 to {len(self.shifts) - 2}, got {int(cond.max())}")
        return self.shifts[cond] + self.layer(torch.cat([x, t[:, None]], 1))


def teacher():
    return Field(Shifts([[1.0, 0.0], [0.0, -2.0], [3.0, 1.0], [0.5, 0.5]]), Path.linear())


def euler(field, x, cond=None):
    return sample(field, start=x, cond=cond, rule=Euler(), steps=4)


# -- closed form -------------------------------------------------------------------------------------------------------------

def test_guidance_is_folded_in_once(seed):
    """Shifts guided by 1.5 are 0.5 + 1.5 (shift - 0.5) = 1.5 shift - 0.25; flow and student learn them and are asked once a step."""
    law = {"pairs": 64, "steps": 150, "batch": 32, "optimizer": partial(torch.optim.Adam, lr=0.05), "integrate": euler}
    flow, student = reflow_distill(teacher(), LABELS, 1, 60, guidance=1.5, seed=seed, **law)
    z, cond = Draws(seed).rows("z", 0, (9, 2)), torch.tensor([0, 1, 2] * 3)
    expected = z + 1.5 * teacher().net.shifts.detach()[cond] - 0.25
    for field, steps in ((flow, 3), (student, 1)):
        field.nfe = 0
        torch.testing.assert_close(sample(field, start=z, cond=cond, rule=Euler(), steps=steps), expected, rtol=0, atol=0.1)
        assert field.nfe == steps and not field.net.training


def test_one_step_is_the_start_plus_the_velocity_at_0():
    flow, student = reflow_distill(teacher(), LABELS, integrate=euler, **QUICK)
    z, cond = Draws(1).rows("z", 0, (5, 2)), LABELS[:5]
    torch.testing.assert_close(sample(student, start=z, cond=cond, rule=Euler(), steps=1), z + student.net(z, torch.zeros(5), cond), rtol=1e-6, atol=1e-6)


# -- who simulates what ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("rounds", [0, 1, 3])
def test_each_flow_simulates_the_next_ones_pairs_with_conditions_of_the_data(rounds, seed):
    asked, given = [], teacher()

    def integrate(field, x, cond):
        asked.append((field, x, cond))
        return euler(field, x, cond)

    flow, student = reflow_distill(given, LABELS, rounds, guidance=2.0, integrate=integrate, seed=seed, **{k: v for k, v in STILL.items()})
    assert len(asked) == rounds + 1
    first = asked[0][0]
    assert first.scale == 2.0 and first.field is given and all(not hasattr(field, "scale") for field, _, _ in asked[1:])
    assert asked[-1][0] is flow and (flow is first) == (rounds == 0)
    assert all(set(cond.tolist()) <= {0, 1, 2} and len(x) == 24 for _, x, cond in asked)
    counts = torch.cat([cond for _, _, cond in asked]).bincount(minlength=3).double()
    share = torch.tensor([0.25, 0.125, 0.625], dtype=torch.float64)
    assert bool(((counts / counts.sum() - share).abs() < 5 * (share * (1 - share) / counts.sum()).sqrt()).all())
    for (_, a, _), (_, b, _) in zip(asked, asked[1:], strict=False):
        assert not torch.equal(a, b)                                        # fresh starts
    assert torch.equal(student.net.shifts, given.net.shifts) and student.net is not given.net       # nothing learned at rate 0: begun as the teacher


def test_the_teacher_is_not_changed():
    given = teacher()
    before = [p.clone() for p in given.net.parameters()]
    given.net.train()
    _, student = reflow_distill(given, LABELS, guidance=2.0, integrate=euler, **QUICK)
    assert all(torch.equal(a, b) for a, b in zip(before, given.net.parameters(), strict=True)) and given.net.training
    assert not torch.equal(student.net.shifts, given.net.shifts)


def test_conditions_by_a_function_in_a_dict_or_none(seed):
    seen = []

    def draw(n, *, seed):
        seen.append(n)
        return seed.integers("label", 0, (n,), 2)

    reflow_distill(teacher(), draw, integrate=euler, seed=seed, **QUICK)
    assert seen == [24, 24]

    class Told(Shifts):
        def forward(self, x, t, cond=None):
            assert cond["place"].shape == (len(x), 2) and torch.equal(cond["place"][:, 0], cond["kind"].float())
            return super().forward(x, t, cond["kind"])

    cond = {"kind": LABELS, "place": torch.stack([LABELS.float(), 0 * LABELS], 1)}
    reflow_distill(Field(Told([[1.0, 0.0]] * 4), Path.linear()), cond, integrate=euler, seed=seed, **QUICK)
    flow, _ = reflow_distill(teacher(), integrate=euler, seed=seed, **QUICK)
    assert flow.path == Path.linear()


def test_a_two_sided_path_with_its_source_and_another_network(seed):
    field = Field(Shifts([[1.0, 0.0], [0.5, 0.5]]), Path.interpolant("none"))
    starts, law = [], skewed().to(torch.float32)
    flow, student = reflow_distill(field, source=law, net=Shifts([[0.0, 0.0], [0.0, 0.0]]), integrate=lambda f, x: starts.append(x) or x + 1, seed=seed,
                                   **(QUICK | {"pairs": 2000}))
    assert flow.path == student.path == field.path and flow.net.shifts.shape == (2, 2)
    error = 5 * law.sample(2000, seed=1).std(0) / 2000**0.5
    assert bool(((starts[0].mean(0) - law.sample(50_000, seed=1).mean(0)).abs() < 1.2 * error).all())


def test_an_exact_teacher_and_a_diffusion_model_brought_to_the_linear_path(seed):
    small = ResidualMLP((2,), width=8, depth=1)
    flow, _ = reflow_distill(ExactField(Path.linear(), skewed().to(torch.float32)), net=small, integrate=euler, seed=seed, **QUICK)
    assert type(flow.net) is ResidualMLP
    diffusion = Field(ResidualMLP((2,), width=8, depth=1), Path.vp(), "noise")
    flow, student = reflow_distill(matched(diffusion), integrate=euler, seed=seed, **QUICK)
    z = Draws(1).rows("z", 0, (5, 2))
    assert bool(sample(student, start=z, rule=Euler(), steps=1).isfinite().all())


def test_distillation_passes_through_its_metrics_in_turn():
    used = []

    class Spy(L2):
        def __call__(self, answer, target):
            used.append("square")
            return super().__call__(answer, target)

    features = lambda x: used.append("features") or x
    reflow_distill(teacher(), LABELS, integrate=euler, metrics=(Spy(), OnData(Perceptual(features))), **QUICK)
    assert used == ["square"] * 2 + ["features"] * 4                       # two minibatches each; features of the end and of the target


def test_same_seed_same_student(seed):
    a, b, c = (reflow_distill(teacher(), LABELS, guidance=1.5, integrate=euler, seed=s, **QUICK)[1].net.layer.weight for s in (seed, Draws(seed), seed + 1))
    assert torch.equal(a, b) and not torch.equal(a, c)


# -- budgets -----------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("guidance", [None, 2.0])
@pytest.mark.parametrize("rounds", [0, 1, 2])
def test_a_budget_counts_the_rows_that_pass(rounds, guidance):
    """Against a count of rows in the network itself; what is learned from passes once forward and counts as three."""
    rows = {True: 0, False: 0}

    class Counted(Shifts):
        def forward(self, x, t, cond=None):
            rows[self.training] += len(x)
            return super().forward(x, t, cond)

    reflow_distill(Field(Counted([[1.0, 0.0]] * 4), Path.linear()), LABELS, rounds, guidance=guidance, integrate=euler, **QUICK)
    budget = Budget(24, 3, 2, rounds, 8, 4, guidance is not None)
    assert rows[False] - budget.simulation == (guidance is not None)        # one row to see whether it can be asked without a condition
    assert 3 * rows[True] == budget.training and budget.total == budget.simulation + budget.training


def test_a_budget_counts_every_metric():
    rows = 0

    class Counted(Shifts):
        def forward(self, x, t, cond=None):
            nonlocal rows
            rows += len(x) if self.training else 0
            return super().forward(x, t, cond)

    reflow_distill(Field(Counted([[1.0, 0.0]] * 4), Path.linear()), LABELS, integrate=euler, metrics=(L2(), L2()), **QUICK)
    assert 3 * rows == Budget(24, 3, 2, 1, 8, 4, False, metrics=2).training


def test_one_metric_needs_no_tuple_and_a_source_may_be_rows():
    alone, tupled = (reflow_distill(teacher(), LABELS, integrate=euler, metrics=m, **QUICK)[1].net.layer.weight for m in (L2(), (L2(),)))
    assert torch.equal(alone, tupled)
    begins = []
    rows = torch.arange(48.0).reshape(24, 2)
    reflow_distill(teacher(), LABELS, source=rows, integrate=lambda f, x, c: begins.append(x) or x, **QUICK)
    assert len(begins) == 2 and all(torch.equal(x.sort(0).values, rows) for x in begins)
    reflow_distill(teacher(), LABELS, source=torch.arange(60.0).reshape(30, 2), integrate=lambda f, x, c: begins.append(x) or x, **QUICK)
    assert begins[-1].shape == (24, 2) and not torch.equal(begins[-1], begins[-2])


def test_direct_steps_spend_the_whole_budget_and_no_more():
    budget = Budget(1000, 1500, 700, 1, 256, 50)
    direct = [Budget(1000, 1500, budget.direct_steps + more, 0, 256, 50).total for more in (0, 1)]
    assert direct[0] <= budget.total < direct[1]


@pytest.mark.parametrize(("change", "error", "message"), [
    ({"rounds": -1}, ValueError, "rounds must be at least 0, got -1"), ({"distill_steps": 0}, ValueError, "distill_steps must be at least 1"),
    ({"pairs": 0}, ValueError, "pairs must be at least 1"), ({"steps": 0}, ValueError, "steps must be at least 1"),
    ({"guidance": -1.0}, ValueError, "guidance must lie in"), ({"metrics": ()}, ValueError, "metrics must hold at least one"),
    ({"teacher": Shifts([[1.0, 0.0]])}, TypeError, None),
    ({"teacher": Field(Shifts([[1.0, 0.0]]), Path.vp())}, ValueError, r"teacher must predict a velocity on Path.linear.*rheos.paths.matched\(teacher\)"),
    ({"teacher": Field(Shifts([[1.0, 0.0]]), Path.linear(), "data")}, ValueError, "teacher must predict a velocity on .* got data on"),
    ({"teacher": Field(lambda x, t, cond: x, Path.linear()), "integrate": lambda f, x, c: x}, TypeError, "net must be given"),
    ({"conditions": None}, ValueError, "conditions must be given: guidance needs something to steer towards"),
    ({"teacher": classifier_free(teacher(), 2.0)}, ValueError, "the teacher is guided already, by 2"),
    ({"teacher": classifier_free(teacher(), 2.0), "guidance": None, "conditions": None}, ValueError, "conditions must be given"),
    ({"conditions": torch.tensor([0, 3])}, ValueError, "cond must be a class from 0 to 2, got 3"),
    ({"conditions": torch.tensor(1)}, TypeError, "conditions must be tensors with a row each"),
    ({"conditions": [0, 1]}, TypeError, None),
    ({"objective": Matching(Path.vp())}, ValueError, "objective must learn a velocity on the teacher's path"),
    ({"objective": Matching(Path.linear(), "data")}, ValueError, "objective must learn a velocity on the teacher's path, got .*data"),
    ({"objective": Matching(Path.linear(), unit_input=True)}, ValueError, "objective must have the unit_input of the teacher, .* False, got True"),
    ({"source": 3.0}, TypeError, "source must be a tensor .* or have a method sample.* got float"),
    ({"batchs": 3}, ValueError, "a setting of reflow_distill must be one of .*batchs"),
    ({"batchs": 3, "rounds": 0}, ValueError, "a setting of reflow_distill must be one of .*batchs"),
])
def test_refusals(change, error, message):
    given = {"teacher": teacher(), "conditions": LABELS, "guidance": 1.5, "integrate": euler, **QUICK} | change
    with pytest.raises(error, match=message):
        reflow_distill(**given)


class NoNull(nn.Module):
    """Knows classes 0 to 2 only."""

    event = (2,)

    def __init__(self, missing):
        super().__init__()
        self.table, self.missing = nn.Embedding(3, 2), missing

    def forward(self, x, t, cond=None):
        return x + (self.table(cond) if self.missing == "raises" else torch.where(cond[:, None] < 0, torch.nan, self.table(cond.clamp_min(0))))


@pytest.mark.parametrize("missing", ["raises", "is nan"])
def test_guidance_on_a_network_without_null_is_refused_before_anything_is_simulated(missing):
    def integrate(field, x, cond):
        raise AssertionError("simulated")

    with pytest.raises(ValueError, match="guidance needs a network that can be asked without its condition"):
        reflow_distill(Field(NoNull(missing), Path.linear()), LABELS, guidance=2.0, integrate=integrate, **QUICK)


@pytest.mark.parametrize(("change", "error"), [({"pairs": 0}, ValueError), ({"rounds": -1}, ValueError), ({"batch": 1.5}, TypeError), ({"guided": 1}, TypeError),
                                                ({"metrics": 0}, ValueError)])
def test_budget_refusals(change, error):
    with pytest.raises(error):
        Budget(**({"pairs": 10, "steps": 5, "distill_steps": 5} | change))
