"""How soon a task starts on an idle worker in the same process."""

from __future__ import annotations

import asyncio
import random
from time import perf_counter

from benchmarks.harness import Figure, Options, Result, database, measure, percentile
from benchmarks.ours import QUEUE
from benchmarks.work import payload
from taskloom import Loom

__all__ = ["figures", "gaps_for", "ours"]

_OURS, _HUEYS = 500, 60
"""Samples per round. huey's waits take long, so it gets fewer."""


def figures(options: Options) -> list[Figure]:
    """p50 and p99 on SQLite beside huey's, in memory beside taskiq's."""
    found: dict[str, list[Result]] = {"sqlite": [], "huey": [], "memory": [], "taskiq": []}
    for round in range(options.rounds):
        gaps = gaps_for(_OURS, seed=round)
        with database() as path:
            found["sqlite"].append(measure("latency:ours", url=f"sqlite:///{path}", gaps=gaps))
        with database() as path:
            found["huey"].append(measure("huey_peer:latency", path=path, gaps=gaps[:_HUEYS]))
        found["memory"].append(measure("latency:ours", url="memory://", gaps=gaps))
        found["taskiq"].append(measure("taskiq_peer:latency", gaps=gaps))
    return [
        *_lines("SQLite", found["sqlite"], "huey SqliteHuey", found["huey"], 3.0, 10.0),
        *_lines("memory", found["memory"], "taskiq InMemoryBroker", found["taskiq"], 0.3, 0.6),
    ]


def _lines(
    engine: str, mine: list[Result], against: str, others: list[Result], p50: float, p99: float
) -> list[Figure]:
    return [
        Figure(
            what=f"{engine}: enqueue to first line, {name}",
            unit="ms",
            ours=[result[name] for result in mine],
            against=against,
            theirs=[result[name] for result in others],
            limit=limit,
        )
        for name, limit in (("p50", p50), ("p99", p99))
    ]


def gaps_for(count: int, seed: int) -> list[float]:
    """Pauses of 5 to 15 ms: long enough for a worker to settle and be idle again."""
    chance = random.Random(seed)
    return [chance.uniform(0.005, 0.015) for _ in range(count)]


def ours(url: str, gaps: list[float]) -> Result:
    """Milliseconds from calling `enqueue` to the first line, p50 and p99, one after each gap."""
    return asyncio.run(_ours(url, gaps))


async def _ours(url: str, gaps: list[float]) -> Result:
    started: list[float] = []
    arrived, stop = asyncio.Event(), asyncio.Event()
    loom = Loom(url)

    @loom.task(queue=QUEUE)
    async def noop(number: int, text: str) -> None:
        started.append(perf_counter())
        arrived.set()

    waits = []
    async with loom, asyncio.TaskGroup() as group:
        group.create_task(loom.run_worker(stop=stop))
        for index, gap in enumerate(gaps):
            await asyncio.sleep(gap)
            arrived.clear()
            start = perf_counter()
            await noop.enqueue(**payload(index))
            await arrived.wait()
            waits.append((started[-1] - start) * 1000)
        stop.set()
    assert len(started) == len(gaps)
    return {"p50": percentile(waits, 0.5), "p99": percentile(waits, 0.99)}
