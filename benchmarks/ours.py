"""Taskloom, used as its users do: a Loom, a decorated function, a worker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from time import perf_counter
from typing import Any, TypeAlias

from benchmarks.harness import Result
from benchmarks.work import Tally, calls
from taskloom import Loom, TaskStatus
from taskloom.interfaces import MessageQueue, TaskArchive
from taskloom.task_function import TaskFunction

__all__ = ["PER_CALL", "QUEUE", "Noop", "counted", "drain", "drained", "fill", "filled"]

Noop: TypeAlias = TaskFunction[Callable[[int, str], Coroutine[Any, Any, None]]]

PER_CALL = 1_000
QUEUE = "bench"


def counted(url: str, tally: Tally, *, queue: MessageQueue | None = None) -> tuple[Loom, Noop]:
    """A Loom with a function that does nothing but be counted."""
    loom = Loom(url, queue=queue)

    @loom.task(queue=QUEUE)
    async def noop(number: int, text: str) -> None:
        tally.ran(number)

    return loom, noop


def fill(url: str, tasks: int) -> Result:
    """Put `tasks` tasks into a database that has none."""
    asyncio.run(_fill(url, tasks))
    return {}


async def _fill(url: str, tasks: int) -> None:
    loom, noop = counted(url, Tally(0, lambda: None))
    async with loom:
        await filled(noop, tasks)


async def filled(noop: Noop, tasks: int) -> None:
    """Enqueue `tasks` tasks, many per call."""
    for start in range(0, tasks, PER_CALL):
        await noop.enqueue_many(calls(start, min(start + PER_CALL, tasks)))


def drain(url: str, tasks: int) -> Result:
    """Run what `fill` has put there: `rate` in tasks a second, from start to the last settle."""
    return {"rate": tasks / asyncio.run(_drain(url, tasks))}


async def _drain(url: str, tasks: int) -> float:
    stop = asyncio.Event()
    tally = Tally(tasks, stop.set)
    loom, _ = counted(url, tally)
    async with loom:
        seconds = await drained(loom, stop)
        tally.check_once()
        await _check_executed(loom, tasks)
    return seconds


async def drained(loom: Loom, stop: asyncio.Event) -> float:
    """Seconds until a worker has stopped again, everything settled; `stop` comes from the tasks."""
    start = perf_counter()
    await loom.run_worker(stop=stop)
    return perf_counter() - start


async def _check_executed(loom: Loom, tasks: int) -> None:
    queue, storage = loom.handler.message_queue, loom.handler.storage
    assert isinstance(storage, TaskArchive)
    found = await storage.counts()
    # A queue beside its storage keeps nothing of a task that was acknowledged.
    kept = {(QUEUE, TaskStatus.EXECUTED): tasks} if queue.storage is storage else {}
    if found != kept or await queue.depth(QUEUE):
        raise AssertionError(f"not all of {tasks} tasks are executed: {found}")
