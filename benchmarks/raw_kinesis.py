"""What a Kinesis can do for aiobotocore: PutRecords and GetRecords, no library, no locks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from time import perf_counter
from typing import Any

from benchmarks.harness import Result
from benchmarks.servers import REGION, STREAM, aws_session
from benchmarks.work import Tally, payload

__all__ = ["add", "drain", "fill"]

PER_CALL = 500
"""Records in one request: the most that PutRecords takes."""
PER_READ = 1_000


def fill(url: str, tasks: int) -> Result:
    """Put `tasks` records into the stream."""
    return add(url, tasks)


def add(url: str, tasks: int) -> Result:
    """`rate` of PutRecords of 500, making the bodies included."""

    async def put(client: Any) -> None:
        for first in range(0, tasks, PER_CALL):
            numbers = range(first, min(first + PER_CALL, tasks))
            answer = await client.put_records(
                StreamName=STREAM, Records=[_record(number) for number in numbers]
            )
            assert answer["FailedRecordCount"] == 0

    return {"rate": tasks / asyncio.run(_timed(url, put))}


def _record(number: int) -> dict[str, Any]:
    return {"Data": json.dumps(payload(number)).encode(), "PartitionKey": str(number)}


def drain(url: str, tasks: int) -> Result:
    """`rate` of reading all shards side by side and decoding what they have."""
    tally = Tally(tasks, lambda: None)

    async def read(client: Any) -> None:
        shards = (await client.list_shards(StreamName=STREAM))["Shards"]
        await asyncio.gather(*(_read(client, shard["ShardId"], tally) for shard in shards))

    seconds = asyncio.run(_timed(url, read))
    tally.check_once()
    return {"rate": tasks / seconds}


async def _read(client: Any, shard_id: str, tally: Tally) -> None:
    answer = await client.get_shard_iterator(
        StreamName=STREAM, ShardId=shard_id, ShardIteratorType="TRIM_HORIZON"
    )
    iterator = answer["ShardIterator"]
    while True:
        page = await client.get_records(ShardIterator=iterator, Limit=PER_READ)
        for record in page["Records"]:
            tally.ran(json.loads(record["Data"])["number"])
        if not page["MillisBehindLatest"]:
            return
        iterator = page["NextShardIterator"]


async def _timed(url: str, work: Callable[[Any], Coroutine[Any, Any, None]]) -> float:
    session = aws_session()
    async with session.create_client("kinesis", endpoint_url=url, region_name=REGION) as client:
        start = perf_counter()
        await work(client)
        return perf_counter() - start
