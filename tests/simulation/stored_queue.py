"""A queue whose storage is the storage in memory, as SQL has it: a task is one row for life."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from taskloom import Clock, Task, TaskStatus
from taskloom.interfaces import (
    Delivery,
    Ending,
    MessageQueue,
    QueueFeatures,
    Settlement,
    UnreadableRecord,
)
from taskloom.memory import InMemoryStorage
from taskloom.memory.shelves import Row, Shelves

__all__ = ["RecordedShelves", "StoredQueue"]


class RecordedShelves(Shelves):
    """Tells `on_change(old, new)` of every row that is written; `old` is None for a new one."""

    def __init__(self, on_change: Any) -> None:
        super().__init__()
        self._on_change = on_change

    def put(self, row: Row) -> None:
        self._on_change(self.rows.get(row.task.id), row)
        super().put(row)


class StoredQueue(MessageQueue):
    """Claims are the storage's, a settle is the acknowledgement. Every call is atomic."""

    name = "stored"
    features = QueueFeatures(durable=True)

    def __init__(self, storage: InMemoryStorage, clock: Clock) -> None:
        self.storage = storage
        self._rows = storage
        self._clock = clock

    async def put(self, queue_id: str, tasks: Sequence[Task[Any]]) -> None:
        await self._rows.add(tasks)

    async def claim(
        self, queue_id: str, limit: int, *, lease: float, wait: float = 0.0
    ) -> list[Delivery | UnreadableRecord]:
        await asyncio.sleep(0)
        found = await self._rows.claim_due(limit, lease=lease, queue_id=queue_id)
        if not found and wait > 0:
            await self._clock.sleep(wait)
            found = await self._rows.claim_due(limit, lease=lease, queue_id=queue_id)
        return list(found)

    async def extend(self, deliveries: Sequence[Delivery], lease: float) -> list[Delivery]:
        return await self._rows.extend_leases(deliveries, lease)

    async def ack(self, deliveries: Sequence[Delivery | UnreadableRecord]) -> list[Delivery]:
        endings = [Ending(d, TaskStatus.EXECUTED) for d in deliveries if isinstance(d, Delivery)]
        lost = set(await self._rows.settle(Settlement(tuple(endings))))
        return [ending.delivery for ending in endings if ending.delivery.task.id in lost]

    async def release(
        self,
        deliveries: Sequence[Delivery],
        *,
        delay: float = 0.0,
        tasks: Sequence[Task[Any]] | None = None,
    ) -> list[Delivery]:
        lost = []
        for index, delivery in enumerate(deliveries):
            row = self._rows._shelves.rows.get(delivery.task.id)
            if row is None or row.epoch != delivery.receipt or row.leased_until is None:
                lost.append(delivery)
            else:
                self._rows._shelves.put(self._back(row, delay, tasks[index] if tasks else None))
        return lost

    def _back(self, row: Row, delay: float, task: Task[Any] | None) -> Row:
        """The row as it waits again; a release takes its delivery back, a new task starts anew."""
        if task is not None:
            return Row(task.replace(status=TaskStatus.SCHEDULED), row.epoch + 1)
        changes: dict[str, Any] = {"status": TaskStatus.SCHEDULED}
        if delay > 0:
            changes["execute_at"] = self._clock.now() + timedelta(seconds=delay)
        return Row(row.task.replace(**changes), row.epoch + 1, row.deliveries - 1)

    async def depth(self, queue_id: str) -> int:
        now = self._clock.now()
        tasks = [row.task for row in self._rows._shelves.rows.values()]
        return sum(
            task.queue_id == queue_id
            and task.status is TaskStatus.SCHEDULED
            and task.execute_at <= now
            for task in tasks
        )
