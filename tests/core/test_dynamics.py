"""evolve: the loop, its ends, its watchers; states are copied on entry and come back from disk to the bit."""
import json
import os
import signal
import sys
from collections import deque
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rheos.core import Checkpoint, Draws, NonFinite, StopWhen, Trace, copy_state, evolve, latest_checkpoint, load_state, raising_interrupts, save_state, shared
from rheos.core.files import load_tensors, rheos_class, save_tensors
from rheos.core.states import same
from rheos.core.watchers import read_rows


@dataclass
class Point:
    x: Tensor
    step: int = 0


@dataclass(frozen=True)
class Shrink:
    rate: float = 0.5
    in_place: bool = False
    bad_at: int = -1

    def step(self, state):
        if state.step == self.bad_at:
            raise NonFinite(state.step, "x", "nan")
        if self.in_place:
            state.x.mul_(1 - self.rate)
            state.step += 1
            return state
        return Point(state.x * (1 - self.rate), state.step + 1)


class Pair(NamedTuple):
    a: Tensor
    b: int


@dataclass
class Everything:
    tensor: Tensor
    net: nn.Module
    optimizer: torch.optim.Optimizer
    history: deque
    nested: dict[Any, Any]
    pair: Pair
    array: np.ndarray
    generator: torch.Generator
    number: float
    wave: complex
    kind: torch.dtype
    frozen: list = shared(default_factory=list)
    nothing: None = None
    step: int = 0


def everything(fill: float = 1.0) -> Everything:
    with Draws(0).scope(int(fill)):
        net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
        optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
        net(torch.randn(5, 3)).square().sum().backward()
        optimizer.step()
        return Everything(torch.randn(3, 2, dtype=torch.complex128), net, optimizer, deque([torch.randn(2), 3.5], maxlen=4),
                          {1: [torch.ones(2, dtype=torch.bool), (None, "text", float("inf"))], "k": {"deep": torch.tensor(fill)}},
                          Pair(torch.arange(4), 7), np.array([[1.5, fill]]), torch.Generator().manual_seed(int(fill)), 0.1 * fill, 1 + 2j,
                          torch.bfloat16, [object()], step=int(fill))


