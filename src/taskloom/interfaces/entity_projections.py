"""EntityProjections: where the rows of entity projections go."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from taskloom.interfaces.opening import Opening
from taskloom.interfaces.task_storage import TaskStorage
from taskloom.projections import EntityTaskProjection

__all__ = ["EntityProjections"]


class EntityProjections(Opening, ABC):
    """Receives rows, many at a time. Write one for your own tables: one method is enough.

    A call may be repeated, and calls about one task may come out of order: keep the first terminal
    status (`executed`, `failed`) of a task id, and never go back from `processing` to `scheduled`.
    What it raises is logged, and the tasks go on.
    """

    storage: TaskStorage | None = None
    """The storage whose `settle` writes `Ending.projections` in its own transaction, if any."""

    @abstractmethod
    async def upsert_projections(self, entries: Sequence[EntityTaskProjection]) -> None:
        """Write rows by `task_id`; the last of equal ids among `entries` that may is kept."""

    def within(self, storage: TaskStorage) -> EntityProjections:
        """These projections on `storage.within(...)`, in the same transaction; no I/O."""
        raise NotImplementedError(f"{type(self).__name__} shares no storage")
