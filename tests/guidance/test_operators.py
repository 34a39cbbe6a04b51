"""Operators by the four laws of Moore and Penrose, adjointness, dense matrices and torch's own convolution; the projection; and refusals."""
from __future__ import annotations

import numpy as np
import pytest
import torch

from rheos.core import Draws
from rheos.data import GaussianMixture
from rheos.guidance.operators import Blur, Dense, Grey, LinearOperator, Mask, Pool
from rheos.guidance.projection import project
from rheos.paths import ExactField, Path
from rheos.samplers import sample

F64 = torch.float64
EVENT = (3, 4, 6)           # channels, height, width: all different
KEEP = torch.tensor([[True, False, True, True, False, True], [False] * 6, [True] * 6, [False, True, False, False, True, True]])
KERNEL = torch.tensor([[0.1, 0.3, -0.05], [0.0, 0.5, 0.2]], dtype=F64)

CASES = {
    "mask": Mask(KEEP),
    "mask by channel": Mask(torch.arange(72).reshape(EVENT) % 5 > 1),
    "pool 2": Pool(2),
    "pool 1": Pool(1),
    "grey": Grey(),
    "luma": Grey.luma(),
    "signed weights": Grey((0.5, -2.0, 0.25)),
    "blur": Blur(KERNEL, cutoff=1e-6),
    "dense": Dense(Draws(3).rows("matrix", 0, (7, 72), dtype=F64), EVENT),
    "both": Dense.of((Pool(2), Grey.luma()), EVENT),
}


def rows(name, shape, n=5):
    return Draws(1).rows(name, 0, (n, *shape), dtype=F64)


def matrix(operator, event=EVENT):
    """Column by column, by applying it to unit vectors."""
    size = int(np.prod(event))
    return torch.stack([operator.forward(torch.eye(size, dtype=F64)[i].reshape(1, *event)).flatten() for i in range(size)], 1)


