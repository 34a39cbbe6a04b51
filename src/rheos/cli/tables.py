"""Tables on a terminal, tab-separated lines in a pipe: what people read and what other programs read."""
from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["show_table"]


def show_table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None) -> None:
    """Print rows under their columns: with rich on a terminal; into a pipe or a file one line a row, cells apart by tabs, without title."""
    if not sys.stdout.isatty():
        for row in [columns, *rows]:
            print("\t".join(row))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))    # Text: a "[" in a title is no markup
    Console().print(table)
