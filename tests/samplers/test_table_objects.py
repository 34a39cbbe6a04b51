"""Tables as objects: numbers a coordinate, constants, gradients, inverses, files; steps written as combinations of the history."""
import copy

import pytest
import torch

from rheos.core import evolve
from rheos.data import GaussianMixture
from rheos.paths import LAM, ExactField, Field, Path, T, Times, U
from rheos.samplers import DDIM, DPMSolverPP, Exponential, Multistep, Row, Table, UniPC, sample
from rheos.samplers.combinations import Combination, History

F64 = torch.float64
PATH = Path.vp()
MEAN, SPREAD = torch.tensor([[0.7, -1.2]], dtype=F64), torch.tensor([[0.3, 1.7]], dtype=F64)
FIELD = ExactField(PATH, GaussianMixture(torch.ones(1, dtype=F64), MEAN, SPREAD))
START = torch.tensor([[1.0, -0.5], [-2.0, 0.3], [0.1, 2.2]], dtype=F64)


def by_hand(table, start=START):
    """The definition, written out: points and predictions in two lists, oldest first."""
    points, asked, x = [], [], start
    for i, row in enumerate(table.predict):
        asked.append(FIELD(x, float(table.times.t[i])).of(table.kind))
        mend = table.correct[i - 1] if i else None
        if mend is not None:
            x = sum(a * points[-1 - j] for j, a in enumerate(mend.a)) + sum(w * asked[-1 - j] for j, w in enumerate(mend.w)) + mend.c
        points.append(x)
        x = sum(a * points[-1 - j] for j, a in enumerate(row.a)) + sum(w * asked[-1 - j] for j, w in enumerate(row.w)) + row.c
    return x


def odd_table():
    """Numbers a coordinate, constants, several points, a corrector with a constant of its own."""
    times = Times(PATH, [0.1, 0.25, 0.5, 0.8])
    each = lambda u, v: torch.tensor([u, v], dtype=F64)
    rows = (Row((each(0.9, 1.1),), (0.2,), c=each(0.1, -0.3)), Row((1.4, -0.3), (each(0.3, 0.1), -0.1)), Row((0.5, 0.2, each(0.1, 0.4)), (0.3, 0.2, 0.1), c=0.25))
    return Table(times, "noise", rows, (Row((0.8,), (0.1, each(0.1, 0.3)), c=-0.2), Row((1.1, -0.1), (0.05, 0.2)), None))


# -- definition --------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("table", [odd_table(), UniPC(3).plan(Times.uniform(PATH, 6, LAM)), DPMSolverPP(2).plan(Times.uniform(PATH, 4))], ids=["odd", "unipc", "dpm"])
def test_a_run_is_the_written_out_definition(table):
    torch.testing.assert_close(sample(FIELD, start=START, rule=table), by_hand(table), rtol=1e-12, atol=1e-12)


def test_numbers_that_are_all_alike_are_those_of_a_plain_table():
    plain = UniPC(2).plan(Times.uniform(PATH, 5, LAM))
    wide = lambda row: None if row is None else Row(tuple(torch.full((2,), a, dtype=F64) for a in row.a), tuple(torch.full((2,), w, dtype=F64) for w in row.w),
                                                    c=torch.zeros(2, dtype=F64))
    same = Table(plain.times, plain.kind, tuple(map(wide, plain.predict)), tuple(map(wide, plain.correct)))
    torch.testing.assert_close(sample(FIELD, start=START, rule=same), sample(FIELD, start=START, rule=plain), rtol=1e-13, atol=1e-13)
    assert same.event == (2,) and plain.event is None


# -- files ---------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("table", [odd_table(), UniPC(3).plan(Times.uniform(PATH, 6, LAM))], ids=["odd", "unipc"])
def test_saved_and_loaded_to_the_bit(table, tmp_path):
    file = table.save(tmp_path / "t.json", note="for a test")
    found = Table.load(file)
    assert found.predict == table.predict and found.correct == table.correct and found.times == table.times and found.kind == table.kind
    assert torch.equal(sample(FIELD, start=START, rule=found), sample(FIELD, start=START, rule=table))
    assert found == table and hash(found) == hash(table) and found != table.edited(0, c=0.7) and found != table.kind
    assert "3 calls" in str(found) or "6 calls" in str(found)


