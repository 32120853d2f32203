"""Locks in Redis with checkpoints in MongoDB do what shard locks promise, also across the two."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
from pymongo.errors import AutoReconnect
from redis.asyncio import Redis

from taskloom import StorageUnavailableError
from taskloom.mongodb import MongoDBDatabase, MongoRedisShardLocks
from taskloom.redis import RedisServer, RedisShardLocks
from taskloom.testing import ShardLocksConformance

LONG = 60.0


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[RedisServer]:
    prefix = f"test-{uuid4().hex}"
    async with Redis.from_url(redis_url) as client:
        yield RedisServer(client, prefix=prefix)
        async for key in client.scan_iter(match=f"{{{prefix}*"):
            await client.delete(key)


@pytest.fixture
async def locks(mongodb_emptied: str, redis: RedisServer) -> AsyncIterator[MongoRedisShardLocks]:
    async with MongoRedisShardLocks.from_url(mongodb_emptied, RedisShardLocks(redis)) as locks:
        yield locks


class TestMongoRedisShardLocks(ShardLocksConformance):
    @pytest.fixture
    async def locks(self, locks: MongoRedisShardLocks) -> MongoRedisShardLocks:
        return locks


async def test_one_that_lost_its_lock_between_the_servers_writes_nothing(
    mongodb_emptied: str, redis: RedisServer
) -> None:
    """Redis says yes to the first owner; then the second locks, and the first goes on."""
    beneath = Meddled(redis)
    async with (
        MongoDBDatabase.from_url(mongodb_emptied) as database,
        MongoRedisShardLocks(database, beneath) as one,
        MongoRedisShardLocks(database, RedisShardLocks(redis)) as other,
    ):
        assert await one.acquire_lock("shard", "a", LONG)
        assert await one.set_checkpoint("shard", "1", "a")

        async def overtake() -> None:
            await redis.client.delete(redis.keys.locks + "lock:shard")  # or its time is over
            assert await other.acquire_lock("shard", "b", LONG)

        beneath.after_renewing = overtake
        assert not await one.set_checkpoint("shard", "2", "a")
        assert await other.get_checkpoint("shard") == "1"
        assert await other.set_checkpoint("shard", "3", "b")
        assert not await one.set_checkpoint("shard", "2", "a")
        assert await one.get_checkpoint("shard") == "3"


async def test_checkpoints_outlive_the_data_of_redis(
    locks: MongoRedisShardLocks, redis: RedisServer
) -> None:
    assert await locks.acquire_lock("shard", "a", LONG)
    assert await locks.set_checkpoint("shard", "1", "a")
    await redis.client.delete(redis.keys.locks + "lock:shard")
    assert not await locks.set_checkpoint("shard", "2", "a")
    assert await locks.acquire_lock("shard", "b", LONG)
    assert await locks.get_checkpoint("shard") == "1"
    assert await locks.set_checkpoint("shard", "2", "b")


async def test_a_token_that_cannot_be_raised_leaves_the_shard_free(
    locks: MongoRedisShardLocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: Any, **__: Any) -> None:
        raise AutoReconnect("the connection is gone")

    with monkeypatch.context() as meddling:
        meddling.setattr(locks._shards, "find_one_and_update", away)
        with pytest.raises(StorageUnavailableError):
            await locks.acquire_lock("shard", "a", LONG)
    assert await locks.acquire_lock("shard", "b", LONG)


class Meddled(RedisShardLocks):
    """Lets something happen once, right after a lock was renewed."""

    after_renewing: Any = None

    async def renew_lock(self, key: str, owner: str, ttl: float) -> bool:
        renewed = await super().renew_lock(key, owner, ttl)
        if self.after_renewing is not None:
            happens, self.after_renewing = self.after_renewing, None
            await happens()
        return renewed
