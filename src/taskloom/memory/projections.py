"""InMemoryProjections: rows of entity projections of one process."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import UNSET
from msgspec.structs import replace

from taskloom.interfaces.entity_projections import EntityProjections
from taskloom.memory.copies import copied
from taskloom.projections import EntityTaskProjection, may_become
from taskloom.task import EntityRef

__all__ = ["InMemoryProjections"]


class InMemoryProjections(EntityProjections):
    """Rows for tests and for one process. Each call is atomic; `close` keeps what is there."""

    def __init__(self) -> None:
        self._rows: dict[str, EntityTaskProjection] = {}

    async def upsert_projections(self, entries: Sequence[EntityTaskProjection]) -> None:
        """Write rows by `task_id`; what would go back is passed over.

        `created_at` stays that of a task's first row, and so does `payload` once there is one.
        """
        for entry in _copies(entries):
            old = self._rows.get(entry.task_id)
            if old is None:
                self._rows[entry.task_id] = entry
            elif may_become(old.status, entry.status):
                self._rows[entry.task_id] = _merged(old, entry)

    async def get(self, task_ids: Sequence[str]) -> list[EntityTaskProjection]:
        """The rows that exist, in the order asked for."""
        return _copies(self._rows[id] for id in task_ids if id in self._rows)

    async def of_entity(self, entity: EntityRef, *, limit: int = 50) -> list[EntityTaskProjection]:
        """The rows of one entity, the last changed first."""
        found = [
            row
            for row in self._rows.values()
            if (row.entity_id, row.entity_type) == (entity.id, entity.type)
        ]
        found.sort(key=lambda row: (row.updated_at, row.task_id), reverse=True)
        return _copies(found[:limit])


def _merged(old: EntityTaskProjection, new: EntityTaskProjection) -> EntityTaskProjection:
    return replace(
        old,
        status=new.status,
        updated_at=new.updated_at,
        payload=new.payload if old.payload is UNSET else old.payload,
        error=new.error,
        result=new.result,
    )


def _copies(rows: Iterable[EntityTaskProjection]) -> list[EntityTaskProjection]:
    """All of them or, when one cannot be copied, none."""
    return [replace(row, payload=copied(row.payload), result=copied(row.result)) for row in rows]
