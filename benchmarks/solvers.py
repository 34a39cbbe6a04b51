"""Integrating to an error, against torchdiffeq's dopri5, and a stochastic step, against torchsde's Euler: the network's cost included."""
from __future__ import annotations

import copy
import math
import statistics
import warnings
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.measure import interleaved, seconds, table
from benchmarks.training import Plain
from rheos.core import Draws, evolve
from rheos.couplings import Independent
from rheos.data import ring
from rheos.objectives import Matching
from rheos.paths import ExactField, Field, Path, Times
from rheos.samplers import EulerMaruyama, Multistep
from rheos.samplers.adaptive import AdaptiveRungeKutta, AdaptiveState
from rheos.training import Descent

Run = Callable[[float], Tensor]
Velocity = Callable[[Tensor, Tensor], Tensor]
Row = tuple[str, str, str, str, str]
STEPS, BATCH, EPSILON = 100, 1024, 0.5


def trained() -> nn.Module:
    """An MLP of 3 x 128 after 3,000 steps of flow matching on the ring."""
    data = ring().sample(20_000, seed=1).float()
    run = Descent(Matching(Path.linear()), Independent(data), 256, partial(torch.optim.Adam, lr=1e-3))
    with Draws(0).scope(0):
        net = Plain()
    return evolve(run, run.init(net), 3000).net.eval()


# -- to an error -------------------------------------------------------------------------------------------------------------------------

class Scan:
    """The error of a solver against its tolerance: the median over samples of a sample's largest error."""

    def __init__(self, run: Run, truth: Tensor, dtype: torch.dtype):
        self.run, self.truth, self.known = run, truth, []
        self.tolerances = [t for t in (10.0 ** (-k / 2) for k in range(1, 25)) if t > torch.finfo(dtype).eps]

    def error(self, tolerance: float) -> float:
        return float((self.run(tolerance).to(self.truth) - self.truth).abs().flatten(1).amax(1).median())

    def tolerance_for(self, error: float) -> float:
        """The loosest tolerance, to a tenth of a decade, whose error is at most this."""
        for k, tight in enumerate(self.tolerances):
            if k == len(self.known):
                self.known.append(self.error(tight))
            if self.known[k] <= error:
                between = (tight * 10.0 ** (j / 10) for j in (4, 3, 2, 1))
                return next((tolerance for tolerance in between if self.error(tolerance) <= error), tight)
        raise ValueError(f"no tolerance down to {self.tolerances[-1]:g} gives the error {error:g}: {self.known}")


def to_errors(name: str, field: Field, velocity: Velocity, x: Tensor, truth: Tensor, errors: Sequence[float], rounds: int) -> list[Row]:
    import torchdiffeq

    calls = [0]
    times = torch.tensor([0.0, 1.0], dtype=torch.float64)

    def counted(t: Tensor, y: Tensor) -> Tensor:
        calls[0] += 1
        return velocity(y, t)

    def integrated(tolerance: float) -> AdaptiveState:
        run = AdaptiveRungeKutta(tolerance, tolerance).dynamics(field, 0.0, 1.0)
        return evolve(run, run.init(x), until=run.done, donate=True)

    def ours(tolerance: float) -> Tensor:
        return integrated(tolerance).x

    def peer(tolerance: float) -> Tensor:
        # step_t: no step of theirs may pass t = 1, where the exact field ends.
        return torchdiffeq.odeint(counted, x, times.to(x), rtol=tolerance, atol=tolerance, method="dopri5", options={"step_t": times[1:].to(x)})[-1]

    scans, rows = (Scan(ours, truth, x.dtype), Scan(peer, truth, x.dtype)), []
    for error in errors:
        mine, other = (scan.tolerance_for(error) for scan in scans)
        got, theirs_got = scans[0].error(mine), scans[1].error(other)
        state, calls[0] = integrated(mine), 0
        peer(other)
        their_calls, asked = calls[0], float(state.calls.double().mean())
        cost, their_cost, ratio = interleaved(partial(ours, mine), partial(peer, other), rounds)
        rows.append((f"{name}, {str(x.dtype).removeprefix('torch.')}, median error {error:.0e} (got {got:.1e}, {theirs_got:.1e})",
                     f"{cost * 1e3:.1f} ms, {asked:.0f} to {int(state.calls.max())} calls", f"{their_cost * 1e3:.1f} ms, {their_calls} calls",
                     f"{ratio:.2f}x", "at most 1"))
    return rows


