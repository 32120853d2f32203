"""What stands in a MongoDB, read beside the library: tasks, locks, flows and projections."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from pymongo import AsyncMongoClient
from pymongo.asynchronous.database import AsyncDatabase

__all__ = ["MongoDBRows"]

_WATCHED = {
    "taskloom_projections": ("projection", "status"),
    "taskloom_flows": ("flow", "state"),
}


class MongoDBRows:
    """One database. A change stream, read at the end, tells how rows changed."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._since: Mapping[str, Any] | None = None

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[AsyncDatabase[dict[str, Any]]]:
        async with AsyncMongoClient[dict[str, Any]](self._url) as client:
            yield client.get_default_database()

    async def watch(self) -> None:
        """From now on changes are told of."""
        async with self._open() as database, await database.watch(max_await_time_ms=100) as stream:
            await stream.try_next()
            self._since = stream.resume_token

    async def changes(self) -> list[tuple[str, str, str, str]]:
        """Kind, id, before and after, in order, of flows and projections that changed."""
        known: dict[tuple[str, str], str] = {}
        changes = []
        for name, id, state in await self._states():
            kind = _WATCHED[name][0]
            before = known.get((kind, id), state)
            known[kind, id] = state
            if before != state:
                changes.append((kind, id, before, state))
        return changes

    async def _states(self) -> list[tuple[str, str, str]]:
        """What was written to them as the state of each, by collection and id, in order."""
        told: list[tuple[str, str, str]] = []
        async with (
            self._open() as database,
            await database.watch(resume_after=self._since, max_await_time_ms=200) as stream,
        ):
            while (change := await stream.try_next()) is not None:
                name = change["ns"].get("coll", "")
                written = change.get("fullDocument") or change.get("updateDescription", {}).get(
                    "updatedFields", {}
                )
                if name in _WATCHED and (state := written.get(_WATCHED[name][1])):
                    told.append((name, change["documentKey"]["_id"], state))
        return told

    async def flows(self) -> dict[str, str]:
        """The state of each flow."""
        return await self._states_of("taskloom_flows", "state")

    async def projections(self) -> dict[str, str]:
        """The status of each row of projections."""
        return await self._states_of("taskloom_projections", "status")

    async def _states_of(self, name: str, field: str) -> dict[str, str]:
        async with self._open() as database:
            return {each["_id"]: each[field] async for each in database[name].find({}, {field: 1})}

    async def held(self) -> list[str]:
        """Tasks under a lease, and locks of tasks that have not ended."""
        leased = {"$or": [{"due": {"$exists": True}}, {"status": "processing"}]}
        now = int(time.time() * 1_000_000)
        locks = {"_id": {"$regex": "^task_lock_"}, "until": {"$gt": now}}
        async with self._open() as database:
            found = await database["taskloom_tasks"].find(leased, {"_id": 1}).to_list()
            found += await database["taskloom_cache"].find(locks, {"_id": 1}).to_list()
        return [each["_id"] for each in found]

    async def spoil(self, id: str) -> None:
        """Make a stored task unreadable."""
        async with self._open() as database:
            await database["taskloom_tasks"].update_one({"_id": id}, {"$set": {"body": b"{spoilt"}})

    async def drop(self) -> None:
        """Take the database away."""
        async with self._open() as database:
            await database.client.drop_database(database.name)
