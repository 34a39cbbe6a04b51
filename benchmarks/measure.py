"""Interleaved timing in CPU seconds of one thread: the only clock that does not swing on a shared machine."""
from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

torch.set_num_threads(1)


def seconds(work: Callable[[], object]) -> float:
    begun = time.process_time()
    work()
    return time.process_time() - begun


def interleaved(ours: Callable[[], object], peer: Callable[[], object], rounds: int = 21) -> tuple[float, float, float]:
    """(our seconds, the peer's seconds, their ratio): medians over rounds in which both run, in turn first; the ratio is taken round by round."""
    ours()
    peer()
    pairs = []
    for k in range(rounds):
        if k % 2:
            theirs, mine = seconds(peer), seconds(ours)
        else:
            mine, theirs = seconds(ours), seconds(peer)
        pairs.append((mine, theirs))
    return statistics.median(m for m, _ in pairs), statistics.median(t for _, t in pairs), statistics.median(m / t for m, t in pairs)


def table(title: str, rows: list[tuple[str, str, str, str, str]]) -> None:
    """Print rows of (what, ours, peer, ratio or figure, target)."""
    head = ("what", "ours", "peer", "figure", "target")
    widths = [max(len(r[i]) for r in [head, *rows]) for i in range(5)]
    print(f"\n{title}, torch {torch.__version__}, one thread, CPU time")
    for row in [head, *rows]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))
