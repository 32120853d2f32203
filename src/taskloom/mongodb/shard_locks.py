"""MongoRedisShardLocks: who reads a shard is in Redis, how far it has come in MongoDB.

A document of `shards` has a `token`, raised by everyone who gets the lock, and `checkpoint`. Two
servers share no transaction: what keeps an owner whose lock went to somebody else from writing is
that the token is not its own any more.
"""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple, Self

from bson.int64 import Int64
from pymongo import ReturnDocument
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import DuplicateKeyError

from taskloom.clock import SYSTEM_CLOCK, Clock
from taskloom.errors import StorageUnavailableError
from taskloom.interfaces import ShardLocks
from taskloom.mongodb.database import MongoDBDatabase, database_of

__all__ = ["MongoRedisShardLocks"]


class _Hold(NamedTuple):
    token: int
    ttl: float


class MongoRedisShardLocks(ShardLocks):
    """Checkpoints in MongoDB; locks and heartbeats, which are many and may be lost, elsewhere.

    That is `RedisShardLocks`, opened and closed with these. Where Redis comes back without its data
    a shard may be locked twice for a while; only who locked it last moves the checkpoint.

        locks = MongoRedisShardLocks(database, RedisShardLocks.from_url("redis://localhost/0"))
        async with locks, KinesisQueue(shard_locks=locks) as queue:
            ...
    """

    def __init__(self, source: AsyncDatabase[Any] | MongoDBDatabase, locks: ShardLocks) -> None:
        self.database = database_of(source)
        self.locks = locks
        self._shards = self.database.collections.shards
        self._holds: dict[tuple[str, str], _Hold] = {}

    @classmethod
    def from_url(cls, url: str, locks: ShardLocks, *, clock: Clock = SYSTEM_CLOCK) -> Self:
        """Locks that make their own database: see `MongoDBDatabase.from_url`."""
        return cls(MongoDBDatabase.from_url(url, clock=clock), locks)

    async def open(self) -> None:
        await self.database.open(self)
        await self.locks.open()

    async def upgrade(self) -> None:
        await self.database.upgrade()
        await self.locks.upgrade()

    async def close(self) -> None:
        await self.locks.close()
        await self.database.close(self)

    async def acquire_lock(self, key: str, owner: str, ttl: float) -> bool:
        """Lock what is free, or already the owner's, for `ttl` seconds, under a new token.

        An error leaves it unlocked where Redis can still be told so.
        """
        if not await self.locks.acquire_lock(key, owner, ttl):
            return False
        try:
            token = await self._raise_token(key)
            # It may have run out meanwhile: then others may hold it, under a token of before ours.
            # Theirs is refused once, and they lock it again.
            if not await self.locks.renew_lock(key, owner, ttl):
                return False
        except BaseException:
            with contextlib.suppress(StorageUnavailableError):
                await self.locks.release_lock(key, owner)
            raise
        self._holds[key, owner] = _Hold(token, ttl)
        return True

    async def _raise_token(self, key: str) -> int:
        with self.database.calling():
            while True:
                with contextlib.suppress(DuplicateKeyError):  # two of them made the document
                    shard = await self._shards.find_one_and_update(
                        {"_id": key},
                        {"$inc": {"token": Int64(1)}},
                        upsert=True,
                        return_document=ReturnDocument.AFTER,
                    )
                    assert shard is not None, "an upsert finds what it made"
                    return int(shard["token"])

    async def renew_lock(self, key: str, owner: str, ttl: float) -> bool:
        """Hold for `ttl` seconds from now what is still the owner's."""
        hold = self._holds.get((key, owner))
        if hold is None or not await self.locks.renew_lock(key, owner, ttl):
            self._holds.pop((key, owner), None)
            return False
        self._holds[key, owner] = hold._replace(ttl=ttl)
        return True

    async def release_lock(self, key: str, owner: str) -> None:
        """Unlock the key if it is the owner's. The checkpoint stays."""
        self._holds.pop((key, owner), None)
        await self.locks.release_lock(key, owner)

    async def set_checkpoint(self, key: str, value: str, owner: str) -> bool:
        """Keep `value`. False, nothing written: the lock is not the owner's.

        Asking Redis renews the lock, for as long as the last time.
        """
        hold = self._holds.get((key, owner))
        if hold is None or not await self.renew_lock(key, owner, hold.ttl):
            return False
        with self.database.calling():
            # Between the two the lock may have gone to somebody else, who raised the token.
            written = await self._shards.update_one(
                {"_id": key, "token": hold.token}, {"$set": {"checkpoint": value}}
            )
        return written.matched_count == 1

    async def get_checkpoint(self, key: str) -> str | None:
        """The last checkpoint. It stays until the next one, whatever becomes of the lock."""
        with self.database.calling():
            shard = await self._shards.find_one({"_id": key}, {"checkpoint": 1})
        return None if shard is None else shard.get("checkpoint")

    async def send_heartbeat(self, stream: str, instance: str, ttl: float) -> None:
        """Note that an instance reads this stream."""
        await self.locks.send_heartbeat(stream, instance, ttl)

    async def get_active_instances(self, stream: str) -> list[str]:
        """The instances that reported within their `ttl`, sorted."""
        return await self.locks.get_active_instances(stream)
