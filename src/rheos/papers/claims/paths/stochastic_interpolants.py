"""Stochastic interpolants (Albergo, Boffi and Vanden-Eijnden, 2023, arXiv:2303.08797).

Claim: x_t = a x0 + b x1 + c z joins any two laws exactly in finite time, by an ODE and by a whole family of SDEs with drift v + eps s, which
all have the law of x_t at every t; and the SDEs repair errors of the velocity that the ODE carries to the end. Here: the exact field
between two skewed mixtures in the plane, then an error put into the velocity alone; and, on real digits, a learned interpolant that turns
held-out threes into eights. On a GPU: translation between classes of Fashion-MNIST.
"""
import torch

from rheos.core import Draws, evolve
from rheos.couplings import Independent
from rheos.data import GaussianMixture, load
from rheos.metrics import floor, sliced_w2
from rheos.nets import ResidualMLP
from rheos.objectives import Matching
from rheos.papers import Check, Scale, bars
from rheos.paths import ExactField, Field, Path, Times
from rheos.samplers import EulerMaruyama, sample
from rheos.training import Average, Cosine, Descent

# The theorem says equal laws; 4000 samples and 200 Euler-Maruyama steps leave discretisation and sampling, hence a multiple of the floor.
DISTANCE_IN_FLOORS_AT_MOST = 2.5
# The paper bounds the SDE's error by its drift error over 4 eps and gives no bound for the ODE; 0.6 leaves room around a prototype's 0.35.
REPAIRED_ERROR_AT_MOST = 0.6

PATH = Path.interpolant(gamma="sqrt")


def ends() -> tuple[GaussianMixture, GaussianMixture]:
    """Four modes of standard deviation 0.4 and five of 0.3, unevenly placed and weighted."""
    source = torch.tensor([[-3.0, -1.0], [-2.5, 1.5], [-4.0, 0.2], [-1.5, -2.2]], dtype=torch.float64)
    target = torch.tensor([[2.0, 2.5], [3.5, -0.5], [2.2, -2.4], [4.5, 1.2], [1.0, 0.3]], dtype=torch.float64)
    weights = lambda *w: torch.tensor(w, dtype=torch.float64) / sum(w)
    return (GaussianMixture(weights(1, 2, 3, 2), source, torch.full((4,), 0.4**2, dtype=torch.float64)),
            GaussianMixture(weights(3, 1, 2, 2, 1), target, torch.full((5,), 0.3**2, dtype=torch.float64)))


def off(x: torch.Tensor) -> torch.Tensor:
    """The error put into the velocity."""
    return 2 * torch.stack([torch.sin(3 * x[:, 1] + 1), torch.cos(3 * x[:, 0])], 1)


def claim(*, seed: int = 0, scale: Scale = Scale.FULL) -> list[Check]:
    full = scale is Scale.FULL
    count, steps = (4000, 200) if full else (60, 8)
    draws = Draws(seed)
    source, target = ends()
    exact = ExactField(PATH, target, source)
    times = Times.uniform(PATH, steps, start=0.0, end=1.0)
    looks = [steps * k // 4 for k in (1, 2, 3, 4)]

    def law(t: float, seed: int) -> torch.Tensor:
        family = Draws(seed)
        x0, x1 = source.sample(count, seed=family.child("x0")), target.sample(count, seed=family.child("x1"))
        return PATH.sample(x1, torch.full((count,), t, dtype=torch.float64), x0=x0, seed=family).x

    truth = {k: law(k / steps, 7 * seed + 1) for k in looks}
    least = {k: floor(sliced_w2, lambda n, seed, k=k: law(k / steps, seed), n=count, repeats=3 if full else 2, seed=seed).mean for k in looks}

    def distances(field: Field, epsilon: float) -> dict[int, float]:
        seen: dict[int, torch.Tensor] = {}
        keep = lambda step, state: seen.__setitem__(step, state.x.clone()) if step in looks else None
        start = source.sample(count, seed=draws.child("start"))
        sample(field, start=start, rule=EulerMaruyama(epsilon), times=times, seed=draws.child("sde"), watch=[keep])
        return {k: float(sliced_w2(seen[k], truth[k])) for k in looks}

    def part(velocity, score=lambda p: p.score) -> Field:
        """The exact field with its velocity or score tampered with."""
        def net(x, t, cond):
            p = exact(x, float(t[0]))
            return velocity(p), score(p)
        return Field(net, PATH, ("velocity", "score"))

    worst = lambda found: max(found[k] / least[k] for k in looks)
    nothing = lambda p: torch.zeros_like(p.x)
    checks = []
    for epsilon in (0.0, 0.5, 2.0):
        # Without the score's part: in the velocity's latent term for the ODE, in the drift for the SDEs.
        without = part(lambda p: p.velocity + p.at.cdc * p.score) if epsilon == 0 else part(lambda p: p.velocity, nothing)
        checks.append(Check(f"largest distance to the path's law in floors, eps {epsilon:g}", worst(distances(exact, epsilon)), "<=",
                            DISTANCE_IN_FLOORS_AT_MOST, control=worst(distances(without, epsilon))))
    wrong = part(lambda p: p.velocity + off(p.x))
    ode = distances(wrong, 0.0)[steps]
    repaired = distances(wrong, 2.0)[steps]
    noise_only = distances(part(lambda p: p.velocity + off(p.x), nothing), 2.0)[steps]
    checks.append(Check("distance at the end with a wrong velocity, eps 2 over eps 0", repaired / ode, "<=", REPAIRED_ERROR_AT_MOST, control=noise_only / ode))
    return checks + digits(seed, full)


def digits(seed: int, full: bool) -> list[Check]:
    """Real digits: threes into eights by a learned velocity and noise, judged on the held-out half."""
    data = load("digits")
    of = lambda part, label: part.x[part.y == label]
    # Antithetic noise takes away the velocity target's variance near the ends.
    loss = Matching(PATH, ("velocity", "noise"), antithetic=True)
    steps = 1000 if full else 3
    with Draws(seed).scope(0):
        net = ResidualMLP(data.event, width=128 if full else 16, depth=3 if full else 1, heads=2)
    fit = Descent(loss, Independent(of(data, 8), of(data, 3)), 128 if full else 16, rate=Cosine(steps), average=Average(0.995), clip=1.0, seed=seed)
    learned = Field(evolve(fit, fit.init(net), steps, donate=True).averaged, PATH, ("velocity", "noise"))
    threes, eights = of(data.held_out, 3), of(data.held_out, 8)
    rows = []
    for epsilon in (0.0, 0.5):
        made = sample(learned, start=threes, rule=EulerMaruyama(epsilon), steps=100 if full else 4, seed=seed).clamp(-1, 1)
        rows.append(Check(f"digits: distance of made to real eights over that of threes to eights, eps {epsilon:g}",
                          float(sliced_w2(made, eights) / sliced_w2(threes, eights)), "<=", 0.5, control=None, core=False))
    return rows


def plot(ax, checks: list[Check]):
    """Values beside their controls."""
    return bars(ax, checks, ["eps 0", "eps 0.5", "eps 2", "wrong velocity"], method="interpolant", without="without the score")
