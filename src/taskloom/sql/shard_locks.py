"""SqlShardLocks: a row per shard, a row per instance that reads a stream."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from sqlalchemy import Engine

from taskloom.clock import SYSTEM_CLOCK, Clock
from taskloom.codec import decode, encode
from taskloom.interfaces import ShardLocks
from taskloom.sql import shard_rows
from taskloom.sql.database import SqlDatabase, database_of

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = ["SqlShardLocks"]


class SqlShardLocks(ShardLocks):
    """Locks that everyone on the database shares; every method is one transaction.

    Their time is that of the server where there is one.

        async with SqlShardLocks.from_url("postgresql://user@host/shop") as locks:
            queue = KinesisQueue(session, shard_locks=locks)
    """

    def __init__(self, source: Engine | AsyncEngine | SqlDatabase) -> None:
        self.database = database_of(source)

    @classmethod
    def from_url(cls, url: str, *, clock: Clock = SYSTEM_CLOCK) -> Self:
        """Locks that make their own database: see `SqlDatabase.from_url`."""
        return cls(SqlDatabase.from_url(url, clock=clock))

    async def open(self) -> None:
        await self.database.open(self)

    async def upgrade(self) -> None:
        await self.database.upgrade()

    async def close(self) -> None:
        await self.database.close(self)

    async def acquire_lock(self, key: str, owner: str, ttl: float) -> bool:
        """Lock what is free, or already the owner's, for `ttl` seconds."""
        now = self.database.now_micros()
        write = self.database.write
        return await write(shard_rows.acquire, key, owner, now, now + _micros(ttl))

    async def renew_lock(self, key: str, owner: str, ttl: float) -> bool:
        """Hold for `ttl` seconds from now what is still the owner's."""
        now = self.database.now_micros()
        write = self.database.write
        return await write(shard_rows.renew, key, owner, now, now + _micros(ttl))

    async def release_lock(self, key: str, owner: str) -> None:
        """Unlock the key if it is the owner's. The checkpoint stays."""
        await self.database.write(shard_rows.release, key, owner)

    async def set_checkpoint(self, key: str, value: str, owner: str) -> bool:
        """Keep `value`. False, nothing written: the lock is not the owner's."""
        now = self.database.now_micros()
        kept = encode(value).decode()  # a text of PostgreSQL holds no NUL
        return await self.database.write(shard_rows.keep, key, kept, owner, now)

    async def get_checkpoint(self, key: str) -> str | None:
        """The last checkpoint. It stays until the next one, whatever becomes of the lock."""
        kept = await self.database.read(shard_rows.kept, key)
        checkpoint: str | None = None if kept is None else decode(kept)
        return checkpoint

    async def send_heartbeat(self, stream: str, instance: str, ttl: float) -> None:
        """Note that an instance reads this stream; those that ran out are forgotten."""
        now = self.database.now_micros()
        await self.database.write(shard_rows.note, stream, instance, now, now + _micros(ttl))

    async def get_active_instances(self, stream: str) -> list[str]:
        """The instances that reported within their `ttl`, sorted."""
        now = self.database.now_micros()
        return sorted(await self.database.read(shard_rows.noted, stream, now))


def _micros(ttl: float) -> int:
    return round(ttl * 1_000_000)
