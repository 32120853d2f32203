"""The resident memory of a worker process while it drains a file that another one has filled."""

from __future__ import annotations

import threading
from statistics import median

from benchmarks import ours
from benchmarks.harness import Figure, Options, Result, database, measure
from taskloom.pulse import memory_usage

__all__ = ["drain", "figures"]

_TASKS = 100_000
_EVERY = 0.02
"""Seconds between two looks."""


def figures(options: Options) -> list[Figure]:
    """The peak, and how the end of the drain compares with its first quarter."""
    found = [_measured() for _ in range(min(options.rounds, 3))]
    what = "SQLite: resident memory, 100,000 drained"
    return [
        Figure(what=f"{what}, peak", unit="MB", ours=[r["peak"] for r in found], limit=100.0),
        Figure(
            what=f"{what}, last quarter",
            unit="MB",
            ours=[r["last"] for r in found],
            against="first quarter",
            theirs=[r["first"] for r in found],
            at_most=1.05,
        ),
    ]


def _measured() -> Result:
    with database() as path:
        measure("ours:fill", path=path, tasks=_TASKS)
        return measure("memory_use:drain", path=path, tasks=_TASKS)


def drain(path: str, tasks: int) -> Result:
    """MB: `peak`, and the medians of the `first` and the `last` quarter of the drain."""
    seen: list[float] = []
    done = threading.Event()

    def look() -> None:
        while not done.wait(_EVERY):
            seen.append(memory_usage() / 1e6)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        ours.drain(path, tasks)
    finally:
        done.set()
        watcher.join()
    quarter = max(1, len(seen) // 4)
    return {"peak": max(seen), "first": median(seen[:quarter]), "last": median(seen[-quarter:])}
