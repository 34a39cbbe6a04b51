"""ISO dates and times as numbers, and back in the very form they were written in."""
from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["DateForm", "date_form"]

PATTERN = re.compile(r"(\d{4}-\d\d-\d\d)(?:([ T])(\d\d:\d\d)(?:(:\d\d)(\.\d{1,6})?)?(Z|[+-]\d\d:?\d\d)?)?", re.ASCII)
UNITS = ("D", "m", "s", "ms", "us")
ENDS = re.compile(r"|Z|[+-]\d\d:?\d\d", re.ASCII)


@dataclass(frozen=True)
class DateForm:
    """unit: the finest of NumPy's units that is written: D days, m minutes, s, ms, us. between: " " or "T" ("" for days). end: "", "Z" or
    an offset such as "+01:00", which all entries have in common and which is not applied."""

    unit: str
    between: str
    end: str

    def __post_init__(self):
        if self.unit not in UNITS or self.between not in (("",) if self.unit == "D" else (" ", "T")) or not ENDS.fullmatch(self.end):
            raise ValueError(f"form of dates must have a unit of {', '.join(UNITS)}, got {self.unit!r}, {self.between!r}, {self.end!r}")

    def numbers(self, name: str, values: Any):
        """Units since 1970, float64. ValueError for what is not of this form."""
        import numpy as np

        known = {}
        for value in set(values):
            found = PATTERN.fullmatch(value) if isinstance(value, str) else None
            if found is None or (found[2] or "", found[6] or "") != (self.between, self.end):
                raise ValueError(f"column {name} holds dates of another form, got {value!r}")
            try:
                known[value] = float(np.datetime64(value.removesuffix(self.end) if self.end else value, self.unit).astype(np.int64))
            except (ValueError, TypeError):
                raise ValueError(f"column {name} must hold dates, got {value!r}") from None
        return np.array([known[value] for value in values], dtype=np.float64)

    def texts(self, numbers: Any) -> list[str]:
        """(n,) units since 1970, any real numbers."""
        import numpy as np

        found = np.datetime_as_string(np.round(np.asarray(numbers)).astype(np.int64).astype(f"datetime64[{self.unit}]")).tolist()
        return [text.replace("T", self.between) + self.end for text in found]

    def to_json(self) -> dict[str, Any]:
        return {"unit": self.unit, "between": self.between, "end": self.end}

    @classmethod
    def from_json(cls, described: Mapping[str, Any]) -> DateForm:
        return cls(described["unit"], described["between"], described["end"])


def date_form(texts: Collection[str]) -> DateForm | None:
    """The form that all texts have in common, at least one; None if some text is no date or if they differ in more than the fraction of a
    second (which is left out where it is zero)."""
    import numpy as np

    form, digits = None, 0
    for text in texts:
        found = PATTERN.fullmatch(text)
        if found is None:
            return None
        this = (found[2] or "", found[3] is not None, found[4] is not None, found[6] or "")
        if form is not None and this != form:
            return None
        form, digits = this, max(digits, len(found[5] or ".") - 1)
        try:
            np.datetime64(text.removesuffix(this[3]) if this[3] else text)
        except ValueError:
            return None
    if form is None:
        return None
    between, timed, seconds, end = form
    unit = "D" if not timed else "m" if not seconds else "s" if digits == 0 else "ms" if digits <= 3 else "us"
    return DateForm(unit, between, end)