@pytest.mark.parametrize("name", CASES)
def test_the_four_laws_of_moore_and_penrose(name):
    A, x = CASES[name], rows("x", EVENT)
    seen = A.forward(x)
    y = rows("y", seen.shape[1:])
    torch.testing.assert_close(A.forward(A.pinv(A.forward(x))), seen, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(A.pinv(A.forward(A.pinv(y))), A.pinv(y), rtol=1e-9, atol=1e-9)
    other, back = rows("other", EVENT), rows("back", seen.shape[1:])
    dot = lambda a, b: (a * b).flatten(1).sum(1)
    torch.testing.assert_close(dot(A.pinv(A.forward(x)), other), dot(x, A.pinv(A.forward(other))), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(dot(A.forward(A.pinv(y)), back), dot(y, A.forward(A.pinv(back))), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_adjoint_and_pseudo_inverse_are_those_of_the_dense_matrix(name):
    A, M = CASES[name], matrix(CASES[name])
    x = rows("x", EVENT)
    y = rows("y", A.forward(x).shape[1:])
    torch.testing.assert_close(A.forward(x).flatten(1), x.flatten(1) @ M.T, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(A.adjoint(y).flatten(1), y.flatten(1) @ M, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(A.pinv(y).flatten(1), y.flatten(1) @ torch.linalg.pinv(M, rtol=1e-7).T, rtol=1e-8, atol=1e-8)
    assert isinstance(A, LinearOperator)


@pytest.mark.parametrize("name", CASES)
def test_operators_keep_float32_and_see_each_row_alone(name):
    A, x = CASES[name], rows("x", EVENT).float()
    y = A.forward(x)
    assert y.dtype == A.pinv(y).dtype == A.adjoint(y).dtype == torch.float32
    torch.testing.assert_close(A.forward(x[2:3]), y[2:3], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(A.pinv(y[2:3]), A.pinv(y)[2:3], rtol=1e-5, atol=1e-5)


def test_pool_is_torchs_average_pooling_and_pixels_are_spread_over_tiles():
    x = rows("x", (2, 6, 9))
    torch.testing.assert_close(Pool(3).forward(x), torch.nn.functional.avg_pool2d(x, 3))
    torch.testing.assert_close(Pool(3).pinv(Pool(3).forward(x))[:, :, 4, 7], x[:, :, 3:6, 6:9].mean((-2, -1)))


@pytest.mark.parametrize("size", [(4, 6), (5, 7)], ids=str)
def test_blur_is_periodic_convolution_about_the_middle_of_the_kernel(size):
    x = rows("x", (2, *size))
    truth = torch.zeros_like(x)
    for i in range(2):
        for j in range(3):
            truth += KERNEL[i, j] * x.roll((i - 1, j - 1), (-2, -1))
    torch.testing.assert_close(Blur(KERNEL).forward(x), truth, rtol=1e-10, atol=1e-12)


def test_a_gaussian_blur_keeps_the_mean_and_has_its_width():
    kernel = Blur.gaussian(1.5).kernel
    place = torch.arange(11, dtype=F64) - 5
    assert kernel.shape == (11, 11) and abs(float(kernel.sum()) - 1) < 1e-12
    assert abs(float((kernel.sum(0) * place**2).sum()) - 1.5**2) < 0.1       # a little less than 2.25: the tails are cut
    torch.testing.assert_close(kernel, kernel.T)


def test_lost_frequencies_stay_lost_and_the_rest_come_back():
    """With a cut-off, the pseudo-inverse is that of the matrix whose small singular values are struck out."""
    A = Blur.gaussian(1.2, cutoff=0.05)
    event = (1, 9, 10)
    M, y = matrix(A, event), rows("y", event)
    values = torch.linalg.svdvals(M)
    assert 10 < int((values < 0.05).sum()) < 80 and float((values - 0.05).abs().min()) > 1e-4
    back = A.pinv(y)
    torch.testing.assert_close(back.flatten(1), y.flatten(1) @ torch.linalg.pinv(M, rtol=0.05 / float(values[0])).T, rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(A.pinv(A.forward(back)), back, rtol=1e-8, atol=1e-8)
    assert float((A.forward(A.pinv(A.forward(y))) - A.forward(y)).flatten(1).norm(dim=1).max()) <= 0.05 * float(y.flatten(1).norm(dim=1).max())


def test_a_mask_reads_no_hidden_pixel():
    keep, x = torch.tensor([True, False, True]), torch.tensor([[1.0, 2.0, 3.0]])
    holed = torch.tensor([[5.0, float("nan"), 7.0]])
    assert project(Mask(keep), holed)(x, x, 0.5).tolist() == [[5.0, 2.0, 7.0]]


# -- the projection ------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", CASES)
def test_a_projection_measures_y_and_moves_no_further_than_it_must(name):
    A, x, truth = CASES[name], rows("x", EVENT), rows("truth", EVENT)
    y = A.forward(truth)
    end = project(A, y)(x, x, 0.3)
    torch.testing.assert_close(A.forward(end), y, rtol=1e-8, atol=1e-8)
    # The nearest point of the plane: the step stands at right angles on every direction within it, such as from it to the truth.
    step, within = (end - x).flatten(1), (truth - end).flatten(1)
    assert float((step * within).sum(1).abs().max()) < 1e-7
    torch.testing.assert_close(project(A, y).rows(1, 3)(x[1:3], x[1:3], 0.3), end[1:3])


def test_sample_takes_a_projection_and_its_samples_measure_y():
    target = GaussianMixture(torch.tensor([0.3, 0.7], dtype=F64), rows("means", (1, 4, 6), 2), torch.tensor([0.2, 0.5], dtype=F64))
    y = rows("y", (1, 2, 3))
    for path in (Path.linear(), Path.vp()):
        x = sample(ExactField(path, target), 5, steps=8, edit=project(Pool(2), y), seed=2)
        # The variance-preserving path's last time keeps a trace of noise, of 1e-5 or so.
        torch.testing.assert_close(Pool(2).forward(x), y, rtol=0, atol=1e-9 if path == Path.linear() else 2e-2)


# -- refusals ------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("call", "error", "words"), [
    (lambda: Pool(0), ValueError, "k must be at least 1"),
    (lambda: Pool(3).forward(torch.zeros(1, 1, 6, 8)), ValueError, "Pool.3. needs a grid that 3 divides, got 6 x 8"),
    (lambda: Pool(2).forward(torch.zeros(1, 8)), ValueError, "Pool needs events of two axes or more"),
    (lambda: Mask(torch.zeros(3)), TypeError, "keep"),
    (lambda: Mask(torch.zeros(3, dtype=torch.bool)), ValueError, "keep must be True somewhere"),
    (lambda: Mask(KEEP).forward(torch.zeros(1, 3, 4, 5)), ValueError, r"keep must have shape \(3, 4, 5\) or broadcast to it, got \(4, 6\)"),
    (lambda: Mask(KEEP[None, None]).forward(torch.zeros(1, 4, 6)), ValueError, "keep must have shape"),
    (lambda: Grey(()), ValueError, "weights must hold"),
    (lambda: Grey((0.0, 0.0)), ValueError, "weights must hold"),
    (lambda: Grey((0.1, float("nan"))), ValueError, "weights must lie"),
    (lambda: Grey().forward(torch.zeros(2, 1, 4, 4)), ValueError, "Grey needs events of 3 channels first"),
    (lambda: Grey().pinv(torch.zeros(2, 3, 4, 4)), ValueError, "one channel first"),
    (lambda: Blur.gaussian(0.0), ValueError, "sigma"),
    (lambda: Blur(torch.zeros(3, 3)), ValueError, "kernel must be a grid"),
    (lambda: Blur(KERNEL, cutoff=1.0), ValueError, "cutoff must lie"),
    (lambda: Blur.gaussian(2.0).forward(torch.zeros(1, 1, 8, 8)), ValueError, "kernel must be no larger than the grid, 8 x 8, got 13 x 13"),
    (lambda: Dense.of((), (2, 3)), ValueError, "operators must hold one or more, got none"),
    (lambda: Dense(torch.zeros(2, 5), (2, 3)), ValueError, "matrix must have 6 columns"),
    (lambda: Dense(torch.ones(2, 6), (2, 3)).forward(torch.zeros(1, 3, 2)), ValueError, r"events of shape \(2, 3\)"),
    (lambda: Dense(torch.ones(2, 6), (2, 3)).pinv(torch.zeros(1, 3)), ValueError, r"must have shape \(batch, 2\)"),
    (lambda: project(Pool, torch.zeros(1, 1, 2, 2)), TypeError, "operator"),
    (lambda: project(Pool(2), torch.zeros(3)), ValueError, "y must have shape"),
    (lambda: project(Grey(), torch.zeros(2, 3, 4, 4)), ValueError, "one channel first"),
    (lambda: project(Pool(2), torch.zeros(2, 1, 2, 2))(torch.zeros(3, 1, 4, 4), torch.zeros(3, 1, 4, 4), 0.5), ValueError, "y must have as many rows as the batch, 3, or one"),
    (lambda: project(Pool(2), torch.zeros(2, 1, 2, 2))(torch.zeros(2, 1, 4, 6), torch.zeros(2, 1, 4, 6), 0.5), ValueError,
     r"y must hold measurements of shape \(1, 2, 3\), got \(1, 2, 2\)"),
])
def test_refusals(call, error, words):
    with pytest.raises(error, match=words):
        call()
