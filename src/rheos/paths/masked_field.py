"""A network seen through a masked path: what each hidden token may be, given what is shown."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from rheos.core import checks
from rheos.nets import without_condition
from rheos.paths.masked import MaskedPath

__all__ = ["GuidedTokens", "MaskedField"]


class MaskedField:
    """log p(x1_i = v | the tokens that x shows), from a network and the path it was trained on.

    net: called as net(x, t, cond) with x (batch, length) int64, t (batch,), cond as given; returns logits (batch, length, V) or V + 1 ids.
        A network without time does not read t, and needs none: these conditionals do not depend on it (arXiv:2406.03736).
    event: (length,), where neither the path nor the network (`net.event`) tells it.
    nfe: how often the network was called; rows: how many rows it was asked about in all. Set them to 0 to count anew.

    >>> path = MaskedPath(3)
    >>> field = MaskedField(lambda x, t, cond: torch.zeros(*x.shape, 4), path, (2,))        # the fourth number would be the mask's
    >>> field(torch.tensor([[3, 0]])).exp()[0, 0]
    tensor([0.3333, 0.3333, 0.3333])
    """

    def __init__(self, net: Callable[..., Tensor], path: MaskedPath, event: Sequence[int] | None = None):
        if not callable(net):
            raise TypeError(f"net must be callable as net(x, t, cond), got {type(net).__name__}")
        if not isinstance(path, MaskedPath):
            raise TypeError(f"path must be a MaskedPath, got {type(path).__name__}")
        self.net, self.path, self.nfe, self.rows = net, path, 0, 0
        lengths = [None if event is None else tuple(event), None if path.length is None else (path.length,), getattr(net, "event", None)]
        known = {tuple(length) for length in lengths if length is not None}
        if len(known) > 1 or any(len(shape) != 1 for shape in known):
            raise ValueError(f"event must be one (length,) for the path, the network and the caller, got {sorted(known)}")
        self.event: tuple[int, ...] | None = known.pop() if known else None

    @property
    def device(self) -> torch.device:
        """Where the network computes; the CPU if it has no parameters."""
        parameters = self.net.parameters() if isinstance(self.net, nn.Module) else iter(())
        first = next(parameters, None)
        return torch.device("cpu") if first is None else first.device

    def __call__(self, x: Int64[Tensor, "batch length"], cond: Any = None, t: Tensor | float | None = None) -> Float[Tensor, "batch length V"]:
        """Log-probabilities at x, ids and masks; those of the mask and of ids that a position does not have are -inf.

        t: the time that a network with time is told, a number or (batch,); by default the one at which the share that x shows is the expected one.
        ValueError for ids out of range and answers of another shape.
        """
        self.path.checked("x", x)
        if self.event is not None and tuple(x.shape[1:]) != self.event:
            raise ValueError(f"x must have event shape {self.event}, got {tuple(x.shape[1:])}")
        if t is None:
            t = self.path.time_at((x != self.path.mask).double().mean(1))
        rows = torch.as_tensor(t, dtype=torch.float32, device=x.device).expand(len(x))
        return self._ask(x, rows, cond)

    def _ask(self, x: Tensor, t: Tensor, cond: Any) -> Tensor:
        self.nfe, self.rows = self.nfe + 1, self.rows + len(x)
        logits = self.net(x, t, cond)
        if not isinstance(logits, Tensor) or logits.shape[:-1] != x.shape:
            got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(f"net must return logits of shape {(*x.shape, self.path.mask)}, got {got}")
        return self.path.log_probabilities(logits)

    def guided(self, scale: float) -> GuidedTokens:
        """This field steered towards its condition, see `GuidedTokens`."""
        return GuidedTokens(self, scale)


class GuidedTokens(MaskedField):
    """Classifier-free guidance of tokens: log p_u + scale (log p_c - log p_u), normalised; both from one batched network call.

    Paper: Ho and Salimans, 2022, arXiv:2207.12598, on log-probabilities. A token that the condition rules out stays impossible.
    scale: 0 unconditional, 1 conditional, above 1 beyond. `nfe` and `rows` count calls of this field; the inner field's count the network's.
    """

    def __init__(self, field: MaskedField, scale: float):
        if not isinstance(field, MaskedField):
            raise TypeError(f"field must be a MaskedField, got {type(field).__name__}")
        self.field, self.scale = field, checks.between("guidance", scale, 0.0, float("inf"), high_open=True)
        super().__init__(field.net, field.path, field.event)

    def _ask(self, x: Tensor, t: Tensor, cond: Any) -> Tensor:
        if cond is None:
            raise ValueError("guidance needs a condition: pass cond, or leave guidance out")
        self.nfe, self.rows = self.nfe + 1, self.rows + len(x)
        if self.scale == 1.0:
            return self.field._ask(x, t, cond)
        told, free = self.field._ask(torch.cat([x, x]), torch.cat([t, t]), _pair(cond)).chunk(2)
        # Where either knows a token to be impossible, a difference of infinities is no number: what the condition says stands.
        steered = torch.where(told.isneginf() | free.isneginf(), told, torch.lerp(free, told, self.scale))
        return torch.log_softmax(steered, -1)


def _pair(cond: Any) -> Any:
    if isinstance(cond, dict):
        return {name: _pair(value) for name, value in cond.items()}
    return torch.cat([cond, without_condition(cond)])
