"""InMemoryStorage: stored tasks of one process."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from taskloom.clock import SYSTEM_CLOCK, Clock
from taskloom.interfaces.task_storage import DeadRecord, TaskStorage
from taskloom.memory.archive import InMemoryArchive
from taskloom.memory.copies import copied_task
from taskloom.memory.shelves import Row, Shelves
from taskloom.memory.writes import Writer
from taskloom.outcomes import Delivery, Settlement, UnreadableRecord
from taskloom.task import Task, TaskStatus

__all__ = ["InMemoryStorage"]


class InMemoryStorage(InMemoryArchive, TaskStorage):
    """A storage for tests and for one process. Lost with it; `close` keeps what is stored.

    All state changes happen between two awaits, so each call is atomic. Leases end by the
    time of day, as `now` arguments do.
    """

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        super().__init__(clock, Shelves())

    async def open(self) -> None:
        """Nothing to prepare."""

    async def close(self) -> None:
        """Nothing to let go of."""

    async def add(self, tasks: Sequence[Task[Any]]) -> list[Task[Any]]:
        new = {task.id: task for task in reversed(tasks) if task.id not in self._shelves.rows}
        fresh = [task for task in tasks if new.get(task.id) is task]
        for kept in [copied_task(task) for task in fresh]:
            self._shelves.put(Row(kept))
        return fresh

    async def claim_due(
        self, limit: int, *, lease: float, queue_id: str | None = None, now: datetime | None = None
    ) -> list[Delivery]:
        now = now or self._clock.now()
        self._lapse(now)
        deliveries: list[Delivery] = []
        if limit <= 0:
            return deliveries
        until = now + timedelta(seconds=lease)
        for row in self._shelves.ripe(self._shelves.waiting(queue_id), lambda due: due <= now):
            deliveries.append(self._lease(row, now, until))
            if len(deliveries) == limit:
                break
        return deliveries

    async def take_over(self, ids: Sequence[str], *, lease: float) -> list[Delivery]:
        now, rows = self._clock.now(), self._shelves.rows
        live = [rows[id] for id in ids if id in rows and not rows[id].task.status.terminal]
        return [self._lease(row, now, now + timedelta(seconds=lease)) for row in live]

    def _lease(self, row: Row, now: datetime, until: datetime) -> Delivery:
        changes = {"processing_started_at": now, "updated_at": now}
        task = row.task.replace(status=TaskStatus.PROCESSING, **changes)
        taken = Row(task, row.epoch + 1, row.deliveries + 1, until)
        self._shelves.put(taken)
        return Delivery(copied_task(task), taken.epoch, taken.deliveries)

    def _lapse(self, now: datetime) -> int:
        """Rows whose lease has run out wait again; what their holder reports comes too late."""
        shelf = [(TaskStatus.PROCESSING, "")]
        return sum(
            self._wait_again(row, now) for row in self._shelves.ripe(shelf, lambda end: end <= now)
        )

    def _wait_again(self, row: Row, now: datetime) -> int:
        task = row.task.replace(status=TaskStatus.SCHEDULED, updated_at=now)
        self._shelves.put(Row(task, row.epoch + 1, row.deliveries))
        return 1

    async def extend_leases(self, deliveries: Sequence[Delivery], lease: float) -> list[Delivery]:
        until = self._clock.now() + timedelta(seconds=lease)
        lost = []
        for delivery in deliveries:
            row = self._shelves.rows.get(delivery.task.id)
            if row is None or row.epoch != delivery.receipt or row.leased_until is None:
                lost.append(delivery)
            else:
                self._shelves.put(Row(row.task, row.epoch, row.deliveries, until))
        return lost

    async def settle(self, plan: Settlement) -> list[str]:
        return Writer(self._shelves, self._clock.now()).settle(plan)

    async def get(self, ids: Sequence[str]) -> list[Task[Any]]:
        rows = self._shelves.rows
        return [copied_task(rows[id].task) for id in ids if id in rows]

    async def recover_stale(self, *, now: datetime, stale_after: float) -> int:
        queued = [(TaskStatus.QUEUED, "")]
        before = now - timedelta(seconds=stale_after)
        stale = self._shelves.ripe(queued, lambda since: since < before)
        return self._lapse(now) + sum(self._wait_again(row, now) for row in stale)

    async def set_aside(self, records: Sequence[UnreadableRecord]) -> None:
        for record in records:
            dead = DeadRecord(record.raw, record.reason, record.queue_id, self._clock.now())
            self._dead.setdefault((record.queue_id, record.raw), dead)
