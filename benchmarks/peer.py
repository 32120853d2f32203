"""What every library beside ours is put through: filled, drained, added to, and kept waiting."""

from __future__ import annotations

import asyncio
import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from time import perf_counter
from typing import Any, ClassVar, Self, TypeVar

from benchmarks.harness import Result, percentile
from benchmarks.work import Tally, calls, payload

__all__ = ["PER_CALL", "Peer", "add", "drain", "fill", "latency", "one_by_one"]

T = TypeVar("T")

PER_CALL = 1_000


class Peer(ABC):
    """A library as its documentation uses it, on the server at `url`.

    Its task takes `number` and `text` and does nothing but call `ran(number)`, from any thread.
    """

    uvloop: ClassVar[bool] = False
    """Whether the library's own command line runs on it."""

    def __init__(self, url: str, ran: Callable[[int], object]) -> None:
        self.url = url
        self.ran = ran

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    @abstractmethod
    async def enqueue(self, call: dict[str, Any]) -> None:
        """Add one task."""

    async def enqueue_many(self, calls: list[dict[str, Any]]) -> None:
        """Add many, in the fastest way there is: one after the other unless there is a call."""
        for call in calls:
            await self.enqueue(call)

    @abstractmethod
    def worker(self) -> AbstractAsyncContextManager[None]:
        """One worker, at work inside the block."""


def _peer(who: str) -> type[Peer]:
    """A library by `module:class` of this package."""
    module, _, name = who.partition(":")
    made: type[Peer] = getattr(importlib.import_module(f"benchmarks.{module}"), name)
    return made


def _run(peer: type[Peer], main: Coroutine[Any, Any, T]) -> T:
    if not peer.uvloop:
        return asyncio.run(main)
    uvloop: Any = importlib.import_module("uvloop")
    answer: T = uvloop.run(main)
    return answer


def fill(who: str, url: str, tasks: int) -> Result:
    """Put `tasks` tasks where `drain` finds them."""
    return add(who, url, tasks)


def add(who: str, url: str, tasks: int) -> Result:
    """`rate` of adding many at a time."""

    async def main() -> float:
        async with _peer(who)(url, print) as peer:
            start = perf_counter()
            for first in range(0, tasks, PER_CALL):
                await peer.enqueue_many(calls(first, min(first + PER_CALL, tasks)))
            return perf_counter() - start

    return {"rate": tasks / _run(_peer(who), main())}


def one_by_one(who: str, url: str, tasks: int) -> Result:
    """`rate` of adding one task after the other."""

    async def main() -> float:
        async with _peer(who)(url, print) as peer:
            start = perf_counter()
            for call in calls(0, tasks):
                await peer.enqueue(call)
            return perf_counter() - start

    return {"rate": tasks / _run(_peer(who), main())}


def drain(who: str, url: str, tasks: int) -> Result:
    """`rate`: tasks a second, from starting a worker to the last run."""

    async def main() -> float:
        loop, done = asyncio.get_running_loop(), asyncio.Event()
        tally = Tally(tasks, lambda: loop.call_soon_threadsafe(done.set))
        async with _peer(who)(url, tally.ran) as peer:
            start = perf_counter()
            async with peer.worker():
                await done.wait()
                seconds = perf_counter() - start
        tally.check_once()
        return seconds

    return {"rate": tasks / _run(_peer(who), main())}


def latency(who: str, url: str, gaps: list[float]) -> Result:
    """Milliseconds from enqueueing to the first line, p50 and p99, one task after each gap."""

    async def main() -> list[float]:
        loop, arrived = asyncio.get_running_loop(), asyncio.Event()
        started: list[float] = []

        def ran(_: int) -> None:
            started.append(perf_counter())
            loop.call_soon_threadsafe(arrived.set)

        waits = []
        async with _peer(who)(url, ran) as peer, peer.worker():
            for index, gap in enumerate(gaps):
                await asyncio.sleep(gap)
                arrived.clear()
                start = perf_counter()
                await peer.enqueue(payload(index))
                await arrived.wait()
                waits.append((started[-1] - start) * 1000)
        return waits

    waits = _run(_peer(who), main())
    return {"p50": percentile(waits, 0.5), "p99": percentile(waits, 0.99)}
