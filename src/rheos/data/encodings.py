"""What is not an array (a table's columns, text) as rows of numbers, and back: what an encoding promises."""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, runtime_checkable

from torch import Tensor

__all__ = ["Encoding", "encoding_from_json"]


@runtime_checkable
class Encoding(Protocol):
    """Rows of numbers and what they stand for.

    kind:   its name in a saved model. suffix: of the file that decoded rows are written to, such as ".csv".
    header, text: the file of decoded rows is `header()` and then `text(x)` for one batch of rows after the other.
    decode: (n, *event) on any device, any real values -> the things themselves (their kind is the encoding's own); never fails on
            finite values: what lies outside is brought to the nearest thing that can be.
    to_json, from_json: everything that `decode` needs, as JSON.
    """

    kind: ClassVar[str]
    suffix: ClassVar[str]

    def decode(self, x: Tensor) -> Any: ...

    def header(self) -> str: ...

    def text(self, x: Tensor) -> str: ...

    def to_json(self) -> dict[str, Any]: ...


def encoding_from_json(described: Any) -> Encoding:
    """The encoding that `to_json` described. ValueError in one line for any other kind and for what is damaged."""
    from rheos.data.columns import Columns
    from rheos.data.tokens import Tokens

    kinds = {encoding.kind: encoding for encoding in (Columns, Tokens)}
    kind = described.get("kind") if isinstance(described, Mapping) else None
    if not isinstance(kind, str) or kind not in kinds:
        raise ValueError(f"encoding must be of kind {' or '.join(kinds)}, got {str(kind)[:60]!r}")
    return kinds[kind].from_json(described)
