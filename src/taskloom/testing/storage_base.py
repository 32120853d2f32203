"""What the cases of storages share."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from taskloom.interfaces.task_storage import TaskArchive, TaskStorage
from taskloom.outcomes import Delivery, Ending, Settlement
from taskloom.task import Task, TaskStatus
from taskloom.testing.suite import Suite

__all__ = ["LONG", "Storage", "StorageSuite", "ids", "kept"]

LONG = 60.0
"""A lease that does not end within a test."""


class Storage(TaskStorage, TaskArchive):
    """For annotations: every storage of Taskloom is both."""


class StorageSuite(Suite):
    """Subclasses give a fixture `storage`: an open, empty storage."""

    async def claim(
        self, storage: Storage, queue_id: str, count: int = 1, lease: float = LONG
    ) -> list[Delivery]:
        """Exactly `count` due tasks of a queue."""
        deliveries = await storage.claim_due(count, lease=lease, queue_id=queue_id)
        assert len(deliveries) == count
        return deliveries

    async def add_and_claim(
        self, storage: Storage, count: int = 1, lease: float = LONG
    ) -> tuple[str, list[Delivery]]:
        """A queue of its own with `count` tasks, all of them claimed."""
        queue_id = self.new_queue_id()
        await storage.add(self.tasks(queue_id, count))
        return queue_id, await self.claim(storage, queue_id, count, lease)

    async def lost_and_retaken(self, storage: Storage) -> tuple[Delivery, Delivery]:
        """A delivery whose lease ran out, and the one that someone else has now."""
        queue_id, (late,) = await self.add_and_claim(storage, 1, self.lease)
        await self.outlive_lease()
        (current,) = await self.claim(storage, queue_id)
        return late, current

    async def end(
        self, storage: Storage, delivery: Delivery, status: TaskStatus, **fields: Any
    ) -> list[str]:
        """Settle one delivery under its lease."""
        return await storage.settle(Settlement(endings=(Ending(delivery, status, **fields),)))

    async def ended_task(self, storage: Storage, status: TaskStatus) -> Task[Any]:
        """A task that was claimed and ended in `status`."""
        _, (delivery,) = await self.add_and_claim(storage)
        assert await self.end(storage, delivery, status) == []
        return await self.one(storage, delivery.task.id)

    async def one(self, storage: Storage, id: str) -> Task[Any]:
        """The stored task of that id, which must exist."""
        (task,) = await storage.get([id])
        return task

    async def assert_nothing_due(self, storage: Storage, queue_id: str) -> None:
        """Nothing of the queue can be claimed now."""
        assert await storage.claim_due(10, lease=LONG, queue_id=queue_id) == []

    def retry_of(self, delivery: Delivery, **fields: Any) -> Task[Any]:
        """The task as its next attempt, due now."""
        defaults = {
            "retry_count": delivery.task.retry_count + 1,
            "execute_at": self.now() - timedelta(seconds=1),
            "status": TaskStatus.SCHEDULED,
        }
        return delivery.task.replace(**(defaults | fields))


def ids(records: list[Delivery] | list[Task[Any]]) -> list[str]:
    """The tasks' ids, in order."""
    return [each.task.id if isinstance(each, Delivery) else each.id for each in records]


def kept(task: Task[Any]) -> Task[Any]:
    """The task without the time of its last change."""
    return task.replace(updated_at=task.created_at)
