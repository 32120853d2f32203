"""Adding to an SQLite file: many per call, and one per call from one caller and from a hundred."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import perf_counter

from benchmarks.harness import Figure, Options, Result, alternate, database, measure
from benchmarks.ours import PER_CALL, QUEUE, Noop, counted, filled
from benchmarks.work import Tally, calls, payload
from taskloom import Loom, Task

__all__ = ["callers", "enqueued_many", "figures", "tasks_added"]

_TASKS = 50_000
_Way = Callable[[Loom, Noop], Awaitable[None]]


def figures(options: Options) -> list[Figure]:
    """The rates of adding, beside raw `executemany` and beside one caller alone."""
    found = alternate(
        options.rounds,
        {
            "tasks": lambda: _rate("adding:tasks_added", tasks=_TASKS),
            "raw": lambda: _raw(_TASKS),
            "calls": lambda: _rate("adding:enqueued_many", tasks=_TASKS),
            "hundred": lambda: _rate("adding:callers", callers=100, each=100),
            "one": lambda: _rate("adding:callers", callers=1, each=1_000),
        },
    )
    raw, unit = "raw executemany", "tasks/s"
    return [
        Figure(
            what="SQLite: add_tasks, 1,000 per call",
            unit=unit,
            ours=found["tasks"],
            against=raw,
            theirs=found["raw"],
            at_least=0.40,
        ),
        Figure(
            what="SQLite: enqueue_many, 1,000 per call",
            unit=unit,
            ours=found["calls"],
            against=raw,
            theirs=found["raw"],
        ),
        Figure(
            what="SQLite: enqueue, 100 callers",
            unit=unit,
            ours=found["hundred"],
            against="one caller",
            theirs=found["one"],
            at_least=5.0,
        ),
    ]


def _rate(function: str, **arguments: int) -> float:
    with database() as path:
        return measure(function, url=f"sqlite:///{path}", **arguments)["rate"]


def _raw(tasks: int) -> float:
    with database() as path:
        return measure("raw_sqlite:add", path=path, tasks=tasks)["rate"]


def tasks_added(url: str, tasks: int) -> Result:
    """`rate` of `add_tasks`, making the tasks included."""

    async def add(loom: Loom, noop: Noop) -> None:
        for start in range(0, tasks, PER_CALL):
            await loom.add_tasks(
                Task(type=noop.type, queue_id=QUEUE, payload=call)
                for call in calls(start, start + PER_CALL)
            )

    return {"rate": tasks / asyncio.run(_timed(url, tasks, add))}


def enqueued_many(url: str, tasks: int) -> Result:
    """`rate` of `enqueue_many`, which checks each call against the function's annotations."""

    async def add(_: Loom, noop: Noop) -> None:
        await filled(noop, tasks)

    return {"rate": tasks / asyncio.run(_timed(url, tasks, add))}


def callers(url: str, callers: int, each: int) -> Result:
    """`rate` of `callers` that enqueue one task after another, all at once."""

    async def add(_: Loom, noop: Noop) -> None:
        async def call(caller: int) -> None:
            for index in range(each):
                await noop.enqueue(*payload(caller * each + index).values())

        await asyncio.gather(*(call(caller) for caller in range(callers)))

    tasks = callers * each
    return {"rate": tasks / asyncio.run(_timed(url, tasks, add))}


async def _timed(url: str, tasks: int, add: _Way) -> float:
    loom, noop = counted(url, Tally(0, lambda: None))
    async with loom:
        start = perf_counter()
        await add(loom, noop)
        seconds = perf_counter() - start
        depth = await loom.handler.message_queue.depth(QUEUE)
        assert depth == tasks, f"{depth} of {tasks} tasks are waiting"
    return seconds
