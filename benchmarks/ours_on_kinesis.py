"""Taskloom on a stream: the same as `ours`, with parts by name, for no URL says it."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import perf_counter

from benchmarks.harness import Result
from benchmarks.ours import Noop, counted, drained, filled
from benchmarks.servers import REGION, aws_session
from benchmarks.work import Tally
from taskloom import Loom
from taskloom.kinesis import FileShardLocks, KinesisQueue

__all__ = ["add", "drain", "fill"]


@asynccontextmanager
async def _at_work(url: str, tally: Tally) -> AsyncIterator[tuple[Loom, Noop]]:
    """A Loom that keeps its locks in files and what it stores in memory."""
    with tempfile.TemporaryDirectory(prefix="taskloom-bench-") as folder:
        async with FileShardLocks(Path(folder) / "locks") as locks:
            queue = KinesisQueue(
                aws_session(),
                shard_locks=locks,
                # Over all shards, as the raw loop puts them; else one type is in one shard.
                default_partition_key=lambda task: task.id,
                endpoint_url=url,
                region_name=REGION,
            )
            loom, noop = counted("memory://", tally, queue=queue)
            async with loom:
                yield loom, noop


def fill(url: str, tasks: int) -> Result:
    """Put `tasks` tasks on the stream."""
    return add(url, tasks)


def add(url: str, tasks: int) -> Result:
    """`rate` of `enqueue_many`, 1,000 per call."""
    return {"rate": tasks / asyncio.run(_add(url, tasks))}


async def _add(url: str, tasks: int) -> float:
    async with _at_work(url, Tally(0, lambda: None)) as (_, noop):
        start = perf_counter()
        await filled(noop, tasks)
        return perf_counter() - start


def drain(url: str, tasks: int) -> Result:
    """`rate` from starting a worker, which first gets its shards, to the last checkpoint."""
    return {"rate": tasks / asyncio.run(_drain(url, tasks))}


async def _drain(url: str, tasks: int) -> float:
    stop = asyncio.Event()
    tally = Tally(tasks, stop.set)
    async with _at_work(url, tally) as (loom, _):
        seconds = await drained(loom, stop)
    tally.check_once()
    return seconds