@pytest.fixture(autouse=True)
def _ctrl_c_arrives():
    """Whoever runs the tests may have SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


# -- the loop --------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("in_place", [False, True])
def test_steps_are_taken_and_the_callers_state_is_kept(in_place):
    start = Point(torch.tensor([8.0, -4.0]))
    end = evolve(Shrink(0.5, in_place), start, 3)
    assert end.x.tolist() == [1.0, -0.5] and end.step == 3
    assert start.x.tolist() == [8.0, -4.0] and start.step == 0


def test_donated_state_is_used_up():
    start = Point(torch.tensor([8.0]))
    evolve(Shrink(in_place=True), start, 1, donate=True)
    assert start.x.item() == 4.0


def test_until_and_stop_when_end_the_run_where_they_hold():
    start = Point(torch.tensor([8.0]))
    below = lambda s: bool(s.x < 1.5)
    assert evolve(Shrink(), start, until=below).step == 3
    assert evolve(Shrink(), start, 2, until=below).step == 2
    assert evolve(Shrink(), start, watch=[StopWhen(below)]).step == 3
    assert evolve(Shrink(), Point(torch.tensor([1.0])), until=below).step == 0


def test_gradients_flow_through_a_run():
    x = torch.tensor([3.0], requires_grad=True)
    evolve(Shrink(0.5), Point(x), 4).x.sum().backward()
    assert x.grad.item() == 0.5**4


def test_watchers_see_every_step_in_order_and_are_closed():
    seen = []

    class Look:
        def begin(self, state, steps):
            seen.append(("begin", state.step, steps))

        def __call__(self, step, state):
            seen.append((step, state.x.item()))

        def end(self, state, clean):
            seen.append(("end", state.step, clean))

    evolve(Shrink(), Point(torch.tensor([8.0])), 2, watch=[Look()])
    assert seen == [("begin", 0, 2), (1, 4.0), (2, 2.0), ("end", 2, True)]


@pytest.mark.parametrize(("error", "clean"), [(NonFinite, True), (ZeroDivisionError, False)])
def test_watchers_learn_whether_the_state_can_be_trusted(error, clean):
    told = []

    class Look:
        def __call__(self, step, state): ...

        def end(self, state, clean):
            told.append((state.step, clean))

    @dataclass(frozen=True)
    class Fails(Shrink):
        def step(self, state):
            if state.step == 2:
                raise NonFinite(2, "x", 1) if error is NonFinite else error
            return super().step(state)

    with pytest.raises(error):
        evolve(Fails(), Point(torch.ones(1)), 5, watch=[Look()])
    assert told == [(2, clean)]


def test_ctrl_c_ends_after_the_step_with_the_state_saved(tmp_path):
    kill = lambda step, state: os.kill(os.getpid(), signal.SIGINT) if step == 3 else None
    before = signal.getsignal(signal.SIGINT)
    end = evolve(Shrink(), Point(torch.tensor([64.0])), 10, watch=[kill, Checkpoint(tmp_path, 100)])
    assert end.step == 3 and end.x.item() == 8.0
    assert load_state(latest_checkpoint(tmp_path), Point(torch.zeros(1))).x.item() == 8.0
    assert signal.getsignal(signal.SIGINT) is before


def test_the_second_ctrl_c_raises_at_once():
    def kill(step, state):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        evolve(Shrink(), Point(torch.ones(1)), 10, watch=[kill])


def test_ctrl_c_in_a_run_inside_a_watcher_ends_both_runs():
    inner = []

    def nested(step, state):
        kill = lambda s, _: os.kill(os.getpid(), signal.SIGINT) if s == 2 else None
        inner.append(evolve(Shrink(), Point(torch.ones(1)), 5, watch=[kill]).step)

    assert evolve(Shrink(), Point(torch.ones(1)), 9, watch=[nested]).step == 1 and inner == [2]


def test_a_non_finite_step_names_step_figure_and_where_the_last_good_state_is(tmp_path):
    with pytest.raises(NonFinite, match=r"x is nan at step 4; the last good state is saved in .*step-000000004") as caught:
        evolve(Shrink(bad_at=4), Point(torch.tensor([16.0])), 10, watch=[Checkpoint(tmp_path, 3)])
    assert caught.value.state.x.item() == 1.0
    with pytest.raises(NonFinite, match=r"last good state is in the error's \.state"):
        evolve(Shrink(bad_at=0), Point(torch.ones(1)), 1)


def test_evolve_refuses():
    with pytest.raises(ValueError, match="the run would never end"):
        evolve(Shrink(), Point(torch.ones(1)))
    with pytest.raises(ValueError, match="steps must be at least 0, got -1"):
        evolve(Shrink(), Point(torch.ones(1)), -1)
    with pytest.raises(TypeError, match="step"):
        evolve(Shrink(), torch.ones(1), 1)
    with pytest.raises(TypeError, match="step"):
        evolve(object(), Point(torch.ones(1)), 1)


# -- states ------------------------------------------------------------------------------------------------------------------

def test_a_copy_shares_nothing_but_what_is_shared():
    a = everything()
    b = copy_state(a)
    assert same(a, b) is None and b.frozen is a.frozen
    b.optimizer.zero_grad()
    b.net(torch.ones(4, 3)).square().sum().backward()
    b.optimizer.step()                                     # the copied optimiser moves the copied network
    assert "net" in same(a, b)
    assert same(a, everything()) is None
    c = copy_state(a)
    c.nested["k"]["deep"].add_(1)
    c.pair.a.add_(1)
    c.array += 1
    torch.rand(1, generator=c.generator)
    assert same(a, everything()) is None


def test_a_tensor_held_twice_is_still_one_tensor_in_the_copy():
    x = torch.ones(2)
    copied = copy_state([x, {"again": x}])
    assert copied[0] is copied[1]["again"] and copied[0] is not x


def test_saved_states_come_back_to_the_bit(tmp_path):
    state = everything(3.0)
    back = load_state(save_state(tmp_path / "s.safetensors", state), everything(1.0))
    assert same(state, back) is None and isinstance(back.pair, Pair) and back.history.maxlen == 4
    assert torch.equal(torch.rand(3, generator=state.generator), torch.rand(3, generator=back.generator))


def test_same_tells_states_apart_and_where():
    a, b = Point(torch.tensor([1.0, float("nan")])), Point(torch.tensor([1.0, float("nan")]))
    assert same(a, b) is None
    assert same(a, Point(torch.tensor([1.0, 2.0]))).startswith("x differs")
    assert "float64" in same(a, Point(a.x.double())) and same(a, Point(a.x, 1)).startswith("numbers or structure differ")


def test_what_cannot_be_saved_is_named(tmp_path):
    @dataclass
    class Odd:
        inner: dict
        step: int = 0

    with pytest.raises(TypeError, match="inner.key holds a function"):
        save_state(tmp_path / "s", Odd({"key": lambda: 0}))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("change", "message"), [
    (lambda s: setattr(s, "net", nn.Linear(3, 2)), r"differs at net: .*size mismatch|Missing key|Unexpected key"),
    (lambda s: setattr(s, "tensor", torch.zeros(3, 2)), r"differs at tensor: the file has a tensor \(3, 2\) of torch.complex128, this run has a tensor \(3, 2\) of torch.float32"),
    (lambda s: setattr(s, "net", None), "differs at net: the file has a module, this run has nothing"),
])
def test_a_state_of_another_shape_is_refused_by_path(tmp_path, change, message):
    save_state(tmp_path / "s", everything())
    template = everything()
    change(template)
    with pytest.raises(ValueError, match=message):
        load_state(tmp_path / "s", template)


def test_a_state_of_another_class_or_format_is_refused(tmp_path):
    save_state(tmp_path / "s", Point(torch.ones(1)))
    with pytest.raises(ValueError, match="the file has a Point, this run has a Everything"):
        load_state(tmp_path / "s", everything())
    tensors, metadata = load_tensors(tmp_path / "s")
    header = json.loads(metadata["rheos"]) | {"format": 99}
    save_tensors(tmp_path / "t", tensors, {"rheos": json.dumps(header)})
    with pytest.raises(ValueError, match="checkpoint format 99, this version of rheos reads 1"):
        load_state(tmp_path / "t", Point(torch.ones(1)))
    save_tensors(tmp_path / "u", tensors)
    with pytest.raises(ValueError, match="is not a rheos checkpoint"):
        load_state(tmp_path / "u", Point(torch.ones(1)))


@pytest.mark.parametrize("size", [0, 3, 9, 40, -1])
def test_a_damaged_checkpoint_is_one_clear_error(tmp_path, size):
    whole = save_state(tmp_path / "s", everything()).read_bytes()
    (tmp_path / "s").write_bytes(whole[:size])
    with pytest.raises(ValueError, match=r"s is damaged: not a safetensors file"):
        load_state(tmp_path / "s", everything())


def test_a_crash_before_the_rename_leaves_the_old_file_good(tmp_path, monkeypatch):
    path = save_state(tmp_path / "s", Point(torch.tensor([1.0])))
    monkeypatch.setattr(os, "replace", lambda *a: (_ for _ in ()).throw(OSError("power cut")))
    with pytest.raises(OSError, match="power cut"):
        save_state(path, Point(torch.tensor([2.0])))
    monkeypatch.undo()
    assert load_state(path, Point(torch.zeros(1))).x.item() == 1.0 and [p.name for p in tmp_path.iterdir()] == ["s"]


def test_saving_over_the_file_being_read_is_safe(tmp_path):
    path = save_state(tmp_path / "s", Point(torch.arange(1000.0)))
    held = load_state(path, Point(torch.zeros(1000)))
    save_state(path, Point(held.x * 2))
    assert held.x.sum().item() == 499500.0 and load_state(path, Point(torch.zeros(1000))).x.sum().item() == 999000.0


# -- watchers ----------------------------------------------------------------------------------------------------------------

def test_checkpoints_come_when_due_and_only_the_last_are_kept(tmp_path):
    evolve(Shrink(), Point(torch.ones(1)), 11, watch=[Checkpoint(tmp_path, 4, keep=2)])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000000008.safetensors", "step-000000011.safetensors"]


def test_a_trace_keeps_rows_and_a_resumed_run_tells_no_step_twice(tmp_path):
    path, figures = tmp_path / "trace.jsonl", {"x": lambda s: s.x.sum()}
    start = Point(torch.tensor([8.0]))
    half = evolve(Shrink(), start, 4, watch=[Trace(figures, every=2, path=path)])
    evolve(Shrink(), half, 6, watch=[Trace(figures, every=2, path=path)])            # went on to step 10, then "crashed"
    again = Trace(figures, every=2, path=path)
    evolve(Shrink(), half, 4, watch=[again])
    rows = [(r["step"], r["x"]) for r in read_rows(path)]
    assert rows == [(2, 2.0), (4, 0.5), (6, 0.125), (8, 0.03125)] and again.rows == read_rows(path)


def test_a_trace_cut_short_by_a_crash_is_read_up_to_there(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text('{"step": 1, "x": 2.0}\n{"step": 2, "x"')
    assert read_rows(path) == [{"step": 1, "x": 2.0}]
    path.write_text('{"step": 1, "x"\n{"step": 2, "x": 1}\n')
    with pytest.raises(ValueError, match="damaged at line 1"):
        read_rows(path)


# -- classes named in files --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", ["os.system", "rheos.core.files.os.system", "rheos.core.files.os", "torch.nn.Linear", "rheos.core.files.write_bytes",
                                  "rheos.nets.mlp.nn.Linear", "rheos.nets.nn", "rheos.nets.keep_condition", "rheos", "rheos.", "rheos.nets.", "rheos.paths.Path",
                                  "rheos.cli.__main__.main", "rheos.nets.__import__('os')", "", None, 3, ["rheos.nets.ResidualMLP"]])
def test_hostile_class_names_are_refused_and_nothing_is_imported(name):
    with pytest.raises(ValueError, match="is not a rheos class of nets|does not exist in this version"):
        rheos_class(name, rooms=("nets",))
    assert "rheos.cli.__main__" not in sys.modules


def test_public_rheos_classes_are_found():
    from rheos.nets import ResidualMLP

    assert rheos_class("rheos.nets.ResidualMLP", rooms=("nets", "paths")) is ResidualMLP


# -- more ways in which files and states could go wrong ------------------------------------------------------------------------

def test_fields_whose_paths_read_alike_are_kept_apart(tmp_path):
    @dataclass
    class Clash:
        content: dict
        step: int = 0

    ones, twos, threes = torch.ones(2), 2 * torch.ones(2), 3 * torch.ones(2)
    state = Clash({1: ones, "1": twos, "a.b": threes, "a": {"b": ones}})
    back = load_state(save_state(tmp_path / "s", state), Clash({1: ones, "1": ones, "a.b": ones, "a": {"b": ones}}))
    assert same(state, back) is None and back.content["1"].tolist() == [2.0, 2.0] and back.content["a.b"].tolist() == [3.0, 3.0]
    with pytest.raises(TypeError, match=r"content has the key \(1, 2\); keys must be text or numbers"):
        save_state(tmp_path / "t", Clash({(1, 2): ones}))
    with pytest.raises(TypeError, match="content.k holds a torch.sparse_coo tensor"):
        save_state(tmp_path / "t", Clash({"k": torch.eye(2).to_sparse()}))


def test_a_parameter_beside_its_optimiser_is_still_trained_after_the_copy():
    @dataclass
    class Learner:
        w: nn.Parameter
        again: Tensor
        optimizer: torch.optim.Optimizer
        step: int = 0

    @dataclass(frozen=True)
    class Fit:
        def step(self, state):
            state.optimizer.zero_grad()
            ((state.w - 3) ** 2).sum().backward()
            state.optimizer.step()
            state.step += 1
            return state

    w = nn.Parameter(torch.zeros(2))
    start = Learner(w, w, torch.optim.SGD([w], lr=0.1))
    end = evolve(Fit(), start, 60)
    torch.testing.assert_close(end.w.detach(), torch.full((2,), 3.0), atol=1e-4, rtol=0)
    assert end.again is end.w and float(w.abs().max()) == 0


def header(path, **changes):
    tensors, metadata = load_tensors(path)
    save_tensors(path, tensors, {"rheos": json.dumps(json.loads(metadata["rheos"]) | changes)})


@pytest.mark.parametrize("changes", [
    {"state": None}, {"state": 3}, {"state": {"dataclass": "Point", "fields": [["x", {"tensor": "x"}], ["step", "x"]]}},
    {"state": {"dataclass": "Point", "fields": [["x", {"tensor": "x"}], ["step", None]]}},
    {"state": {"dataclass": "Point", "fields": [["x", {"tensor": "x"}], ["step", -5]]}},
    {"state": {"dataclass": "Point", "fields": [["x", {"tensor": "y"}], ["step", 1]]}},
    {"state": {"dataclass": "Point", "fields": [["x", {"dtype": "save"}], ["step", 1]]}}, {"complex": ["x"]}, {"complex": 7},
])
def test_a_damaged_header_is_one_clear_error(tmp_path, changes):
    path = save_state(tmp_path / "s", Point(torch.ones(3)))
    header(path, **changes)
    with pytest.raises(ValueError, match="^[^\n]*/s"):
        load_state(path, Point(torch.zeros(3)))


def test_a_tensor_of_another_shape_is_refused_by_path(tmp_path):
    save_state(tmp_path / "s", Point(torch.ones(5)))
    with pytest.raises(ValueError, match=r"differs at x: the file has a tensor \(5,\) of torch.float32, this run has a tensor \(3,\)"):
        load_state(tmp_path / "s", Point(torch.ones(3)))


def test_a_checkpoint_of_another_run_is_refused_by_setting(tmp_path):
    about = {"rate": 0.1, "seed": 3}
    evolve(Shrink(), Point(torch.ones(1)), 2, watch=[Checkpoint(tmp_path, 1, about=about)])
    path = latest_checkpoint(tmp_path)
    assert load_state(path, Point(torch.zeros(1)), about=about).step == 2
    with pytest.raises(ValueError, match=r"was saved by another run: rate was 0.1, is 0.2, width was None, is 5"):
        load_state(path, Point(torch.zeros(1)), about={"rate": 0.2, "seed": 3, "width": 5})


def test_watchers_can_be_used_again_and_all_are_closed(tmp_path):
    save, trace = Checkpoint(tmp_path, 100), Trace({"x": lambda s: s.x.sum()})
    evolve(Shrink(), Point(torch.tensor([8.0])), 2, watch=[save, trace])
    evolve(Shrink(), Point(torch.tensor([4.0])), 2, watch=[save, trace])
    assert load_state(latest_checkpoint(tmp_path), Point(torch.zeros(1))).x.item() == 1.0 and [r["x"] for r in trace.rows] == [2.0, 1.0]
    closed = []

    class Closes:
        def __init__(self, fails):
            self.fails = fails

        def __call__(self, step, state): ...

        def end(self, state, clean):
            closed.append(self.fails)
            if self.fails:
                raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        evolve(Shrink(), Point(torch.ones(1)), 1, watch=[Closes(False), Closes(True), Closes(False)])
    assert closed == [False, True, False]


def test_inside_raising_interrupts_ctrl_c_raises():
    kill = lambda step, state: os.kill(os.getpid(), signal.SIGINT)
    with raising_interrupts(), pytest.raises(KeyboardInterrupt):
        evolve(Shrink(), Point(torch.ones(1)), 5, watch=[kill])
    assert evolve(Shrink(), Point(torch.ones(1)), 5, watch=[kill]).step == 1
