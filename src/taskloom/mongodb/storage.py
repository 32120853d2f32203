"""MongoDBStorage: tasks in one collection, from birth to end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Self

from msgspec.structs import replace

from taskloom.clock import SYSTEM_CLOCK, Clock
from taskloom.identity import new_id
from taskloom.mongodb import claims, settling
from taskloom.mongodb.apart import settle_apart
from taskloom.mongodb.archive import MongoDBArchive, dead_document
from taskloom.mongodb.asking import by_ids
from taskloom.mongodb.changing import insert_new
from taskloom.mongodb.claims import Key, RowLease
from taskloom.mongodb.database import MongoDBDatabase
from taskloom.mongodb.rows import Document, documents, micros, read_task
from taskloom.mongodb.schema import EVER, claimable
from taskloom.mongodb.settling import Written
from taskloom.mongodb.transacting import Writing
from taskloom.outcomes import Delivery, Settlement, UnreadableRecord
from taskloom.storage_queue import QueueStorage
from taskloom.task import Task, TaskStatus

__all__ = ["MongoDBStorage", "prepared"]

logger = logging.getLogger("taskloom.mongodb")

_MANY = 1_000
"""Tasks from which making documents of them moves to a thread: about 5 ms of the event loop."""


class MongoDBStorage(MongoDBArchive, QueueStorage):
    """Tasks on MongoDB; every method that writes is one transaction where there are any.

    Takes an `AsyncDatabase` of pymongo, which stays yours, or a `MongoDBDatabase`, which parts can
    share:

        async with MongoDBStorage.from_url("mongodb://localhost:27017/tasks") as storage:
            await storage.add([Task(type="hello", queue_id="q", payload=None)])
    """

    @classmethod
    def from_url(cls, url: str, *, clock: Clock = SYSTEM_CLOCK) -> Self:
        """A storage that makes its own database: see `MongoDBDatabase.from_url`."""
        return cls(MongoDBDatabase.from_url(url, clock=clock))

    async def open(self) -> None:
        await self.database.open(self)

    async def close(self) -> None:
        await self.database.close(self)

    async def upgrade(self) -> None:
        await self.database.upgrade()

    async def add(self, tasks: Sequence[Task[Any]]) -> list[Task[Any]]:
        """Keep `tasks`. Raises `InvalidTaskError`, nothing kept, for one it cannot.

        Without transactions some may be kept when it fails; adding all again is safe.
        """
        if not tasks:
            return []
        if len(tasks) > _MANY:
            rows = await asyncio.to_thread(documents, tasks)
        else:
            rows = documents(tasks)
        first = {task.id: task for task in reversed(tasks)}
        write = self.database.write_at_once if len(rows) == 1 else self.database.write
        new = await write(lambda at: insert_new(at, self.kept.tasks, rows))
        self._notify(rows)
        return [first[id] for id in dict.fromkeys(task.id for task in tasks) if id in new]

    async def claim_due(
        self, limit: int, *, lease: float, queue_id: str | None = None, now: datetime | None = None
    ) -> list[Delivery]:
        """Due tasks. Records that are none are set aside, with a warning."""
        found = await self.claim_records(limit, lease=lease, queue_id=queue_id, now=now)
        return await self._deliveries(found)

    async def claim_records(
        self, limit: int, *, lease: float, queue_id: str | None = None, now: datetime | None = None
    ) -> list[Delivery | UnreadableRecord]:
        """As `claim_due`, with the records that are not tasks among the others."""
        at = now or self.database.now()
        job = self.database.spawn(self._claim(limit, at, lease, queue_id))
        try:
            return await asyncio.shield(job)
        except asyncio.CancelledError:
            # The update may be on its way: what it takes is nobody's unless it is given back.
            await asyncio.shield(self.database.spawn(self._take_back(job)))
            raise

    async def _claim(
        self, limit: int, at: datetime, lease: float, queue_id: str | None
    ) -> list[Delivery | UnreadableRecord]:
        start, until = micros(at), micros(at) + _span(lease)
        with self.database.calling():
            if queue_id is None:
                taken = await claims.claim_any(self.kept.tasks, limit, start, until)
            else:
                taken = await claims.claim(self.kept.tasks, queue_id, limit, start, until)
        return claims.records(taken, at)

    async def _take_back(self, job: asyncio.Task[list[Delivery | UnreadableRecord]]) -> None:
        (taken,) = await asyncio.gather(job, return_exceptions=True)
        if not isinstance(taken, BaseException):
            # What is no task cannot be named; it waits for its lease to end.
            await self.give_back([record for record in taken if isinstance(record, Delivery)])

    async def take_over(self, ids: Sequence[str], *, lease: float) -> list[Delivery]:
        """Lease tasks by id, whoever held them."""
        at = self.database.now()
        start, until = micros(at), micros(at) + _span(lease)
        with self.database.calling():
            taken = await claims.take_over(self.kept.tasks, ids, start, until)
        ordered = [taken[id] for id in dict.fromkeys(ids) if id in taken]
        return await self._deliveries(claims.records(ordered, at))

    async def _deliveries(self, found: Sequence[Delivery | UnreadableRecord]) -> list[Delivery]:
        unreadable = [record for record in found if isinstance(record, UnreadableRecord)]
        if unreadable:
            logger.warning("%d records are no tasks and were set aside", len(unreadable))
            await self.set_aside(unreadable)
        return [record for record in found if isinstance(record, Delivery)]

    async def give_back(
        self, deliveries: Sequence[Delivery], *, delay: float = 0.0
    ) -> list[Delivery]:
        """End leases early, as if the claim had not been. Returns those no longer ours."""
        now = self.database.now_micros()
        with self.database.calling():
            gone = await claims.release(self.kept.tasks, _keys(deliveries), now + _span(delay), now)
        self.database.wakeups.notify({delivery.task.queue_id for delivery in deliveries})
        return _of_keys(deliveries, gone)

    async def put_back(
        self, deliveries: Sequence[Delivery], tasks: Sequence[Task[Any]]
    ) -> list[Delivery]:
        """End leases with `tasks`, one per delivery, in place of what was delivered."""
        changes = {"status": TaskStatus.SCHEDULED, "updated_at": self.database.now()}
        again = [replace(task, **changes) for task in tasks]
        with self.database.calling():
            gone = await claims.put_back(self.kept.tasks, _keys(deliveries), again)
        self.database.wakeups.notify({task.queue_id for task in again})
        return _of_keys(deliveries, gone)

    async def extend_leases(self, deliveries: Sequence[Delivery], lease: float) -> list[Delivery]:
        """Lease for `lease` seconds from now."""
        until = self.database.now_micros() + _span(lease)
        with self.database.calling():
            gone = await claims.extend(self.kept.tasks, _keys(deliveries), until)
        return _of_keys(deliveries, gone)

    async def next_due(self, queue_id: str) -> int | None:
        """When the queue's first task may be claimed, in microseconds; None if there is none."""
        with self.database.calling():
            return await claims.next_due(self.kept.tasks, queue_id)

    async def depth(self, queue_id: str) -> int:
        """How many tasks of a queue could be claimed now."""
        due = {"queue": queue_id, **claimable(self.database.now_micros())}
        with self.database.calling():
            return await self.kept.tasks.count_documents(due)

    async def settle(self, plan: Settlement) -> list[str]:
        """Write `plan`: in one transaction, or what follows from endings before these.

        Where somebody else holds a record of it, each ending with what follows is by itself.

        A repeated settle is recognised by its epoch and writes nothing. Without transactions a
        lease that ends while it is written may leave children of an ending that is refused then:
        whoever has the task now makes the same ones, and they are one.
        """
        return [id for refused in await settle_apart(plan, self._settle) for id in refused]

    async def _settle(self, plan: Settlement, attempts: int | None) -> list[str]:
        now = self.database.now()
        rows = await prepared(plan, now)

        async def settle(at: Writing) -> list[str]:
            return await settling.settle(at, self.kept, rows, now)

        if rows.is_simple:
            refused = await self.database.write_at_once(settle)
        else:
            refused = await self.database.write(settle, attempts=attempts)
        self._notify(rows.waiting())
        return refused

    async def get(self, ids: Sequence[str]) -> list[Task[Any]]:
        """The tasks that exist, in the order asked for.

        A record that cannot be read has a stand-in without payload: `execution_stats` says why.
        """
        with self.database.calling():
            rows = {each["_id"]: each for each in await by_ids(Writing(), self.kept.tasks, ids)}
        return [read_task(rows[id]) for id in ids if id in rows]

    async def recover_stale(self, *, now: datetime, stale_after: float) -> int:
        """Make `scheduled` again what someone lost; due since it was last heard of."""
        at = micros(now)
        processing = {"status": TaskStatus.PROCESSING.value, "due": {"$gt": EVER, "$lt": at}}
        queued = {
            "status": TaskStatus.QUEUED.value,
            "updated": {"$lt": at - _span(stale_after)},
        }
        with self.database.calling():
            # `due` stays: the end of the lease is when the task became due.
            lapsed = await self.kept.tasks.update_many(processing, _waiting_again(at, "$due"))
            forgotten = await self.kept.tasks.update_many(queued, _waiting_again(at, "$updated"))
        recovered = lapsed.modified_count + forgotten.modified_count
        if recovered:
            self.database.wakeups.notify_all()
        return recovered

    async def set_aside(self, records: Sequence[UnreadableRecord]) -> None:
        """Move the bytes to the dead records; a task they came from ends as failed, without them.

        Equal bytes of one queue are kept once.
        """
        now = self.database.now_micros()
        dead = [dead_document(record, now) for record in records]
        leases = [r.receipt for r in records if isinstance(r.receipt, RowLease)]

        async def bury(at: Writing) -> None:
            await insert_new(at, self.kept.dead, dead)
            for lease in leases:
                held = {"_id": lease.id, "epoch": lease.epoch}
                await self.kept.tasks.update_one(held, _buried(now), session=at.session)

        if records:
            await self.database.write(bury)

    async def mark_executed(
        self, deliveries: Sequence[Delivery | UnreadableRecord]
    ) -> list[Delivery]:
        """End as executed what is still ours and was not settled; those no longer ours."""
        held = [delivery for delivery in deliveries if isinstance(delivery, Delivery)]
        with self.database.calling():
            gone = await settling.mark_executed(self.kept.tasks, _keys(held), self.database.now())
        return _of_keys(held, gone)

    def _notify(self, rows: Iterable[Document]) -> None:
        self.database.wakeups.notify({row["queue"] for row in rows if "due" in row})


