"""What people ask of the tasks on Redis."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
from msgspec import UNSET

from taskloom.codec import to_builtins
from taskloom.interfaces import CleanupStats, DeadRecord, TaskArchive, WorkerRecord
from taskloom.redis.entries import micros
from taskloom.redis.rows import StoredTask, entity_name, json_text, moment, read_row, row_of
from taskloom.redis.scripts import pack
from taskloom.redis.server import RedisServer
from taskloom.task import EntityRef, Task, TaskStatus

__all__ = ["BATCH", "RedisArchive"]

BATCH = 1_000
"""What one script changes at most: others wait while it runs."""

_FIELDS = frozenset(Task.__struct_fields__) - {"id"}
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

_decode_dead = msgspec.json.Decoder(DeadRecord).decode
_decode_worker = msgspec.json.Decoder(WorkerRecord).decode


class RedisArchive(TaskArchive):
    """The half of `RedisStorage` that no worker needs, and what both halves stand on."""

    def __init__(self, server: RedisServer) -> None:
        self.server = server

    async def run(self, script: str, message: Any) -> Any:
        """Run a script on all keys of the storage."""
        return await self.server.run(script, [self.server.keys.tasks], pack(message))

    async def read(self, ids: Sequence[str]) -> list[StoredTask]:
        """The tasks that exist, in the order asked for."""
        return [read_row(row) for row in await self.run("tasks_get", list(ids))] if ids else []

    async def in_batches(self, script: str, *message: Any) -> int:
        """Run a script again and again until it changes less than a batch; how much it changed."""
        total = 0
        while True:
            changed: int = await self.run(script, [*message, BATCH])
            total += changed
            if changed < BATCH:
                return total

    async def update(self, changes: Mapping[str, Mapping[str, Any]]) -> None:
        """Set fields. Raises `ValueError` for a field that tasks do not have, and for `id`.

        Another status ends the lease.
        """
        unknown = {name for fields in changes.values() for name in fields} - _FIELDS
        if unknown:
            raise ValueError(f"tasks have no such field to set: {', '.join(sorted(unknown))}")
        now = self.server.clock.now()
        await self._rewrite(
            list(changes),
            lambda id, task: None if task is None else _changed(task, changes[id], now),
        )

    async def upsert(self, tasks: Sequence[Task[Any]]) -> None:
        """Keep `tasks`. Of a known id only status, times, stats, result and retry_count change."""
        given = {task.id: task for task in tasks}

        def merged(id: str, task: Task[Any] | None) -> Task[Any]:
            new = given[id]
            if task is None:
                return new
            return task.replace(**{name: getattr(new, name) for name in _UPSERTED})

        await self._rewrite(list(given), merged)

    async def _rewrite(
        self, ids: list[str], think: Callable[[str, Task[Any] | None], Task[Any] | None]
    ) -> None:
        """Put `think(id, task)` in place of tasks (None: leave it); again where one has changed."""
        while ids:
            stored = {each.task.id: each for each in await self.read(ids)}
            message = []
            for id in ids:
                before = stored.get(id)
                task = think(id, None if before is None else before.task)
                if task is not None:
                    message.append((id, -1 if before is None else before.rev, row_of(task)))
            ids = [id.decode() for id in await self.run("tasks_rewrite", message)]

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
        filters = {"status": None if status is None else status.value, "queue": queue_id}
        filters |= {"type": type, "entity": None if entity is None else entity_name(entity)}
        asked = {name: value for name, value in filters.items() if value is not None}
        found: list[Task[Any]] = []
        cursor = after or ""
        while len(found) < limit:
            rows, last = await self.run("tasks_search", [asked, limit - len(found), cursor])
            found += [read_row(row).task for row in rows]
            if not last:
                break
            cursor = last.decode()
        return found

    async def counts(self) -> dict[tuple[str, TaskStatus], int]:
        """How many tasks each queue holds in each status; one read of a hash."""
        counted: dict[tuple[str, TaskStatus], int] = {}
        fields = await self.run("tasks_counts", [])
        for field, number in zip(fields[::2], fields[1::2], strict=True):
            status, _, queue_id = field.decode().partition(" ")
            counted[queue_id, TaskStatus(status)] = int(number)
        return counted

    async def oldest_waiting(self) -> dict[str, datetime]:
        """For each queue with due tasks, since when the oldest one has been due."""
        return {
            queue_id.decode(): moment(since)
            for queue_id, since in await self.run("tasks_waiting", [])
        }

    async def dead_records(self, *, limit: int = 50) -> list[DeadRecord]:
        """What was set aside, the newest first."""
        found = await self.run("tasks_dead", [limit]) if limit > 0 else []
        return [_decode_dead(record) for record in found]

    async def record_worker(self, worker: WorkerRecord, ttl: float) -> None:
        """Note that a worker lives. Forgotten after `ttl` seconds; at once when that is 0."""
        note = (worker.worker_id, json_text(worker), round(ttl * 1_000_000))
        await self.run("tasks_workers", [note])

    async def workers(self) -> list[WorkerRecord]:
        """The workers that reported within their `ttl`, by id."""
        found = [_decode_worker(record) for record in await self.run("tasks_workers", [])]
        return sorted(found, key=lambda worker: worker.worker_id)

    async def cleanup_stats(self) -> CleanupStats:
        """What `cleanup` with the present time could remove."""
        orphaned, expired = await self.run("tasks_lost", [])
        return CleanupStats(orphaned_tasks=orphaned, expired_tasks=expired)

    async def cleanup(self, *, orphaned_before: datetime, expired_before: datetime) -> int:
        """Delete `processing` tasks whose lease ended, and tasks that expired, before a time."""
        orphans = await self.in_batches(
            "tasks_cleanup", "moment:processing", micros(orphaned_before)
        )
        return orphans + await self.in_batches("tasks_cleanup", "expires", micros(expired_before))

    async def prune(self, status: TaskStatus, *, ended_before: datetime, limit: int) -> int:
        """The oldest first. Nothing for a status that is no end."""
        if not status.terminal or limit <= 0:
            return 0
        index = f"moment:{status.value}"
        return int(await self.run("tasks_cleanup", [index, micros(ended_before), limit]))


def _changed(task: Task[Any], changes: Mapping[str, Any], now: datetime) -> Task[Any]:
    given = {"updated_at": now, **changes}
    fields: dict[str, Any] = to_builtins(task)
    fields |= to_builtins({name: value for name, value in given.items() if value is not UNSET})
    for name, value in given.items():
        if value is UNSET:
            fields.pop(name, None)
    return msgspec.convert(fields, Task[Any])
