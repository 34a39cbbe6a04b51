"""A graph as plain arrays: nodes with names, edges by relation, labels and texts of the nodes."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from rheos.core import checks

__all__ = ["GraphData"]


@dataclass(frozen=True, eq=False)
class GraphData:
    """Directed edges of several kinds between nodes that have names.

    name:       how messages and reports call it.
    nodes:      the nodes' names, all different; node i is nodes[i].
    edge_index: relation -> (2, edges) int64, source first: in column (i, j) node i stands in the relation to node j. No column twice.
    y:          (n,) int64 class of each node in 0..classes-1, or None.
    labels:     the classes' names, given exactly when `y` is.
    texts:      a text for every node, or None.
    meaning, licence, source: as in `Dataset`.

    ValueError says which of these is broken. It is no `Dataset`: there are no rows to learn a flow from. `len(graph)` is the number of nodes.

    >>> graph = GraphData("pair", ("cause", "effect"), {"leads to": torch.tensor([[0], [1]])})
    >>> len(graph), graph.edge_index["leads to"].tolist()
    (2, [[0], [1]])
    """

    name: str
    nodes: tuple[str, ...]
    edge_index: Mapping[str, Tensor]
    y: Tensor | None = None
    labels: tuple[str, ...] | None = None
    texts: tuple[str, ...] | None = None
    meaning: str = ""
    licence: str = ""
    source: str = ""

    def __post_init__(self):
        object.__setattr__(self, "nodes", tuple(self.nodes))
        object.__setattr__(self, "edge_index", MappingProxyType(dict(self.edge_index)))
        count = len(self.nodes)
        if not count or len(set(self.nodes)) != count:
            raise ValueError(f"{self.name}: nodes must be at least one name, all different, got {count} of which {len(set(self.nodes))} differ")
        for relation, edges in self.edge_index.items():
            self._check_edges(relation, edges, count)
        if (self.y is None) != (self.labels is None):
            raise ValueError(f"{self.name}: y and labels go together, got {'labels' if self.y is None else 'y'} alone")
        if self.y is not None:
            self._check_labels(count)
        if self.texts is not None:
            object.__setattr__(self, "texts", tuple(self.texts))
            if len(self.texts) != count:
                raise ValueError(f"{self.name}: texts must be one for each of the {count} nodes, got {len(self.texts)}")

    def _check_edges(self, relation: str, edges: Tensor, count: int) -> None:
        what = f"{self.name}: edge_index[{relation!r}]"
        if checks.tensor(what, edges).dtype != torch.int64 or edges.ndim != 2 or len(edges) != 2:
            raise ValueError(f"{what} must be int64 of shape (2, edges), got {edges.dtype} of shape {tuple(edges.shape)}")
        if edges.numel() and (int(edges.min()) < 0 or int(edges.max()) >= count):
            raise ValueError(f"{what} must hold node numbers in 0..{count - 1}, got values from {int(edges.min())} to {int(edges.max())}")
        distinct = (edges[0] * count + edges[1]).unique().numel()
        if distinct != edges.shape[1]:
            raise ValueError(f"{what} must hold every edge once, got {edges.shape[1]} of which {distinct} differ")

    def _check_labels(self, count: int) -> None:
        object.__setattr__(self, "labels", tuple(self.labels))
        y = checks.tensor(f"{self.name}: y", self.y)
        if y.dtype != torch.int64 or tuple(y.shape) != (count,):
            raise ValueError(f"{self.name}: y must be int64, one class for each of the {count} nodes, got {y.dtype} of shape {tuple(y.shape)}")
        if int(y.min()) < 0 or int(y.max()) >= len(self.labels):
            raise ValueError(f"{self.name}: y must lie in 0..{len(self.labels) - 1}, got values from {int(y.min())} to {int(y.max())}")

    def __len__(self) -> int:
        return len(self.nodes)
