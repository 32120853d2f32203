"""Draining while a crowd waits and as many finished tasks are kept."""

from __future__ import annotations

import asyncio
from time import perf_counter

from benchmarks.harness import Figure, Options, Result, database, measure, percentile
from benchmarks.ours import counted
from benchmarks.work import Tally
from taskloom.outcomes import Delivery, UnreadableRecord
from taskloom.sql import SqlQueue, SqlStorage

__all__ = ["drain", "figures"]

_DRAINED = 30_000
"""How many tasks a measurement runs; the crowd behind them stays."""


def figures(options: Options) -> list[Figure]:
    """The drain rate beside that with 1,000 waiting, and the slowest claims."""
    sizes = [1_000, 100_000] if options.quick else [1_000, 100_000, 1_000_000]
    found: dict[int, list[Result]] = {size: [] for size in sizes}
    for _ in range(min(options.rounds, 3)):
        for size in sizes:
            found[size].append(_measured(size))
    small = [result["rate"] for result in found[1_000]]
    return [line for size in sizes for line in _lines(size, found[size], small)]


def _lines(size: int, found: list[Result], small: list[float]) -> list[Figure]:
    rates = [result["rate"] for result in found]
    where = f"SQLite, {size:,} waiting, {size:,} finished"
    return [
        Figure(what=f"{where}: drain", unit="tasks/s", ours=rates)
        if size == 1_000
        else Figure(
            what=f"{where}: drain",
            unit="tasks/s",
            ours=rates,
            against="with 1,000",
            theirs=small,
            at_least=0.80,
        ),
        Figure(
            what=f"{where}: claim p99", unit="ms", ours=[r["claim_p99"] for r in found], limit=50.0
        ),
    ]


def _measured(size: int) -> Result:
    with database() as path:
        measure("crowd:build", path=path, waiting=size + _DRAINED, finished=size)
        return measure("backlog:drain", path=path, waiting=size + _DRAINED, tasks=_DRAINED)


def drain(path: str, waiting: int, tasks: int) -> Result:
    """`rate` of the first `tasks` of those that wait, and `claim_p99` in ms meanwhile."""
    return asyncio.run(_drain(path, waiting, tasks))


async def _drain(path: str, waiting: int, tasks: int) -> Result:
    stop = asyncio.Event()
    ended: list[float] = []

    def on_all() -> None:
        ended.append(perf_counter())
        stop.set()

    tally = Tally(waiting, on_all, expected=tasks)
    url = f"sqlite:///{path}"
    queue = _TimedQueue(SqlStorage.from_url(url))
    loom, _ = counted(url, tally, queue=queue)
    async with loom:
        start = perf_counter()
        await loom.run_worker(stop=stop)
    tally.check_at_most_once()
    return {"rate": tasks / (ended[0] - start), "claim_p99": percentile(queue.claims, 0.99)}


class _TimedQueue(SqlQueue):
    """Notes how long each claim took that found something, in milliseconds."""

    def __init__(self, storage: SqlStorage) -> None:
        super().__init__(storage)
        self.claims: list[float] = []

    async def claim(
        self, queue_id: str, limit: int, *, lease: float, wait: float = 0.0
    ) -> list[Delivery | UnreadableRecord]:
        start = perf_counter()
        records = await super().claim(queue_id, limit, lease=lease, wait=wait)
        if records:
            self.claims.append((perf_counter() - start) * 1000)
        return records
