"""Where the tasks of a rig are: on MongoDB, with transactions and without."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crashing import Watch
from place import Place
from rows_mongodb import MongoDBRows
from watched_mongodb import (
    WatchedMongoDBBarrier,
    WatchedMongoDBProjections,
    WatchedMongoDBStorage,
    between_commands,
)

from taskloom.mongodb import (
    MongoDBCache,
    MongoDBDatabase,
    MongoDBFlowBarrier,
    MongoDBProjections,
    MongoDBQueue,
    MongoDBStorage,
)
from taskloom.urls import Parts

__all__ = ["MongoDBPlace", "MongoDBStepsPlace"]


class MongoDBPlace(Place):
    """An empty database of one's own, with everything in its transactions."""

    apart = False
    # Twelve statements, of some hundred a second that the server does for all workers together.
    upkeep = 2.0

    def __init__(self, url: str, directory: Path, *, beside: bool) -> None:
        # Without transactions a step may count, and its task run again.
        super().__init__(url, directory, beside=self.in_steps)
        self._rows = MongoDBRows(url)

    def _database(self) -> MongoDBDatabase:
        return MongoDBDatabase.from_url(self.url, _transactions=not self.in_steps)

    def parts(self) -> Parts:
        storage = MongoDBStorage(self._database())
        return _parts(storage, MongoDBFlowBarrier(storage), MongoDBProjections(storage))

    def watched(self, watch: Watch) -> Parts:
        between_commands(watch.crash)
        storage = WatchedMongoDBStorage(self._database(), watch)
        projections = WatchedMongoDBProjections(storage, watch)
        return _parts(storage, WatchedMongoDBBarrier(storage), projections)

    async def begin(self) -> None:
        await self._rows.watch()

    async def changes(self) -> Sequence[Sequence[Any]]:
        return await self._rows.changes()

    async def flows(self) -> dict[str, str]:
        return await self._rows.flows()

    async def projections(self) -> dict[str, str]:
        return await self._rows.projections()

    async def held(self) -> list[str]:
        return await self._rows.held()

    async def spoil(self, id: str) -> None:
        await self._rows.spoil(id)

    async def clear(self) -> None:
        await self._rows.drop()


class MongoDBStepsPlace(MongoDBPlace):
    """As a server by itself would have it: without transactions."""

    in_steps = True


def _parts(
    storage: MongoDBStorage, barrier: MongoDBFlowBarrier, projections: MongoDBProjections
) -> Parts:
    cache = MongoDBCache(storage.database)
    return Parts(MongoDBQueue(storage), storage, cache, barrier, projections)
