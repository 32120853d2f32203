"""MongoDBProjections: rows of entity projections beside the tasks they are about."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from taskloom.clock import SYSTEM_CLOCK, Clock
from taskloom.interfaces import EntityProjections
from taskloom.mongodb import projections
from taskloom.mongodb.schema import Collection
from taskloom.mongodb.storage import MongoDBStorage
from taskloom.projections import EntityTaskProjection
from taskloom.task import EntityRef

__all__ = ["MongoDBProjections"]


class MongoDBProjections(EntityProjections):
    """Rows in the database of a `MongoDBStorage`, whose `settle` writes those of what it ends.

    async with MongoDBStorage.from_url("mongodb://localhost/tasks") as storage:
        async with MongoDBProjections(storage) as projections:
            rows = await projections.of_entity(EntityRef("u_1", "user"))
    """

    def __init__(self, storage: MongoDBStorage) -> None:
        self.storage: MongoDBStorage = storage
        self._database = storage.database

    @property
    def _rows(self) -> Collection:
        return self._database.collections.projections

    @classmethod
    def from_url(cls, url: str, *, clock: Clock = SYSTEM_CLOCK) -> Self:
        """Projections with a storage of their own: see `MongoDBDatabase.from_url`."""
        return cls(MongoDBStorage.from_url(url, clock=clock))

    async def open(self) -> None:
        await self._database.open(self)

    async def upgrade(self) -> None:
        await self._database.upgrade()

    async def close(self) -> None:
        await self._database.close(self)

    async def upsert_projections(self, entries: Sequence[EntityTaskProjection]) -> None:
        """Write rows by `task_id`; what would go back is passed over.

        `created_at` stays that of a task's first row, and so does `payload` once there is one.
        Raises `StorageUnavailableError`.
        """
        if entries:
            await self._database.write(lambda at: projections.upsert(at, self._rows, entries))

    async def get(self, task_ids: Sequence[str]) -> list[EntityTaskProjection]:
        """The rows that exist, in the order asked for."""
        with self._database.calling():
            rows = await projections.fetch(self._rows, task_ids)
        return [rows[id] for id in task_ids if id in rows]

    async def of_entity(self, entity: EntityRef, *, limit: int = 50) -> list[EntityTaskProjection]:
        """The rows of one entity, the last changed first."""
        with self._database.calling():
            return await projections.of_entity(self._rows, entity, limit)
