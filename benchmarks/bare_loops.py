"""What asyncio itself can do: loops without a library, in memory."""

from __future__ import annotations

import asyncio
from collections import deque
from contextvars import ContextVar
from time import perf_counter
from typing import Any, NamedTuple

from benchmarks.harness import Result
from benchmarks.work import Tally, calls

__all__ = ["lane", "queue"]

_running: ContextVar[dict[str, Any] | None] = ContextVar("_running", default=None)


class _Ended(NamedTuple):
    call: dict[str, Any]
    result: Any
    started: float
    ended: float


def queue(tasks: int) -> Result:
    """`rate` of an `asyncio.Queue`: filled, then emptied."""
    return {"rate": tasks / asyncio.run(_queue(tasks))}


async def _queue(tasks: int) -> float:
    tally = Tally(tasks, lambda: None)
    waiting: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    for call in calls(0, tasks):
        waiting.put_nowait(call)
    start = perf_counter()
    for _ in range(tasks):
        tally.ran((await waiting.get())["number"])
    seconds = perf_counter() - start
    tally.check_once()
    return seconds


def lane(tasks: int) -> Result:
    """`rate` of a loop of lane, coroutine, context variable and outcome."""
    return {"rate": tasks / asyncio.run(_lane(tasks))}


async def _lane(tasks: int) -> float:
    tally = Tally(tasks, lambda: None)
    waiting, ended = deque(calls(0, tasks)), list[_Ended]()

    async def noop(number: int, text: str) -> Any:
        tally.ran(number)

    start = perf_counter()
    while waiting:
        call = waiting.popleft()
        token = _running.set(call)
        began = perf_counter()
        result = await noop(**call)
        ended.append(_Ended(call, result, began, perf_counter()))
        _running.reset(token)
    seconds = perf_counter() - start
    tally.check_once()
    assert len(ended) == tasks
    return seconds
