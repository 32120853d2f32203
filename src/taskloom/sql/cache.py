"""SqlCache: values and locks in one table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from sqlalchemy import Engine

from taskloom.clock import SYSTEM_CLOCK, Clock
from taskloom.codec import decode, encode
from taskloom.interfaces import Cache
from taskloom.sql import cache_rows
from taskloom.sql.database import SqlDatabase, database_of

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = ["SqlCache"]

_Keys: TypeAlias = set[str]


class SqlCache(Cache):
    """A cache that every process on the database shares. What is over is deleted along the way."""

    def __init__(self, source: Engine | AsyncEngine | SqlDatabase) -> None:
        self.database = database_of(source)

    @classmethod
    def from_url(cls, url: str, *, clock: Clock = SYSTEM_CLOCK) -> Self:
        """A cache that makes its own database: see `SqlDatabase.from_url`."""
        return cls(SqlDatabase.from_url(url, clock=clock))

    async def open(self) -> None:
        await self.database.open(self)

    async def upgrade(self) -> None:
        await self.database.upgrade()

    async def close(self) -> None:
        await self.database.close(self)

    async def get(self, key: str) -> Any:
        """The value, or None when there is none (any more)."""
        return (await self.get_many([key])).get(key)

    async def get_many(self, keys: Sequence[str]) -> dict[str, Any]:
        """The values that exist, by key; one query. Locks have no value."""
        now = self.database.now_micros()
        found = await self.database.read(cache_rows.values, keys, now)
        return {key: decode(value) for key, value in found.items()}

    async def set(self, key: str, value: Any, ttl: float | None = None) -> None:
        """Keep `value` for `ttl` seconds."""
        now = self.database.now_micros()
        await self.database.write(
            cache_rows.put, key, encode(value).decode(), now, _until(now, ttl)
        )

    async def delete(self, key: str) -> None:
        """Forget the key, whoever owns it. Safe to repeat."""
        await self.database.write(cache_rows.remove, key)

    async def incr(self, key: str, by: int = 1, ttl: float | None = None) -> int:
        """Add `by` atomically, starting at 0. `ttl` counts from the first increment.

        Raises `ValueError` when the value there is not a whole number.
        """
        now = self.database.now_micros()
        return await self.database.write(cache_rows.add, key, by, now, _until(now, ttl))

    async def acquire_many(self, keys: Sequence[str], owner: str, ttl: float) -> _Keys:
        """Lock what is free, or already the owner's, for `ttl` seconds. Returns the keys held."""
        now = self.database.now_micros()
        until = now + round(ttl * 1_000_000)
        return await self.database.write(cache_rows.lock, keys, owner, now, until)

    async def release_many(self, keys: Sequence[str], owner: str) -> None:
        """Unlock those of `keys` that are the owner's."""
        await self.database.write(cache_rows.unlock, keys, owner)


def _until(now: int, ttl: float | None) -> int | None:
    return None if ttl is None else now + round(ttl * 1_000_000)
