"""SqlProjections: rows of entity projections beside the tasks they are about."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from taskloom.clock import SYSTEM_CLOCK, Clock
from taskloom.interfaces import EntityProjections, TaskStorage
from taskloom.projections import EntityTaskProjection
from taskloom.sql import projections
from taskloom.sql.storage import SqlStorage
from taskloom.task import EntityRef

__all__ = ["SqlProjections"]


class SqlProjections(EntityProjections):
    """Rows in the database of a `SqlStorage`, whose `settle` writes those of the tasks it ends.

    async with SqlStorage.from_url("sqlite:///tasks.db") as storage:
        async with SqlProjections(storage) as projections:
            rows = await projections.of_entity(EntityRef("u_1", "user"))
    """

    def __init__(self, storage: SqlStorage) -> None:
        self.storage: SqlStorage = storage

    @classmethod
    def from_url(cls, url: str, *, clock: Clock = SYSTEM_CLOCK) -> Self:
        """Projections with a storage of their own: see `SqlStorage.from_url`."""
        return cls(SqlStorage.from_url(url, clock=clock))

    async def open(self) -> None:
        await self.storage.database.open(self)

    async def upgrade(self) -> None:
        await self.storage.database.upgrade()

    async def close(self) -> None:
        await self.storage.database.close(self)

    def within(self, storage: TaskStorage) -> SqlProjections:
        assert isinstance(storage, SqlStorage)
        return SqlProjections(storage)

    async def upsert_projections(self, entries: Sequence[EntityTaskProjection]) -> None:
        """Write rows by `task_id`, all or none; what would go back is passed over.

        `created_at` stays that of a task's first row, and so does `payload` once there is one.
        Raises `StorageUnavailableError`.
        """
        if entries:
            rows = projections.projection_rows(entries)
            await self.storage.database.write(projections.upsert_rows, rows)

    async def get(self, task_ids: Sequence[str]) -> list[EntityTaskProjection]:
        """The rows that exist, in the order asked for."""
        unique = list(dict.fromkeys(task_ids))
        rows = await self.storage.database.read(projections.fetch, unique)
        return [projections.read_projection(rows[id]) for id in task_ids if id in rows]

    async def of_entity(self, entity: EntityRef, *, limit: int = 50) -> list[EntityTaskProjection]:
        """The rows of one entity, the last changed first."""
        rows = await self.storage.database.read(projections.of_entity, entity, limit)
        return [projections.read_projection(row) for row in rows]