async def prepared(plan: Settlement, now: datetime) -> Written:
    """`plan` as documents; many are made in a thread."""
    size = len(plan.endings) + len(plan.added) + sum(len(e.children) for e in plan.endings)
    if size > _MANY:
        return await asyncio.to_thread(settling.prepare, plan, now)
    return settling.prepare(plan, now)


def _span(seconds: float) -> int:
    return round(seconds * 1_000_000)


def _waiting_again(now: int, due: str) -> list[Document]:
    raised = {name: {"$add": [f"${name}", 1]} for name in ("epoch", "rev")}
    waits = {"status": TaskStatus.SCHEDULED.value, "due": due, "updated": now}
    return [{"$set": {**waits, **raised, "mark": new_id()}}]


def _buried(now: int) -> Document:
    return {
        "$set": {"status": TaskStatus.FAILED.value, "body": b"", "updated": now},
        "$unset": {"due": ""},
        "$inc": {"epoch": 1, "rev": 1},
    }


def _keys(deliveries: Iterable[Delivery]) -> list[Key]:
    return [(delivery.task.id, delivery.receipt) for delivery in deliveries]


def _of_keys(deliveries: Sequence[Delivery], keys: Iterable[Key]) -> list[Delivery]:
    gone = set(keys)
    return [d for d in deliveries if (d.task.id, d.receipt) in gone] if gone else []
