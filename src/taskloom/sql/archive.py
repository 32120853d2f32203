"""SqlArchive: what people ask of a storage, and change in it by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine

from taskloom.interfaces import CleanupStats, DeadRecord, TaskArchive, WorkerRecord
from taskloom.sql import changing, questions, records, upkeep
from taskloom.sql.database import SqlDatabase, database_of
from taskloom.sql.rows import full_rows, micros, moment, read_task
from taskloom.task import EntityRef, Task, TaskStatus

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = ["SqlArchive"]


class SqlArchive(TaskArchive):
    """Questions are answered beside the work, from one consistent view of the database."""

    def __init__(self, source: Engine | AsyncEngine | SqlDatabase) -> None:
        self.database = database_of(source)

    async def update(self, changes: Mapping[str, Mapping[str, Any]]) -> None:
        """Set fields. Another status ends the lease on the task, anything else leaves it.

        Raises `ValueError` for a field that tasks do not have, and for `id`.
        """
        await self.database.write(changing.update_fields, changes, self.database.now())
        self.database.wakeups.notify_all()

    async def upsert(self, tasks: Sequence[Task[Any]]) -> None:
        """Keep `tasks`. Another status of a known one ends the lease on it."""
        await self.database.write(changing.upsert, tasks, full_rows(tasks))
        self.database.wakeups.notify_all()

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
        rows = await self.database.read(
            questions.search, status, queue_id, type, entity, limit, after
        )
        return [read_task(row) for row in rows]

    async def counts(self) -> dict[tuple[str, TaskStatus], int]:
        """How many tasks each queue holds in each status; reads no task that has ended."""
        return await self.database.read(questions.counts)

    async def oldest_waiting(self) -> dict[str, datetime]:
        """For each queue with due tasks, since when the oldest one has been due."""
        due = await self.database.read(questions.oldest_due, self.database.now_micros())
        return {queue: moment(at) for queue, at in due.items()}

    async def dead_records(self, *, limit: int = 50) -> list[DeadRecord]:
        """What was set aside, the newest first."""
        return await self.database.read(records.list_dead, limit)

    async def record_worker(self, worker: WorkerRecord, ttl: float) -> None:
        """Note that a worker lives, for `ttl` seconds."""
        now = self.database.now_micros()
        await self.database.write(records.report_worker, worker, now, now + round(ttl * 1_000_000))

    async def workers(self) -> list[WorkerRecord]:
        """The workers that reported within their `ttl`, by id."""
        return await self.database.read(records.list_workers, self.database.now_micros())

    async def cleanup_stats(self) -> CleanupStats:
        """What `cleanup` with the present time could remove."""
        now = self.database.now_micros()
        orphaned, expired = await self.database.read(questions.cleanup_counts, now)
        return CleanupStats(orphaned_tasks=orphaned, expired_tasks=expired)

    async def cleanup(self, *, orphaned_before: datetime, expired_before: datetime) -> int:
        """Delete `processing` tasks whose lease ended, and tasks that expired, before a time."""
        return await self.database.write(
            upkeep.cleanup, micros(orphaned_before), micros(expired_before)
        )

    async def prune(self, status: TaskStatus, *, ended_before: datetime, limit: int) -> int:
        """Delete at most `limit` tasks that ended in `status` before a time."""
        return await self.database.write(upkeep.prune, status, micros(ended_before), limit)
