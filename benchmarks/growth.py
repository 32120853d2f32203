"""Whether draining slows down as more waits and more finished tasks are kept."""

from __future__ import annotations

import asyncio
from time import perf_counter

from benchmarks.engines import Engine, on_both
from benchmarks.harness import Figure, Options, Result, measure
from benchmarks.ours import PER_CALL, QUEUE, counted, filled
from benchmarks.work import Tally, payload
from taskloom import Task, TaskStatus

__all__ = ["drain", "figures", "fill"]

_DRAINED = 30_000
"""How many tasks a measurement runs; the crowd behind them stays."""
_SMALL = 1_000


def figures(options: Options) -> list[Figure]:
    """The drain rates beside those with 1,000 waiting and as many finished."""
    sizes = [_SMALL, 10_000, 100_000, *([1_000_000] if options.million else [])]
    with on_both() as engines:
        return [figure for engine in engines for figure in _curve(engine, sizes, options)]


def _curve(engine: Engine, sizes: list[int], options: Options) -> list[Figure]:
    found: dict[int, list[float]] = {size: [] for size in sizes}
    for _ in range(min(options.rounds, 3)):
        for size in sizes:
            found[size].append(_rate(engine, size))
    return [
        Figure(
            what=f"{engine.name}, {size:,} waiting, {size:,} finished: drain",
            unit="tasks/s",
            ours=found[size],
            against="with 1,000",
            theirs=found[_SMALL],
            at_least=0.80,
        )
        for size in sizes[1:]
    ]


def _rate(engine: Engine, size: int) -> float:
    waiting = size + _DRAINED
    with engine.empty() as url:
        measure("growth:fill", url=url, waiting=waiting, finished=size)
        engine.settle(url)
        return measure("growth:drain", url=url, waiting=waiting, tasks=_DRAINED)["rate"]


def fill(url: str, waiting: int, finished: int) -> Result:
    """Add tasks that wait, numbered from 0, and keep executed ones."""
    asyncio.run(_fill(url, waiting, finished))
    return {}


async def _fill(url: str, waiting: int, finished: int) -> None:
    loom, noop = counted(url, Tally(0, lambda: None))
    async with loom:
        for start in range(0, finished, PER_CALL):
            # As rows that are added ended: a worker would need minutes to end so many.
            done = [
                Task(
                    type=noop.type,
                    queue_id=QUEUE,
                    payload=payload(index),
                    status=TaskStatus.EXECUTED,
                )
                for index in range(start, min(start + PER_CALL, finished))
            ]
            await loom.handler.storage.add(done)
        await filled(noop, waiting)


def drain(url: str, waiting: int, tasks: int) -> Result:
    """`rate` of the first `tasks` of those that wait."""
    return {"rate": tasks / asyncio.run(_drain(url, waiting, tasks))}


async def _drain(url: str, waiting: int, tasks: int) -> float:
    stop = asyncio.Event()
    ended: list[float] = []

    def on_all() -> None:
        ended.append(perf_counter())
        stop.set()

    tally = Tally(waiting, on_all, expected=tasks)
    loom, _ = counted(url, tally)
    async with loom:
        start = perf_counter()
        await loom.run_worker(stop=stop)
    tally.check_at_most_once()
    return ended[0] - start