def test_rows_tell_themselves_apart():
    each = torch.tensor([1.0, 2.0])
    assert Row((each,), (0.5,)) == Row((each.clone(),), (0.5,)) and Row((each,), (0.5,)) != Row((each + 1,), (0.5,)) != Row((1.0,), (0.5,))
    assert Row((1.0,), (0.5,), c=0.1) != Row((1.0,), (0.5,)) and Row((1.0,), (0.5,), s=0.1) != Row((1.0,), (0.5,))
    assert Row((torch.tensor(1.0),), (0.5,)) == Row((1.0,), (0.5,))


# -- gradients -----------------------------------------------------------------------------------------------------------------

def test_gradients_through_a_table_are_finite_differences():
    times = Times(PATH, [0.1, 0.3, 0.6, 0.9])
    plan = DPMSolverPP(2, lower_at_end=False).plan(times)

    def end(w, a):
        return sample(FIELD, start=START, rule=plan.edited(1, w=(w, plan.predict[1].w[1]), a=(a,))).square().sum()

    at = torch.tensor([float(plan.predict[1].w[0]), float(plan.predict[1].a[0])], dtype=F64)
    w, a = (v.clone().requires_grad_() for v in at)
    end(w, a).backward()
    for k, found in enumerate((w.grad, a.grad)):
        step = 1e-6 * torch.eye(2, dtype=F64)[k]
        assert float(found) == pytest.approx(float(end(*(at + step)) - end(*(at - step))) / 2e-6, rel=1e-6)
    assert not sample(FIELD, start=START, rule=plan).requires_grad


# -- inverses ------------------------------------------------------------------------------------------------------------------

def leapfrog(steps):
    """x_{i+1} = .3 x_i + .7 x_{i-1} + w p_i: two points, one prediction, begun by one step of DDIM."""
    times = Times.uniform(PATH, steps, T, start=0.05, end=0.9)
    rows = [DDIM().plan(times).predict[0]] + [Row((0.3, torch.tensor([0.7, 1.2], dtype=F64)), (0.4 / steps,), c=0.01 * i) for i in range(1, steps)]
    return Table(times, "data", tuple(rows))


def test_there_and_back():
    table = leapfrog(12)
    run = Multistep(FIELD, table, keep=1)
    end = evolve(run, run.init(START), 12)
    back = Multistep(FIELD, table.inverse())
    found = evolve(back, back.init(end.points[0], [end.x]), back.table.nfe)
    assert back.table.nfe == 11
    torch.testing.assert_close(found.x, START, rtol=0, atol=1e-12)


@pytest.mark.parametrize("table", [UniPC(2).plan(Times.uniform(PATH, 4, LAM)), DDIM().plan(Times.uniform(PATH, 4, LAM)),
                                   DPMSolverPP(2, tau=1.0).plan(Times.uniform(PATH, 4, LAM)), DDIM().plan(Times.uniform(PATH, 1))], ids=str)
def test_only_what_can_be_solved_is_inverted(table):
    with pytest.raises(ValueError, match="exactly invertible table|cannot be solved for its earlier point"):
        table.inverse()


# -- combinations --------------------------------------------------------------------------------------------------------------

def test_combinations_add_and_scale():
    x, p = Combination.point, Combination.prediction
    found = 2.0 * x(1) - (x(0) + 3.0 * p(1)) / 4.0 + 0.5 * p(0) + 1.5
    row = found.row(1)
    assert row == Row((2.0, -0.25), (-0.75, 0.5), c=1.5)
    assert (p(2) + x(1)).row(1, ahead=True) == Row((1.0,), (1.0,))
    assert sum([x(0), x(0)], Combination()).row(0) == Row((2.0,), ())
    for wrong, ahead in ((x(2), False), (p(2), False), (x(2), True), (p(3), True)):
        with pytest.raises(ValueError, match="cannot use points"):
            wrong.row(1, ahead=ahead)


