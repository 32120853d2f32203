"""Tasks that wait: whether all slots are in use all the time."""

from __future__ import annotations

import asyncio

from benchmarks.harness import Figure, Options, Result, alternate, database, measure
from benchmarks.ours import QUEUE, drained, filled
from benchmarks.work import Tally
from taskloom import Loom

__all__ = ["figures", "run"]

_TASKS, _SLOTS, _NAP = 2_000, 100, 0.05
_IDEAL = _TASKS * _NAP / _SLOTS


def figures(options: Options) -> list[Figure]:
    """Seconds for 2,000 tasks of 50 ms, 100 at a time, beside the ideal second."""
    found = alternate(options.rounds, {"SQLite": _in_file, "memory": lambda: _seconds("memory://")})
    return [
        Figure(
            what=f"{engine}: 2,000 tasks of 50 ms, 100 at once",
            unit="s",
            ours=seconds,
            against="the ideal",
            theirs=[_IDEAL] * len(seconds),
            at_most=1.15,
        )
        for engine, seconds in found.items()
    ]


def _in_file() -> float:
    with database() as path:
        return _seconds(f"sqlite:///{path}")


def _seconds(url: str) -> float:
    return measure("waiting:run", url=url)["seconds"]


def run(url: str) -> Result:
    """`seconds` from starting the worker to its end."""
    return {"seconds": asyncio.run(_run(url))}


async def _run(url: str) -> float:
    stop = asyncio.Event()
    tally = Tally(_TASKS, stop.set)
    loom = Loom(url)

    @loom.task(queue=QUEUE, concurrency=_SLOTS)
    async def nap(number: int, text: str) -> None:
        await asyncio.sleep(_NAP)
        tally.ran(number)

    async with loom:
        await filled(nap, _TASKS)
        seconds = await drained(loom, stop)
    tally.check_once()
    return seconds
