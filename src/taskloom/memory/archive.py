"""What people ask of the storage in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
from msgspec import UNSET

from taskloom.clock import Clock
from taskloom.codec import to_builtins
from taskloom.interfaces.task_storage import (
    CleanupStats,
    DeadRecord,
    TaskArchive,
    WorkerRecord,
)
from taskloom.memory.copies import copied_task
from taskloom.memory.shelves import Row, Shelves
from taskloom.task import EntityRef, Task, TaskStatus

__all__ = ["InMemoryArchive"]

_UPSERTED = (
    "status",
    "execute_at",
    "expires_at",
    "updated_at",
    "processing_started_at",
    "execution_stats",
    "execution_result",
    "retry_count",
)
_ENDS_BY_EXPIRY = (TaskStatus.SCHEDULED, TaskStatus.QUEUED, TaskStatus.EXPIRED)
_FIELDS = frozenset(Task.__struct_fields__) - {"id"}


class InMemoryArchive(TaskArchive):
    """The half of `InMemoryStorage` that no worker needs. Searches look at every row."""

    def __init__(self, clock: Clock, shelves: Shelves) -> None:
        self._clock = clock
        self._shelves = shelves
        self._dead: dict[tuple[str, bytes], DeadRecord] = {}
        self._workers: dict[str, tuple[WorkerRecord, float]] = {}

    async def update(self, changes: Mapping[str, Mapping[str, Any]]) -> None:
        """Raises `ValueError` for a field that tasks do not have, and for `id`."""
        rows = self._shelves.rows
        known = {id: fields for id, fields in changes.items() if id in rows}
        for id, task in [(id, self._changed(rows[id], known[id])) for id in known]:
            self._put(rows[id], task)

    def _changed(self, row: Row, changes: Mapping[str, Any]) -> Task[Any]:
        unknown = changes.keys() - _FIELDS
        if unknown:
            raise ValueError(f"tasks have no such field to set: {', '.join(sorted(unknown))}")
        given = {"updated_at": self._clock.now(), **changes}
        fields: dict[str, Any] = to_builtins(row.task)
        fields |= to_builtins({name: value for name, value in given.items() if value is not UNSET})
        for name, value in given.items():
            if value is UNSET:
                fields.pop(name, None)
        return msgspec.convert(fields, Task[Any])

    def _put(self, row: Row, task: Task[Any]) -> None:
        """Another status is a transition: it ends the lease. Anything else leaves it."""
        if task.status is row.task.status:
            self._shelves.put(msgspec.structs.replace(row, task=task))
        else:
            self._shelves.put(Row(task, row.epoch + 1, row.deliveries))

    async def upsert(self, tasks: Sequence[Task[Any]]) -> None:
        for task in [copied_task(task) for task in tasks]:
            row = self._shelves.rows.get(task.id)
            if row is None:
                self._shelves.put(Row(task))
            else:
                changes = {name: getattr(task, name) for name in _UPSERTED}
                self._put(row, row.task.replace(**changes))

    async def search(
        self,
        *,
        status: TaskStatus | None = None,
        queue_id: str | None = None,
        type: str | None = None,
        entity: EntityRef | None = None,
        limit: int = 50,
        after: str | None = None,
    ) -> list[Task[Any]]:
        """By `created_at`, then by id. Nothing when `after` is not known (any more)."""
        wanted = {"status": status, "queue_id": queue_id, "type": type, "entity": entity}
        asked = {name: value for name, value in wanted.items() if value is not None}
        rows = self._shelves.rows
        found = [row.task for row in rows.values() if _matches(row.task, asked)]
        if after is not None:
            last = rows[after].task if after in rows else None
            found = [task for task in found if last is not None and _age(task) < _age(last)]
        found.sort(key=_age, reverse=True)
        return [copied_task(task) for task in found[:limit]]

    async def counts(self) -> dict[tuple[str, TaskStatus], int]:
        return dict(self._shelves.counts)

    async def oldest_waiting(self) -> dict[str, datetime]:
        now = self._clock.now()
        firsts = {shelf[1]: self._shelves.first(shelf) for shelf in self._shelves.waiting()}
        return {queue: entry[0] for queue, entry in firsts.items() if entry and entry[0] <= now}

    async def dead_records(self, *, limit: int = 50) -> list[DeadRecord]:
        return list(reversed(self._dead.values()))[:limit]

    async def record_worker(self, worker: WorkerRecord, ttl: float) -> None:
        self._workers[worker.worker_id] = (worker, self._clock.monotonic() + ttl)
        await self.workers()

    async def workers(self) -> list[WorkerRecord]:
        now = self._clock.monotonic()
        self._workers = {id: each for id, each in self._workers.items() if each[1] > now}
        return [worker for _, (worker, _) in sorted(self._workers.items())]

    async def cleanup_stats(self) -> CleanupStats:
        now = self._clock.now()
        return CleanupStats(
            orphaned_tasks=len(self._orphans(now)), expired_tasks=len(self._expired(now))
        )

    async def cleanup(self, *, orphaned_before: datetime, expired_before: datetime) -> int:
        ids = {*self._orphans(orphaned_before), *self._expired(expired_before)}
        for id in ids:
            self._shelves.remove(id)
        return len(ids)

    def _orphans(self, before: datetime) -> list[str]:
        return [
            id
            for id, row in self._shelves.rows.items()
            if row.task.status is TaskStatus.PROCESSING
            and (row.leased_until or row.task.updated_at) < before
        ]

    def _expired(self, before: datetime) -> list[str]:
        """A task that runs is left alone, one that ended otherwise too: its end is the news."""
        return [
            id
            for id, row in self._shelves.rows.items()
            if row.task.status in _ENDS_BY_EXPIRY
            and row.task.expires_at is not None
            and row.task.expires_at < before
        ]

    async def prune(self, status: TaskStatus, *, ended_before: datetime, limit: int) -> int:
        """The oldest first. Nothing for a status that is no end."""
        if not status.terminal or limit <= 0:
            return 0
        pruned = 0
        for row in self._shelves.ripe([(status, "")], lambda ended: ended < ended_before):
            self._shelves.remove(row.task.id)
            pruned += 1
            if pruned == limit:
                break
        return pruned


def _matches(task: Task[Any], asked: Mapping[str, Any]) -> bool:
    return all(getattr(task, name) == value for name, value in asked.items())


def _age(task: Task[Any]) -> tuple[datetime, str]:
    return (task.created_at, task.id)
