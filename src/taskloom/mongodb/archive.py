"""MongoDBArchive: what people ask of a storage, and change in it by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Any

import msgspec
from pymongo.asynchronous.database import AsyncDatabase

from taskloom.codec import encode
from taskloom.interfaces import (
    CleanupStats,
    DeadRecord,
    TaskArchive,
    UnreadableRecord,
    WorkerRecord,
)
from taskloom.mongodb import changing
from taskloom.mongodb.database import MongoDBDatabase, database_of
from taskloom.mongodb.rows import Document, entity_name, micros, moment, read_task
from taskloom.mongodb.schema import EVER, Collections, claimable
from taskloom.task import EntityRef, Task, TaskStatus

__all__ = ["MongoDBArchive", "dead_document"]

_ENDS_BY_EXPIRY = [
    status.value for status in (TaskStatus.SCHEDULED, TaskStatus.QUEUED, TaskStatus.EXPIRED)
]
_decode_worker = msgspec.json.Decoder(WorkerRecord).decode


class MongoDBArchive(TaskArchive):
    """The half of `MongoDBStorage` that no worker needs."""

    def __init__(self, source: AsyncDatabase[Any] | MongoDBDatabase) -> None:
        self.database = database_of(source)

    @property
    def kept(self) -> Collections:
        """The collections, for as long as the database is open."""
        return self.database.collections

    async def update(self, changes: Mapping[str, Mapping[str, Any]]) -> None:
        """Set fields. Another status ends the lease on the task, anything else leaves it.

        Raises `ValueError` for a field that tasks do not have, and for `id`.
        """
        now = self.database.now()
        await self.database.write(
            lambda at: changing.update_fields(at, self.kept.tasks, changes, now)
        )
        self.database.wakeups.notify_all()

    async def upsert(self, tasks: Sequence[Task[Any]]) -> None:
        """Keep `tasks`. Another status of a known one ends the lease on it."""
        await self.database.write(lambda at: changing.upsert(at, self.kept.tasks, tasks))
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
        wanted = {
            "status": None if status is None else status.value,
            "queue": queue_id,
            "type": type,
            "entity": None if entity is None else entity_name(entity),
        }
        asked: Document = {name: value for name, value in wanted.items() if value is not None}
        if limit <= 0:  # to MongoDB 0 means all
            return []
        with self.database.calling():
            if after is not None:
                last = await self.kept.tasks.find_one({"_id": after}, {"created": 1})
                if last is None:
                    return []
                made = last["created"]
                older = {"created": made, "_id": {"$lt": after}}
                asked["$or"] = [{"created": {"$lt": made}}, older]
            found = self.kept.tasks.find(asked).sort([("created", -1), ("_id", -1)]).limit(limit)
            return [read_task(each) async for each in found]

    async def counts(self) -> dict[tuple[str, TaskStatus], int]:
        """How many tasks each queue holds in each status; reads an index, and no task."""
        statuses = {"status": {"$in": [status.value for status in TaskStatus]}}
        each_queue = {"_id": {"queue": "$queue", "status": "$status"}, "n": {"$sum": 1}}
        with self.database.calling():
            found = await self.kept.tasks.aggregate([{"$match": statuses}, {"$group": each_queue}])
            return {
                (each["_id"]["queue"], TaskStatus(each["_id"]["status"])): each["n"]
                async for each in found
            }

    async def oldest_waiting(self) -> dict[str, datetime]:
        """For each queue with due tasks, since when the oldest one has been due."""
        due = {"status": TaskStatus.SCHEDULED.value, **claimable(self.database.now_micros())}
        first = {"_id": "$queue", "due": {"$min": "$due"}}
        with self.database.calling():
            found = await self.kept.tasks.aggregate([{"$match": due}, {"$group": first}])
            return {each["_id"]: moment(each["due"]) async for each in found}

    async def dead_records(self, *, limit: int = 50) -> list[DeadRecord]:
        """What was set aside, the newest first."""
        if limit <= 0:
            return []
        with self.database.calling():
            found = self.kept.dead.find().sort([("at", -1), ("_id", -1)]).limit(limit)
            return [
                DeadRecord(each["raw"], each["reason"], each["queue"], moment(each["at"]))
                async for each in found
            ]

    async def record_worker(self, worker: WorkerRecord, ttl: float) -> None:
        """Note that a worker lives, for `ttl` seconds; those whose time is over are forgotten."""
        now, workers = self.database.now_micros(), self.kept.workers
        note = {"body": encode(worker), "until": now + round(ttl * 1_000_000)}
        with self.database.calling():
            await workers.replace_one({"_id": worker.worker_id}, note, upsert=True)
            await workers.delete_many({"until": {"$lte": now}})

    async def workers(self) -> list[WorkerRecord]:
        """The workers that reported within their `ttl`, by id."""
        lives = {"until": {"$gt": self.database.now_micros()}}
        with self.database.calling():
            found = self.kept.workers.find(lives).sort("_id", 1)
            return [_decode_worker(each["body"]) async for each in found]

    async def cleanup_stats(self) -> CleanupStats:
        """What `cleanup` with the present time could remove."""
        now, tasks = self.database.now_micros(), self.kept.tasks
        with self.database.calling():
            return CleanupStats(
                orphaned_tasks=await tasks.count_documents(_orphaned(now)),
                expired_tasks=await tasks.count_documents(_expired(now)),
            )

    async def cleanup(self, *, orphaned_before: datetime, expired_before: datetime) -> int:
        """Delete `processing` tasks whose lease ended, and tasks that expired, before a time."""
        with self.database.calling():
            orphans = await self.kept.tasks.delete_many(_orphaned(micros(orphaned_before)))
            expired = await self.kept.tasks.delete_many(_expired(micros(expired_before)))
        return orphans.deleted_count + expired.deleted_count

    async def prune(self, status: TaskStatus, *, ended_before: datetime, limit: int) -> int:
        """The oldest first. Nothing for a status that is no end."""
        if not status.terminal or limit <= 0:
            return 0
        over = {"status": status.value, "updated": {"$lt": micros(ended_before)}}
        with self.database.calling():
            found = self.kept.tasks.find(over, {"_id": 1}).sort("updated", 1).limit(limit)
            ids = [each["_id"] async for each in found]
            if not ids:
                return 0
            gone = await self.kept.tasks.delete_many({"_id": {"$in": ids}, **over})
        return gone.deleted_count


def _orphaned(before: int) -> Document:
    return {"status": TaskStatus.PROCESSING.value, "due": {"$gt": EVER, "$lt": before}}


def _expired(before: int) -> Document:
    """A task that runs is left alone, one that ended otherwise too: its end is the news."""
    return {"status": {"$in": _ENDS_BY_EXPIRY}, "expires": {"$gt": EVER, "$lt": before}}


def dead_document(record: UnreadableRecord, now: int) -> Document:
    """A record that is no task; equal bytes of one queue have one id."""
    digest = sha256(record.queue_id.encode() + b"\0" + record.raw).hexdigest()
    kept = {"queue": record.queue_id, "raw": record.raw, "reason": record.reason, "at": now}
    return {"_id": digest, **kept}
