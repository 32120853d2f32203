"""InMemoryCache: values and locks of one process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from msgspec import Struct

from taskloom.clock import SYSTEM_CLOCK, Clock
from taskloom.codec import decode, encode
from taskloom.interfaces.cache import Cache

__all__ = ["InMemoryCache"]

_Keys: TypeAlias = set[str]  # inside the class, `set` is a method
_FOREVER = float("inf")


class _Entry(Struct):
    raw: bytes
    until: float
    owner: str | None = None
    """Who holds the lock; None for a value."""


class InMemoryCache(Cache):
    """A cache for tests and for one process. Each call is atomic.

    A key is either a value or a lock: a lock reads as its owner, and a key with a value cannot be
    locked.
    """

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._entries: dict[str, _Entry] = {}
        self._sweep_at = 1024

    def _find(self, key: str) -> _Entry | None:
        entry = self._entries.get(key)
        if entry is not None and entry.until <= self._clock.monotonic():
            del self._entries[key]
            return None
        return entry

    def _keep(self, key: str, raw: bytes, ttl: float | None, owner: str | None = None) -> None:
        now = self._clock.monotonic()
        self._entries[key] = _Entry(raw, _FOREVER if ttl is None else now + ttl, owner)
        if len(self._entries) >= self._sweep_at:
            # What nobody asks for again must go too: a sweep each time the cache has doubled.
            self._entries = {k: e for k, e in self._entries.items() if e.until > now}
            self._sweep_at = 1024 + 2 * len(self._entries)

    async def get(self, key: str) -> Any:
        entry = self._find(key)
        return None if entry is None else decode(entry.raw)

    async def get_many(self, keys: Sequence[str]) -> dict[str, Any]:
        found = {key: self._find(key) for key in keys}
        return {key: decode(entry.raw) for key, entry in found.items() if entry is not None}

    async def set(self, key: str, value: Any, ttl: float | None = None) -> None:
        self._keep(key, encode(value), ttl)

    async def delete(self, key: str) -> None:
        self._entries.pop(key, None)

    async def incr(self, key: str, by: int = 1, ttl: float | None = None) -> int:
        """Raises `ValueError` when the key holds something else than a whole number."""
        entry = self._find(key)
        if entry is None:
            self._keep(key, encode(by), ttl)
            return by
        old = decode(entry.raw)
        if not isinstance(old, int) or isinstance(old, bool):
            raise ValueError(f"{key}: holds no whole number, so nothing can be added to it")
        entry.raw = encode(old + by)
        return old + by

    async def acquire_many(self, keys: Sequence[str], owner: str, ttl: float) -> _Keys:
        held = set()
        for key in keys:
            entry = self._find(key)
            if entry is None or entry.owner == owner:
                self._keep(key, encode(owner), ttl, owner)
                held.add(key)
        return held

    async def release_many(self, keys: Sequence[str], owner: str) -> None:
        for key in keys:
            entry = self._find(key)
            if entry is not None and entry.owner == owner:
                del self._entries[key]
