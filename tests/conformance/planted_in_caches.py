"""Broken caches."""

from __future__ import annotations

import asyncio

from planting import fault

from taskloom.codec import decode
from taskloom.memory import InMemoryCache


@fault("cache", "release does not check the owner", InMemoryCache, "release_many")
async def _(original, self, keys, owner):
    for key in keys:
        await self.delete(key)


@fault("cache", "acquire does not check the owner", InMemoryCache, "acquire_many")
async def _(original, self, keys, owner, ttl):
    await self.release_many(keys, next((e.owner for e in self._entries.values() if e.owner), ""))
    return await original(self, keys, owner, ttl)


@fault("cache", "acquire is not atomic", InMemoryCache, "acquire_many")
async def _(original, self, keys, owner, ttl):
    free = [key for key in keys if self._find(key) is None or self._find(key).owner == owner]
    await asyncio.sleep(0)
    for key in free:
        await self.set(key, owner, ttl)
        self._entries[key].owner = owner
    return set(free)


@fault("cache", "the owner cannot renew its lock", InMemoryCache, "acquire_many")
async def _(original, self, keys, owner, ttl):
    return await original(self, [key for key in keys if self._find(key) is None], owner, ttl)


@fault("cache", "a lock is taken for all keys or none", InMemoryCache, "acquire_many")
async def _(original, self, keys, owner, ttl):
    taken = any((entry := self._find(key)) and entry.owner != owner for key in keys)
    return set() if taken else await original(self, keys, owner, ttl)


@fault("cache", "nothing ever runs out", InMemoryCache, "_keep")
def _(original, self, key, raw, ttl, owner=None):
    original(self, key, raw, None, owner)


@fault("cache", "incr loses the ttl", InMemoryCache, "incr")
async def _(original, self, key, by=1, ttl=None):
    total = await original(self, key, by, ttl)
    self._entries[key].until = float("inf")
    return total


@fault("cache", "incr starts the ttl again", InMemoryCache, "incr")
async def _(original, self, key, by=1, ttl=None):
    total = (await self.get(key) or 0) + by
    await self.set(key, total, ttl)
    return total


@fault("cache", "incr is not atomic", InMemoryCache, "incr")
async def _(original, self, key, by=1, ttl=None):
    old = await self.get(key) or 0
    await asyncio.sleep(0)
    await self.set(key, old + by, ttl)
    return old + by


@fault("cache", "values that are false do not exist", InMemoryCache, "get_many")
async def _(original, self, keys):
    return {key: value for key, value in (await original(self, keys)).items() if value}


@fault("cache", "set keeps the old ttl", InMemoryCache, "set")
async def _(original, self, key, value, ttl=None):
    old = self._find(key)
    await original(self, key, value, ttl)
    if old is not None:
        self._entries[key].until = old.until


@fault("cache", "delete leaves locks", InMemoryCache, "delete")
async def _(original, self, key):
    if (entry := self._find(key)) and entry.owner is None:
        await original(self, key)


@fault("cache", "a value is the caller's own", InMemoryCache, "get")
async def _(original, self, key, _made={}):  # noqa: B006 (one for all calls is the fault)
    entry = self._find(key)
    return entry and _made.setdefault((key, entry.raw), decode(entry.raw))
