"""Kinesis does what engines promise, as far as a stream can; so do locks in files and on SQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from kinesis_flow import TASKS, Flow
from kinesis_server import REGION, aws_session, kinesis_client, new_stream
from taskloom.interfaces import MessageQueue, ShardLocks
from taskloom.kinesis import FileShardLocks, KinesisQueue
from taskloom.kinesis.timing import Timing
from taskloom.sql import SqlShardLocks
from taskloom.testing import QueueConformance, ShardLocksConformance

QUICK = Timing(gap=0.01, idle=0.05, look=0.1, list_shards=0.1)


class TestKinesisQueue(QueueConformance):
    lease = 0.12  # of the process's memory
    patience = 1.0

    @pytest.fixture
    async def queue(self, kinesis_url: str, tmp_path: Path) -> AsyncIterator[KinesisQueue]:
        self.url = kinesis_url
        async with (
            FileShardLocks(tmp_path / "locks") as locks,
            instance(kinesis_url, locks) as queue,
        ):
            yield queue

    async def make_queue(self, queue: MessageQueue) -> str:
        async with kinesis_client(self.url) as client:
            return await new_stream(client)


async def test_a_shard_map_that_changes_under_two_instances(
    kinesis_url: str, tmp_path: Path
) -> None:
    """Split, merge, split of a split on moto, where only its last number tells a shard's end."""
    async with (
        FileShardLocks(tmp_path / "locks") as locks,
        instance(kinesis_url, locks) as one,
        instance(kinesis_url, locks) as two,
        kinesis_client(kinesis_url) as client,
    ):
        stream, flow = await new_stream(client, shards=2), Flow()
        flow.join(one, stream)
        flow.join(two, stream)
        middle = 1 << 126
        for turn in range(6):
            await flow.put(one, stream, turn)
            if turn == 1:
                await split(client, stream, 0, middle)  # 2, 3
            elif turn == 2:
                await split(client, stream, 2, middle // 2)  # 4, 5
            elif turn == 4:
                await client.merge_shards(
                    StreamName=stream, ShardToMerge=shard(5), AdjacentShardToMerge=shard(3)
                )
        await flow.end()
        assert len(flow.runs) == 6 * TASKS, "nothing lost, nothing twice"
        assert flow.in_order
        for closed in (0, 2, 3, 5):
            assert await locks.get_checkpoint(f"{stream}/{shard(closed)}") == "SHARD_END"


def shard(number: int) -> str:
    return f"shardId-{number:012d}"


async def split(client: Any, stream: str, number: int, start: int) -> None:
    await client.split_shard(
        StreamName=stream, ShardToSplit=shard(number), NewStartingHashKey=str(start)
    )


@asynccontextmanager
async def instance(url: str, locks: ShardLocks) -> AsyncIterator[KinesisQueue]:
    queue = KinesisQueue(aws_session(), shard_locks=locks, endpoint_url=url, region_name=REGION)
    queue.timing = QUICK
    async with queue:
        yield queue


class TestFileShardLocks(ShardLocksConformance):
    @pytest.fixture
    async def locks(self, tmp_path: Path) -> AsyncIterator[FileShardLocks]:
        async with FileShardLocks(tmp_path / "locks") as locks:
            yield locks


class TestSqliteShardLocks(ShardLocksConformance):
    @pytest.fixture
    async def locks(self, tmp_path: Path) -> AsyncIterator[SqlShardLocks]:
        async with SqlShardLocks.from_url(f"sqlite:///{tmp_path}/tasks.db") as locks:
            yield locks


class TestPostgresShardLocks(ShardLocksConformance):
    @pytest.fixture
    async def locks(self, postgres_tables: str) -> AsyncIterator[SqlShardLocks]:
        async with SqlShardLocks.from_url(postgres_tables) as locks:
            yield locks