@pytest.mark.parametrize("corrector", [0, 2])
@pytest.mark.parametrize(("kind", "other"), [("data", "noise"), ("noise", "data")])
def test_a_rule_of_one_kind_as_a_table_of_the_other(kind, other, corrector):
    """Every prediction is read as the other kind at the point where it was made, mended points included: the same samples to rounding."""
    times = Times(PATH, [0.1, 0.2, 0.35, 0.6, 0.7, 0.95])
    plan = Exponential(2, kind, U, corrector=corrector).plan(times)
    history = History(other, times)
    read = getattr(history, kind)
    for i, (row, mend) in enumerate(zip(plan.predict, plan.correct, strict=True)):
        made = lambda row, newest, i=i: row.a[0] * Combination.point(i) + sum((w * read(newest - j) for j, w in enumerate(row.w)), Combination())
        history.add(made(row, i), None if mend is None else lambda made=made, mend=mend, i=i: made(mend, i + 1))
    table = history.table(times, rule="turned")
    assert table.kind == other and table.origin == {"rule": "turned"}
    torch.testing.assert_close(sample(FIELD, start=START, rule=table), sample(FIELD, start=START, rule=plan), rtol=1e-11, atol=1e-11)


def test_what_is_not_there_cannot_be_read():
    history = History("noise", Times(Path.linear(), [0.0, 0.5, 1.0]))
    with pytest.raises(ValueError, match="data cannot be read off noise at time number 0"):
        history.data(0)
    with pytest.raises(ValueError, match="kind must be one of"):
        History("velocity", Times(Path.linear(), [0.0, 1.0]))


# -- refusals ------------------------------------------------------------------------------------------------------------------

def test_refusals(tmp_path):
    times = Times(PATH, [0.1, 0.5, 0.9])
    with pytest.raises(ValueError, match="finite"):
        Row((torch.tensor([1.0, float("nan")]),), (1.0,))
    with pytest.raises(ValueError, match="reaches further back than the 2 points"):
        Table(times, "data", (Row((1.0, 0.0, 0.5), (1.0,)), Row((1.0,), (1.0,))), before=1)
    with pytest.raises(ValueError, match="before"):
        Table(times, "data", (Row((1.0,), (1.0,)),) * 2, before=-1)
    begun = Table(times, "data", (Row((1.0, 0.5), (1.0,)), Row((1.0,), (1.0,))), before=1)
    with pytest.raises(ValueError, match="before must hold 1 earlier points"):
        sample(FIELD, start=START, rule=begun)
    wide = Table(times, "data", (Row((torch.ones(3, dtype=F64),), (1.0,)), Row((1.0,), (1.0,))))
    with pytest.raises(ValueError, match=r"numbers of shape \(3,\), which do not fit samples of shape \(2,\)"):
        sample(FIELD, start=START, rule=wide)
    with pytest.raises(ValueError, match="the table was planned for"):
        sample(Field(lambda x, t, cond: x, Path.linear()), start=START, rule=wide)
    good = DDIM().plan(times).to_json()
    for level in (float("nan"), "a"):
        with pytest.raises((ValueError, TypeError), match="epsilon"):
            Table.from_json({**good, "epsilon": [level, 0.0]})
    with pytest.raises(ValueError, match="row must be one of the table's 2, got 99"):
        DDIM().plan(times).edited(99, s=0.1)
    with pytest.raises(TypeError, match="a of a table row must hold numbers|parameter 'a'"):
        Row("12", (1.0,))
    for name, change in (("empty", {}), ("format", {"format": 2, "table": good}), ("list", [1]), ("row", {"format": 1, "table": {**good, "predict": [7]}}),
                         ("short", {"format": 1, "table": {**good, "t": [0.1, 0.5]}}), ("text", {"format": 1, "table": {**good, "predict": [{"a": ["x"], "w": [], "s": 0}] * 2}})):
        import json

        file = tmp_path / f"{name}.json"
        file.write_text(json.dumps(copy.deepcopy(change)))
        with pytest.raises(ValueError, match=str(file)):
            Table.load(file)
    with pytest.raises(FileNotFoundError):
        Table.load(tmp_path / "none.json")
