"""taskiq's InMemoryBroker."""

from __future__ import annotations

import asyncio
from time import perf_counter

from taskiq import InMemoryBroker

from benchmarks.harness import Result, percentile
from benchmarks.work import Tally, calls, payload

__all__ = ["drain", "latency"]


def drain(tasks: int) -> Result:
    """`rate`: tasks a second once they are there; `rate_with_adding` counts that time, too."""
    return asyncio.run(_drain(tasks))


async def _drain(tasks: int) -> Result:
    tally = Tally(tasks, lambda: None)
    broker = InMemoryBroker()

    @broker.task
    async def noop(number: int, text: str) -> None:
        tally.ran(number)

    await broker.startup()
    start = perf_counter()
    for call in calls(0, tasks):
        await noop.kiq(**call)
    # `kiq` makes an asyncio task and never gives way to it: all are waiting now.
    assert tally.total == 0
    added = perf_counter()
    await broker.wait_all()
    end = perf_counter()
    await broker.shutdown()
    tally.check_once()
    return {"rate": tasks / (end - added), "rate_with_adding": tasks / (end - start)}


def latency(gaps: list[float]) -> Result:
    """Milliseconds from `kiq` to the first line, p50 and p99, one task after each gap."""
    return asyncio.run(_latency(gaps))


async def _latency(gaps: list[float]) -> Result:
    started: list[float] = []
    broker = InMemoryBroker()
    arrived = asyncio.Event()

    @broker.task
    async def noop(number: int, text: str) -> None:
        started.append(perf_counter())
        arrived.set()

    await broker.startup()
    waits = []
    for index, gap in enumerate(gaps):
        await asyncio.sleep(gap)
        arrived.clear()
        start = perf_counter()
        await noop.kiq(**payload(index))
        await arrived.wait()
        waits.append((started[-1] - start) * 1000)
    await broker.shutdown()
    return {"p50": percentile(waits, 0.5), "p99": percentile(waits, 0.99)}
