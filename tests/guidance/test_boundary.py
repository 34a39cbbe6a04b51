"""One start for all conditions: brute force, a known best start, stochastic samplers told apart, refusals."""
import pytest
import torch

from rheos.core import Draws
from rheos.data import GaussianMixture
from rheos.guidance.boundary import best_boundary, boundary_scores, rms_distance
from rheos.paths import ExactField, Path, Times
from rheos.samplers import DDIM, DDPM, sample

F64 = torch.float64
TRUTH = torch.tensor([[1.0, 2.0, -1.0], [0.5, -3.0, 4.0], [2.5, 0.0, 1.0], [-1.0, 1.0, 0.3]], dtype=F64)
COND = TRUTH[:, :2] * 2
bent = lambda z, y: torch.cat([y / 2, y[:, :1] - y[:, 1:]], 1) + z.square() - 0.3 * z      # at each z another error, and one that no z takes away


def test_brute_force(seed):
    """Every start with every pair, one at a time."""
    found = best_boundary(bent, (TRUTH, COND), 7, seed=seed)
    scores = torch.stack([torch.stack([(bent(z[None], COND[i : i + 1])[0] - TRUTH[i]).square().mean().sqrt() for i in range(4)]).mean() for z in found.starts])
    torch.testing.assert_close(found.scores, scores, rtol=1e-12, atol=1e-12)
    assert found.index == int(scores.argmin()) and found.score == float(found.scores[found.index])
    assert torch.equal(found.start, found.starts[found.index]) and found.starts.shape == (7, 3)


@pytest.mark.parametrize("batch", [1, 3, 4, 9, 1000])
def test_batches_change_nothing(batch):
    whole = best_boundary(bent, (TRUTH, COND), 7, seed=1)
    split = best_boundary(bent, (TRUTH, COND), 7, seed=1, batch=batch)
    torch.testing.assert_close(split.scores, whole.scores, rtol=1e-13, atol=0)
    assert torch.equal(split.starts, whole.starts) and split.index == whole.index


def test_the_start_that_is_right_for_all_is_found(seed):
    """h(z, y) = y + A z hits the truth at one z only, which is among the candidates."""
    right = torch.tensor([0.4, -1.3, 2.0], dtype=F64)
    matrix = torch.tensor([[2.0, 0.1, 0.0], [0.0, 1.0, -0.5], [0.3, 0.0, 1.5]], dtype=F64)
    starts = torch.cat([Draws(seed).rows("starts", 0, (20, 3), dtype=F64), right[None]])
    y = TRUTH - right @ matrix.T
    found = best_boundary(lambda z, y: y + z @ matrix.T, (TRUTH, y), starts)
    assert found.index == 20 and found.score < 1e-12 and torch.equal(found.start, right)


def test_the_distance_decides_and_conditions_may_be_a_dict():
    first = lambda x, y: (x - y)[:, 0].abs()
    last = lambda x, y: (x - y)[:, 2].abs()
    starts = torch.tensor([[0.0, 5.0, 5.0], [5.0, 5.0, 0.0]], dtype=F64)
    add = lambda z, y: y["a"] + z
    found = [best_boundary(add, (TRUTH, {"a": TRUTH, "b": COND}), starts, distance=d).index for d in (first, last)]
    assert found == [0, 1]
    assert torch.equal(boundary_scores(add, starts, (TRUTH, {"a": TRUTH}), distance=last), torch.tensor([5.0, 0.0], dtype=F64))


def test_the_shape_of_a_start_may_differ_from_that_of_the_truth():
    found = best_boundary(lambda z, y: y[:, :1].repeat(1, 3) + z.mean(1, keepdim=True), (TRUTH, COND), 3, shape=(5,))
    assert found.start.shape == (5,) and found.starts.dtype == F64


def test_seeds_draw_other_candidates():
    a, b = (best_boundary(bent, (TRUTH, COND), 4, seed=seed).starts for seed in (0, 1))
    assert not torch.equal(a, b)
    assert torch.equal(a, best_boundary(bent, (TRUTH, COND), 4, seed=Draws(0)).starts)


TARGET = GaussianMixture(torch.ones(1, dtype=F64), torch.tensor([[0.3, -0.2, 1.0]], dtype=F64), torch.tensor([[0.3, 1.7, 0.4]], dtype=F64))
FIELD, WAY = ExactField(Path.vp(), TARGET), Times.uniform(Path.vp(), 5, start=0.05, end=0.98)


def test_stochastic_samplers_are_told_apart():
    """Noise drawn row by row from a seed, and noise from a stream; the same rule without noise is taken."""
    run = lambda rule: lambda z, y: sample(FIELD, start=z, times=WAY, rule=rule, seed=3)
    assert best_boundary(run(DDIM()), (TRUTH, COND), 4).scores.shape == (4,)
    counter = iter(range(1000))
    streamed = lambda z, y: z + 0.1 * Draws(0).rows("call", next(counter), (1, 3), dtype=F64)
    for generate in (run(DDPM()), run(DDPM(eta=0.3)), streamed):
        with pytest.raises(ValueError, match="generate must be deterministic"):
            best_boundary(generate, (TRUTH, COND), 4)


def test_rms_distance():
    assert rms_distance(torch.tensor([[3.0, 0.0], [1.0, 1.0]]), torch.tensor([[0.0, 4.0], [1.0, 1.0]])).tolist() == pytest.approx([12.5**0.5, 0.0])


@pytest.mark.parametrize(("change", "message"), [
    ({"candidates": 0}, "candidates must be at least 1, got 0"),
    ({"candidates": torch.empty(0, 3)}, "candidates must hold at least one start"),
    ({"candidates": torch.full((2, 3), float("nan"))}, "candidates must be finite"),
    ({"batch": 0}, "batch must be at least 1, got 0"),
    ({"shape": (0,)}, "shape must be at least 1, got 0"),
    ({"references": (TRUTH[:0], COND[:0])}, "references must hold at least one pair"),
    ({"references": (TRUTH, COND[:3])}, r"one condition a truth, 4, got \(3, 2\)"),
    ({"references": (TRUTH, None)}, "one condition a truth, 4, got NoneType"),
    ({"generate": lambda z, y: z[:1]}, "generate must return 2 samples"),
    ({"distance": lambda x, y: x}, "distance must return one number a pair"),
    ({"distance": lambda x, y: x[:, 0] * float("inf")}, "the distances must be finite"),
])
def test_refusals(change, message):
    given = {"generate": bent, "references": (TRUTH, COND), "candidates": 5} | change
    with pytest.raises(ValueError, match=message):
        best_boundary(given.pop("generate"), given.pop("references"), **given)


def test_wrong_kinds_are_refused():
    with pytest.raises(TypeError):
        best_boundary(bent, TRUTH)
    with pytest.raises(TypeError):
        best_boundary(3, (TRUTH, COND))
