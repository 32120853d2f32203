"""The resident memory of a worker process while it drains a file that another one has filled."""

from __future__ import annotations

import threading

from benchmarks import ours
from benchmarks.harness import Figure, Options, Result, alternate, database, measure
from taskloom.pulse import memory_usage

__all__ = ["drain", "figures"]

_TASKS = 100_000
_EVERY = 0.02
"""Seconds between two looks."""


def figures(options: Options) -> list[Figure]:
    """The peak, and how little it grows when three times as many tasks are drained."""
    rounds = min(options.rounds, 3)
    found = alternate(rounds, {"some": lambda: _peak(_TASKS), "many": lambda: _peak(3 * _TASKS)})
    what = f"SQLite: resident memory, {_TASKS:,} drained"
    return [
        Figure(what=what, unit="MB", ours=found["some"], limit=100.0),
        Figure(
            what=f"SQLite: resident memory, {3 * _TASKS:,} drained",
            unit="MB",
            ours=found["many"],
            against=f"{_TASKS:,} drained",
            theirs=found["some"],
            at_most=1.05,
        ),
    ]


def _peak(tasks: int) -> float:
    with database() as path:
        url = f"sqlite:///{path}"
        measure("ours:fill", url=url, tasks=tasks)
        return measure("memory_use:drain", url=url, tasks=tasks)["peak"]


def drain(url: str, tasks: int) -> Result:
    """MB: the `peak` while draining, the page caches of SQLite included."""
    seen: list[float] = []
    done = threading.Event()

    def look() -> None:
        while not done.wait(_EVERY):
            seen.append(memory_usage() / 1e6)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        ours.drain(url, tasks)
    finally:
        done.set()
        watcher.join()
    return {"peak": max(seen)}
