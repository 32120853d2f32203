"""MongoDBCache: values and locks in one collection.

A document has `value` (JSON bytes), `number` (a whole one, so that the server can add to it) or
`owner` (a lock). `until` says when it is over; the server deletes it some time after that.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Self, TypeAlias

from bson.int64 import Int64
from pymongo import ReturnDocument, UpdateOne
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import BulkWriteError, DuplicateKeyError

from taskloom.clock import SYSTEM_CLOCK, Clock
from taskloom.codec import decode, encode
from taskloom.interfaces import Cache
from taskloom.mongodb.database import MongoDBDatabase, database_of
from taskloom.mongodb.faults import is_known
from taskloom.mongodb.rows import Document, moment
from taskloom.mongodb.schema import Collection

__all__ = ["MongoDBCache"]

_Keys: TypeAlias = set[str]  # inside the class, `set` is a method

_LONGEST = 2**63 - 1
_LATER = timedelta(seconds=60)
"""After its time until the server deletes it: clocks may differ."""


class MongoDBCache(Cache):
    """A cache that everyone on this database shares. The server deletes what is over.

    A key is either a value or a lock: a lock has no value, and a key with a value cannot be locked.
    """

    def __init__(self, source: AsyncDatabase[Any] | MongoDBDatabase) -> None:
        self.database = database_of(source)

    @property
    def _entries(self) -> Collection:
        return self.database.collections.cache

    @classmethod
    def from_url(cls, url: str, *, clock: Clock = SYSTEM_CLOCK) -> Self:
        """A cache that makes its own database: see `MongoDBDatabase.from_url`."""
        return cls(MongoDBDatabase.from_url(url, clock=clock))

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
        lives = {"_id": {"$in": list(keys)}, "until": {"$gt": now}, "owner": {"$exists": False}}
        with self.database.calling():
            return {each["_id"]: _value(each) async for each in self._entries.find(lives)}

    async def set(self, key: str, value: Any, ttl: float | None = None) -> None:
        """Keep `value` for `ttl` seconds."""
        raw = encode(value)
        number = decode(raw)
        whole = isinstance(number, int) and not isinstance(number, bool)
        entry: Document = self._times(ttl)
        if whole and abs(number) <= _LONGEST:
            entry["number"] = Int64(number)
        else:
            entry["value"] = raw
        with self.database.calling():
            await self._entries.replace_one({"_id": key}, entry, upsert=True)

    async def delete(self, key: str) -> None:
        """Forget the key, whoever owns it. Safe to repeat."""
        with self.database.calling():
            await self._entries.delete_one({"_id": key})

    async def incr(self, key: str, by: int = 1, ttl: float | None = None) -> int:
        """Add `by` atomically, starting at 0. `ttl` counts from the first increment.

        Raises `ValueError` when what is there is not a whole number of 64 bits.
        """
        fresh: Document = {"number": Int64(by), **self._times(ttl)}
        with self.database.calling():
            entry = await self._add(key, by, fresh)
        if not isinstance(entry.get("number"), int):
            raise ValueError(f"incr: the value of {key!r} is not a whole number")
        return int(entry["number"])

    async def _add(self, key: str, by: int, fresh: Document) -> Document:
        # Not an upsert: of two that insert at once one fails, and does not say what it added to.
        added = _added(by, fresh, self.database.now_micros())
        while True:
            entry = await self._entries.find_one_and_update(
                {"_id": key}, added, return_document=ReturnDocument.AFTER
            )
            if entry is not None:
                return entry
            with contextlib.suppress(DuplicateKeyError):
                await self._entries.insert_one({"_id": key, **fresh})
                return fresh

    async def acquire_many(self, keys: Sequence[str], owner: str, ttl: float) -> _Keys:
        """Lock what is free, or already the owner's, for `ttl` seconds. Returns the keys held."""
        unique = list(dict.fromkeys(keys))
        if not unique:
            return set()
        free = {"$or": [{"until": {"$lte": self.database.now_micros()}}, {"owner": owner}]}
        lock = {
            "$set": {"owner": owner, **self._times(ttl)},
            "$unset": {"value": "", "number": ""},
        }
        # One that is somebody else's is not found, and cannot be inserted either.
        steps = [UpdateOne({"_id": key, **free}, lock, upsert=True) for key in unique]
        with self.database.calling():
            try:
                await self._entries.bulk_write(steps, ordered=False)
            except BulkWriteError as error:
                if not is_known(error):
                    raise
                taken = {each["index"] for each in error.details["writeErrors"]}
                return {key for index, key in enumerate(unique) if index not in taken}
        return {*unique}

    async def release_many(self, keys: Sequence[str], owner: str) -> None:
        """Unlock those of `keys` that are the owner's."""
        with self.database.calling():
            await self._entries.delete_many({"_id": {"$in": list(keys)}, "owner": owner})

    def _times(self, ttl: float | None) -> Document:
        if ttl is None:
            return {"until": Int64(_LONGEST)}
        until = self.database.now_micros() + round(ttl * 1_000_000)
        times: Document = {"until": Int64(until)}
        if self.database.follows_server:  # another clock's time means nothing to the server
            times["gone"] = moment(until) + _LATER
        return times


def _value(entry: Mapping[str, Any]) -> Any:
    return int(entry["number"]) if "number" in entry else decode(entry["value"])


def _added(by: int, fresh: Document, now: int) -> list[Document]:
    """The update that adds to a number; what is new or over is replaced, all else left."""
    there = {"$gt": [{"$ifNull": ["$until", now]}, now]}
    is_number = {"$in": [{"$type": "$number"}, ["int", "long"]]}
    number = {"$cond": [is_number, {"$add": ["$number", Int64(by)]}, "$number"]}
    changes: Document = {"number": {"$cond": [there, number, fresh["number"]]}}
    for name in ("value", "owner"):
        changes[name] = {"$cond": [there, f"${name}", "$$REMOVE"]}
    for name in ("gone", "until"):
        changes[name] = {"$cond": [there, f"${name}", {"$literal": fresh.get(name)}]}
    return [{"$set": changes}]
