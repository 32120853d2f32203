"""Redis does what engines promise."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from taskloom.identity import new_id
from taskloom.redis import (
    RedisCache,
    RedisFlowBarrier,
    RedisQueue,
    RedisServer,
    RedisShardLocks,
    RedisStorage,
)
from taskloom.testing import (
    BarrierConformance,
    CacheConformance,
    QueueConformance,
    ShardLocksConformance,
    StorageConformance,
)


@pytest.fixture
async def server(redis_url: str) -> AsyncIterator[RedisServer]:
    """Keys that no other test uses."""
    async with RedisServer.from_url(redis_url, prefix=f"test-{new_id()}") as server:
        yield server


class TestRedisCache(CacheConformance):
    @pytest.fixture
    async def cache(self, server: RedisServer) -> AsyncIterator[RedisCache]:
        async with RedisCache(server) as cache:
            yield cache


class TestRedisQueue(QueueConformance):
    across_puts = False

    @pytest.fixture
    async def queue(self, server: RedisServer) -> AsyncIterator[RedisQueue]:
        async with RedisQueue(server) as queue:
            yield queue


class TestRedisStorage(StorageConformance):
    @pytest.fixture
    async def storage(self, server: RedisServer) -> AsyncIterator[RedisStorage]:
        async with RedisStorage(server) as storage:
            yield storage


class TestRedisFlowBarrier(BarrierConformance):
    @pytest.fixture
    async def barrier(self, server: RedisServer) -> AsyncIterator[RedisFlowBarrier]:
        async with RedisFlowBarrier(server) as barrier:
            yield barrier


class TestRedisShardLocks(ShardLocksConformance):
    @pytest.fixture
    async def locks(self, server: RedisServer) -> AsyncIterator[RedisShardLocks]:
        async with RedisShardLocks(server) as locks:
            yield locks
