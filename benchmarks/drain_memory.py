"""Draining memory: against taskiq, and against loops without a library."""

from __future__ import annotations

import asyncio

from benchmarks.harness import Figure, Options, Result, alternate, measure
from benchmarks.ours import counted, drained, filled
from benchmarks.work import Tally

__all__ = ["drain", "figures"]


def figures(options: Options) -> list[Figure]:
    """The drain rate beside taskiq's and those of two bare loops."""
    found = alternate(
        options.rounds,
        {
            "ours": lambda: measure("drain_memory:drain", tasks=100_000)["rate"],
            "taskiq": lambda: measure("taskiq_peer:drain", tasks=20_000)["rate"],
            "lane": lambda: measure("bare_loops:lane", tasks=200_000)["rate"],
            "queue": lambda: measure("bare_loops:queue", tasks=200_000)["rate"],
        },
    )
    what, unit = "memory: drain", "tasks/s"
    return [
        Figure(
            what=what,
            unit=unit,
            ours=found["ours"],
            against="taskiq InMemoryBroker",
            theirs=found["taskiq"],
            at_least=5.0,
        ),
        Figure(
            what=what,
            unit=unit,
            ours=found["ours"],
            against="bare loop of lane and coroutine",
            theirs=found["lane"],
        ),
        Figure(
            what=what,
            unit=unit,
            ours=found["ours"],
            against="asyncio.Queue alone",
            theirs=found["queue"],
        ),
    ]


def drain(tasks: int) -> Result:
    """`rate`: tasks a second, from starting the worker to its end."""
    return {"rate": tasks / asyncio.run(_drain(tasks))}


async def _drain(tasks: int) -> float:
    stop = asyncio.Event()
    tally = Tally(tasks, stop.set)
    loom, noop = counted("memory://", tally)
    async with loom:
        await filled(noop, tasks)
        seconds = await drained(loom, stop)
    tally.check_once()
    return seconds