def errors_reached(net: nn.Module, rounds: int) -> list[Row]:
    path = Path.linear()

    def truth_of(field: Field, x: Tensor) -> Tensor:
        run = AdaptiveRungeKutta(1e-10, 1e-10).dynamics(field, 0.0, 1.0)
        return evolve(run, run.init(x), until=run.done).x

    exact, start = ExactField(path, ring()), path.prior((512, 2), seed=0, dtype=torch.float64)
    rows = to_errors("exact field of a ring, 512", exact, exact.velocity, start, truth_of(exact, start), (1e-3, 1e-5, 1e-7), rounds)
    fine = copy.deepcopy(net).double()
    for batch in (256, 4096):
        start = path.prior((batch, 2), seed=0, dtype=torch.float64)
        truth = truth_of(Field(fine, path), start)
        for asked, errors in ((net, (1e-3, 1e-5)), (fine, (1e-3, 1e-5, 1e-7))):
            x = start.to(next(asked.parameters()).dtype)
            velocity = lambda y, t, asked=asked: asked(y, t.expand(len(y)))
            rows += to_errors(f"MLP 3 x 128, {batch}", Field(asked, path), velocity, x, truth, errors, rounds)
    return rows


# -- a stochastic step -------------------------------------------------------------------------------------------------------------------

class Pulled(nn.Module):
    """Velocity and score in closed form: a pull towards a mean that turns with time."""

    def forward(self, x: Tensor, t: Tensor, cond: None = None) -> tuple[Tensor, Tensor]:
        rest = x - torch.cos(3 * t)[:, None]
        return -0.5 * rest, -rest


class TwoHeads(nn.Module):
    """Velocity and score from one MLP of 3 x 128."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(dim + 1, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU(),
                                    nn.Linear(128, 2 * dim))

    def forward(self, x: Tensor, t: Tensor, cond: None = None) -> tuple[Tensor, ...]:
        return self.layers(torch.cat([x, t[:, None]], 1)).chunk(2, 1)


class TheirSDE:
    noise_type, sde_type = "diagonal", "ito"

    def __init__(self, net: nn.Module) -> None:
        self.net = net

    def f(self, t: Tensor, y: Tensor) -> Tensor:
        velocity, score = self.net(y, torch.as_tensor(t, dtype=y.dtype).expand(len(y)))
        return velocity + EPSILON * score

    def g(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.full_like(y, math.sqrt(2 * EPSILON))


def stochastic(name: str, net: nn.Module, dim: int, rounds: int) -> Row:
    import torchsde

    path, x = Path.linear(), Draws(0).rows("start", 0, (BATCH, dim))
    plan = EulerMaruyama(EPSILON).plan(Times.uniform(path, STEPS))
    field, ts, seeds = Field(net, path, ("velocity", "score")), torch.tensor([0.0, 1.0]), iter(range(10**9))

    def ours() -> Tensor:
        run = Multistep(field, plan, seed=next(seeds))
        return evolve(run, run.init(x), plan.nfe).x

    def peer() -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torchsde.sdeint(TheirSDE(net), x, ts, dt=1 / STEPS, method="euler")[-1]

    # Both follow one law: means and variances of the ends within six standard errors of one another.
    a, b = ours().double(), peer().double()
    spread = (a.var() + b.var()).sqrt()
    if float((a.mean(0) - b.mean(0)).abs().max()) > 6 * float(spread) / math.sqrt(BATCH) or abs(float((a.var() / b.var()).log())) > 6 * math.sqrt(4 / BATCH):
        raise ArithmeticError(f"{name}: the two solvers end in different laws")
    mine, other, ratio = interleaved(ours, peer, rounds)
    asked = statistics.median(seconds(lambda: net(x, x[:, 0])) for _ in range(STEPS))
    return (f"Euler-Maruyama, {name}, ({BATCH}, {dim})", f"{mine / STEPS * 1e3:.3f} ms, the network {asked * 1e3:.3f} ms",
            f"{other / STEPS * 1e3:.3f} ms", f"{ratio:.2f}x", "ours at most 1 ms" if name == "closed form" else "")


if __name__ == "__main__":
    import torchdiffeq
    import torchsde

    network = trained()
    with torch.no_grad():
        table(f"integrating to an error, against torchdiffeq {torchdiffeq.__version__} dopri5", errors_reached(network, 7))
        with Draws(0).scope(0):
            heads = {dim: TwoHeads(dim) for dim in (2, 64)}
        table(f"a stochastic step, {STEPS} steps, float32, against torchsde {torchsde.__version__} euler", [
            stochastic(name, net, dim, 5) for dim in (2, 64) for name, net in (("closed form", Pulled()), ("MLP 3 x 128", heads[dim]))])
