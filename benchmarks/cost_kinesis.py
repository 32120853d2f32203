"""What the library itself costs on a stream: put, claim and acknowledge, on a Kinesis that is free.

The service is the fake of the tests, in the process; what it takes by itself is measured beside it
and taken off.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path
from time import process_time
from typing import Any

from benchmarks.harness import Figure, Options, Result, alternate, measure
from benchmarks.work import payload
from taskloom import Task
from taskloom.kinesis import FileShardLocks, KinesisQueue
from taskloom.kinesis.timing import Timing

__all__ = ["figures", "library", "service"]

_RECORDS, _AT_ONCE = 50_000, 1_000
_LIMIT = 60.0
_TESTS = Path(__file__).resolve().parents[1] / "tests"


def figures(options: Options) -> list[Figure]:
    """Microseconds of processor time per record."""
    found = alternate(
        options.rounds,
        {
            "all": lambda: measure("cost_kinesis:library")["micros"],
            "fake": lambda: measure("cost_kinesis:service")["micros"],
        },
    )
    pairs = zip(found["all"], found["fake"], strict=True)
    return [
        Figure(
            what="Kinesis: put, claim and ack, without the service",
            unit="µs/record",
            ours=[both - fake for both, fake in pairs],
            limit=_LIMIT,
        )
    ]


def _fake() -> Any:
    sys.path.insert(0, str(_TESTS))
    from kinesis_fake import FakeKinesis

    fake = FakeKinesis()
    fake.stream("bench", shards=4)
    return fake


def library() -> Result:
    """`micros` of the queue on the fake, per record."""
    return {"micros": asyncio.run(_library()) / _RECORDS * 1e6}


async def _library() -> float:
    with tempfile.TemporaryDirectory(prefix="taskloom-bench-") as folder:
        async with FileShardLocks(Path(folder) / "locks") as locks:
            queue = KinesisQueue(_fake(), shard_locks=locks)
            queue.timing = Timing(gap=0.0, idle=0.001)
            async with queue:
                return await _through(queue)


async def _through(queue: KinesisQueue) -> float:
    await queue.claim("bench", 1, lease=60)  # the shards are ours
    spent = 0.0
    for first in range(0, _RECORDS, _AT_ONCE):
        numbers = range(first, first + _AT_ONCE)
        tasks = [Task(type="noop", queue_id="bench", payload=payload(each)) for each in numbers]
        start, left = process_time(), len(tasks)
        await queue.put("bench", tasks)
        while left:
            records = await queue.claim("bench", _AT_ONCE, lease=60, wait=1.0)
            assert not await queue.ack(records)
            left -= len(records)
        spent += process_time() - start
    return spent


def service() -> Result:
    """`micros` of the fake alone, per record, put and got in the same numbers."""
    return {"micros": asyncio.run(_service()) / _RECORDS * 1e6}


async def _service() -> float:
    fake = _fake()
    shards = [each["ShardId"] for each in (await fake.list_shards(StreamName="bench"))["Shards"]]
    shards += [f"shardId-{number:012d}" for number in (2, 3)]
    after: dict[str, Any] = {}
    for shard in shards:
        found = await fake.get_shard_iterator(
            StreamName="bench", ShardId=shard, ShardIteratorType="TRIM_HORIZON"
        )
        after[shard] = found["ShardIterator"]
    data, start = b"x" * 300, process_time()
    for first in range(0, _RECORDS, _AT_ONCE):
        for part in range(first, first + _AT_ONCE, 500):
            keys = (str(number) for number in range(part, part + 500))
            await fake.put_records(
                StreamName="bench", Records=[{"Data": data, "PartitionKey": key} for key in keys]
            )
        for shard in shards:
            page = await fake.get_records(ShardIterator=after[shard], Limit=_AT_ONCE)
            after[shard] = page["NextShardIterator"]
    return process_time() - start
