"""RedisCache: values and locks under plain keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self, TypeAlias

from redis.exceptions import ResponseError

from taskloom.codec import decode, encode
from taskloom.interfaces import Cache
from taskloom.redis.clients import Client
from taskloom.redis.server import RedisServer, server_of

__all__ = ["RedisCache"]

_Keys: TypeAlias = set[str]  # inside the class, `set` is a method
_LOCK = b"\0"
"""How a lock starts, its owner follows. No JSON does."""


class RedisCache(Cache):
    """A cache that everyone on this Redis shares. Redis itself forgets what is over.

    A key is either a value or a lock: a lock has no value, and a key with a value cannot be locked.
    """

    def __init__(self, source: Client | RedisServer) -> None:
        self.server = server_of(source)
        self._prefix = self.server.keys.cache

    @classmethod
    def from_url(cls, url: str, *, prefix: str = "taskloom") -> Self:
        """A cache with connections of its own: see `RedisServer.from_url`."""
        return cls(RedisServer.from_url(url, prefix=prefix))

    async def open(self) -> None:
        await self.server.open(self)

    async def close(self) -> None:
        await self.server.close(self)

    async def get(self, key: str) -> Any:
        """The value, or None when there is none (any more)."""
        return (await self.get_many([key])).get(key)

    async def get_many(self, keys: Sequence[str]) -> dict[str, Any]:
        """The values that exist, by key; one round trip. Locks have no value."""
        if not keys:
            return {}
        async with self.server.calling():
            found = await self.server.client.mget([self._prefix + key for key in keys])
        return {
            key: decode(raw)
            for key, raw in zip(keys, found, strict=True)
            if raw is not None and not raw.startswith(_LOCK)
        }

    async def set(self, key: str, value: Any, ttl: float | None = None) -> None:
        """Keep `value` for `ttl` seconds."""
        async with self.server.calling():
            await self.server.client.set(self._prefix + key, encode(value), px=_millis(ttl))

    async def delete(self, key: str) -> None:
        """Forget the key, whoever owns it. Safe to repeat."""
        async with self.server.calling():
            await self.server.client.delete(self._prefix + key)

    async def incr(self, key: str, by: int = 1, ttl: float | None = None) -> int:
        """Add `by` atomically, starting at 0. `ttl` counts from the first increment.

        Raises `ValueError` when the value there is not a whole number of 64 bits.
        """
        try:
            return int(await self._run("cache_incr", [key], by, _millis(ttl) or 0))
        except ResponseError as error:
            if "not an integer" not in str(error) and "overflow" not in str(error):
                raise
            raise ValueError(f"incr: the value of {key!r} is not a whole number") from error

    async def acquire_many(self, keys: Sequence[str], owner: str, ttl: float) -> _Keys:
        """Lock what is free, or already the owner's, for `ttl` seconds. Returns the keys held."""
        if not keys:
            return set()
        held = await self._run("cache_lock", keys, _lock_of(owner), _millis(ttl))
        return {key for key, ours in zip(keys, held, strict=True) if ours}

    async def release_many(self, keys: Sequence[str], owner: str) -> None:
        """Unlock those of `keys` that are the owner's."""
        if keys:
            await self._run("cache_unlock", keys, _lock_of(owner))

    async def _run(self, script: str, keys: Sequence[str], *args: Any) -> Any:
        return await self.server.run(script, [self._prefix + key for key in keys], *args)


def _lock_of(owner: str) -> bytes:
    return _LOCK + owner.encode()


def _millis(ttl: float | None) -> int | None:
    """Whole milliseconds, at least one: Redis refuses 0."""
    return None if ttl is None else max(1, round(ttl * 1000))
