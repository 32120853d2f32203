"""SqlStorage: tasks in one table, from birth to end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, Self

from msgspec.structs import replace

from taskloom.clock import SYSTEM_CLOCK, Clock
from taskloom.outcomes import Delivery, Settlement, UnreadableRecord
from taskloom.sql import adding, changing, claiming, claims, questions, records, settling, upkeep
from taskloom.sql.archive import SqlArchive
from taskloom.sql.claims import Claimed, Key
from taskloom.sql.database import SqlDatabase
from taskloom.sql.deliveries import Found, deliveries, deliveries_or_records
from taskloom.sql.rows import NotATaskError, TaskRow, full_row, full_rows, micros, read_task
from taskloom.sql.settling import SettlePart, Written
from taskloom.storage_queue import QueueStorage
from taskloom.task import Task, TaskStatus

__all__ = ["SqlStorage", "keys_of"]

logger = logging.getLogger("taskloom.sql")

_MANY = 1_000
"""Tasks from which making rows of them moves to a thread: about 5 ms of the event loop."""


class SqlStorage(SqlArchive, QueueStorage):
    """Tasks on SQLite or PostgreSQL; every method is one transaction.

    Takes an `Engine` (SQLite) or an `AsyncEngine` (PostgreSQL) of SQLAlchemy, which stays yours, or
    a `SqlDatabase`, which parts can share:

        async with SqlStorage.from_url("sqlite:///tasks.db") as storage:
            await storage.add([Task(type="hello", queue_id="q", payload=None)])
    """

    @classmethod
    def from_url(cls, url: str, *, clock: Clock = SYSTEM_CLOCK) -> Self:
        """A storage that makes its own database: see `SqlDatabase.from_url`."""
        return cls(SqlDatabase.from_url(url, clock=clock))

    async def open(self) -> None:
        await self.database.open(self)

    async def close(self) -> None:
        await self.database.close(self)

    async def upgrade(self) -> None:
        await self.database.upgrade()

    def within(self, connection: Any, *, ended: Callable[[bool], None] | None = None) -> SqlStorage:
        """This storage on a connection or a session of SQLAlchemy that leads to its database."""
        return SqlStorage(self.database.within(connection, ended))

    async def add(self, tasks: Sequence[Task[Any]]) -> list[Task[Any]]:
        """Keep `tasks`; one INSERT. Raises `InvalidTaskError`, nothing kept, for one it cannot."""
        if not tasks:
            return []
        rows = await self._rows(tasks)
        write = (
            self.database.write_at_once if adding.is_one_statement(rows) else self.database.write
        )
        new = await write(adding.add, rows)
        self._notify(rows)
        first: dict[str, Task[Any]] = {}
        for task in tasks:
            first.setdefault(task.id, task)
        return [task for id, task in first.items() if id in new]

    async def claim_due(
        self, limit: int, *, lease: float, queue_id: str | None = None, now: datetime | None = None
    ) -> list[Delivery]:
        """Due tasks. Records that are none are set aside, with a warning."""
        found = await self.claim_records(limit, lease=lease, queue_id=queue_id, now=now)
        unreadable = [record for record in found if isinstance(record, UnreadableRecord)]
        if unreadable:
            logger.warning("%d records are no tasks and were set aside", len(unreadable))
            await self.set_aside(unreadable)
        return [record for record in found if isinstance(record, Delivery)]

    async def claim_records(
        self, limit: int, *, lease: float, queue_id: str | None = None, now: datetime | None = None
    ) -> list[Delivery | UnreadableRecord]:
        """As `claim_due`, with the records that are not tasks among the others."""
        at = now or self.database.now()
        start, until = micros(at), micros(at) + round(lease * 1_000_000)
        claim = claiming.claim(self.database, queue_id, limit, start, until)
        job = self.database.spawn(self._records(claim, at))
        try:
            return await asyncio.shield(job)
        except asyncio.CancelledError:
            # The thread may be about to commit: what it took is nobody's unless it is given back.
            await asyncio.shield(self.database.spawn(self._take_back(job)))
            raise

    async def take_over(self, ids: Sequence[str], *, lease: float) -> list[Delivery]:
        at = self.database.now()
        until = micros(at) + round(lease * 1_000_000)
        taken = claiming.take_over(self.database, ids, micros(at), until)
        records = await self._records(taken, at)
        found = {record.task.id: record for record in records if isinstance(record, Delivery)}
        return [found[id] for id in dict.fromkeys(ids) if id in found]

    async def _records(
        self, claim: Awaitable[list[Claimed]], at: datetime
    ) -> list[Delivery | UnreadableRecord]:
        """What a claim has taken, in due order."""
        found: list[Found] = []
        for claimed in await claim:
            try:
                found += deliveries(claimed, at)
            except NotATaskError:
                rows = await self.database.read(claims.bodies, claimed.seqs)
                found += deliveries_or_records(claimed, rows, at)
        return [record for _, _, record in sorted(found)]

    async def _take_back(self, job: asyncio.Task[list[Delivery | UnreadableRecord]]) -> None:
        (taken,) = await asyncio.gather(job, return_exceptions=True)
        if not isinstance(taken, BaseException):
            # What is no task cannot be named; it waits for its lease to end.
            await self.give_back([record for record in taken if isinstance(record, Delivery)])

    async def give_back(
        self, deliveries: Sequence[Delivery], *, delay: float = 0.0
    ) -> list[Delivery]:
        """End leases early, as if the claim had not been. Returns those no longer ours."""
        gone = await self._release(keys_of(deliveries), delay)
        self.database.wakeups.notify({delivery.task.queue_id for delivery in deliveries})
        return _of_keys(deliveries, gone)

    async def _release(self, keys: Sequence[Key], delay: float = 0.0) -> list[Key]:
        now = self.database.now_micros()
        due = now + round(delay * 1_000_000)
        return await self.database.write(claims.release, keys, due, now)

    async def put_back(
        self, deliveries: Sequence[Delivery], tasks: Sequence[Task[Any]]
    ) -> list[Delivery]:
        """End leases with `tasks`, one per delivery, in place of what was delivered."""
        again = {"status": TaskStatus.SCHEDULED, "updated_at": self.database.now()}
        rows = [
            full_row(replace(task, **again), delivery.receipt)
            for delivery, task in zip(deliveries, tasks, strict=True)
        ]
        gone = await self.database.write(claims.put_back, rows)
        self._notify(rows)
        return _of_keys(deliveries, gone)

    async def extend_leases(self, deliveries: Sequence[Delivery], lease: float) -> list[Delivery]:
        """Lease for `lease` seconds from now; one UPDATE."""
        until = self.database.now_micros() + round(lease * 1_000_000)
        gone = await self.database.write(claims.extend, keys_of(deliveries), until)
        return _of_keys(deliveries, gone)

    async def next_due(self, queue_id: str) -> int | None:
        """When the queue's first task may be claimed, in microseconds; None if there is none."""
        return await self.database.read_at_once(claims.next_due, queue_id)

    async def depth(self, queue_id: str) -> int:
        """How many tasks of a queue could be claimed now."""
        return await self.database.read(questions.depth, queue_id, self.database.now_micros())

    async def settle(self, plan: Settlement) -> list[str]:
        """Write `plan` in one transaction.

        A repeated settle is recognised by its epoch and writes nothing. Cancelling it leaves it
        written whole or not at all.
        """
        now = self.database.now()
        if len(plan.endings) + len(plan.added) > _MANY or _children(plan) > _MANY:
            rows = await asyncio.to_thread(settling.prepare, plan, now)
        else:
            rows = settling.prepare(plan, now)
        try:
            refused = await self._settle(rows, micros(now), settling.settle)
        except settling.LeaseLostError:
            refused = await self._settle(rows, micros(now), settling.settle_what_is_ours)
        self._notify([*rows.nexts, *rows.free_rows, *rows.added, *rows.revived])
        for children in rows.children.values():
            self._notify(children)
        return refused

    async def _settle(self, rows: Written, now: int, settle_part: SettlePart) -> list[str]:
        return await self.database.write(settling.settle_all, rows, now, settle_part)

    async def get(self, ids: Sequence[str]) -> list[Task[Any]]:
        """The tasks that exist, in the order asked for.

        A record that cannot be read has a stand-in without payload: `execution_stats` says why.
        """
        rows = await self.database.read(changing.fetch, list(dict.fromkeys(ids)))
        return [read_task(rows[id]) for id in ids if id in rows]

    async def recover_stale(self, *, now: datetime, stale_after: float) -> int:
        """Make `scheduled` again what someone lost."""
        at = micros(now)
        before = at - round(stale_after * 1_000_000)
        recovered = await self.database.write(upkeep.recover_stale, at, before)
        if recovered:
            self.database.wakeups.notify_all()
        return recovered

    async def set_aside(self, records_: Sequence[UnreadableRecord]) -> None:
        """Move the bytes to the dead records; a row they came from ends as failed, without them.

        Equal bytes of one queue are kept once.
        """
        await self.database.write(records.set_aside, records_, self.database.now_micros())

    async def mark_executed(
        self, deliveries: Sequence[Delivery | UnreadableRecord]
    ) -> list[Delivery]:
        """End as executed what is still ours and was not settled; those no longer ours."""
        held = [delivery for delivery in deliveries if isinstance(delivery, Delivery)]
        keys = [((d.task.id, d.receipt), d.task.queue_id) for d in held]
        now = self.database.now_micros()
        gone = await self.database.write(settling.mark_executed, keys, now) if keys else []
        return _of_keys(held, gone)

    async def _rows(self, tasks: Sequence[Task[Any]]) -> list[TaskRow]:
        if len(tasks) > _MANY:
            return await asyncio.to_thread(full_rows, tasks)
        return full_rows(tasks)

    def _notify(self, rows: Iterable[TaskRow]) -> None:
        self.database.wakeups.notify({row[1] for row in rows if row[4] is not None})


def keys_of(deliveries: Iterable[Delivery]) -> list[Key]:
    """The leases that deliveries stand for."""
    return [(delivery.task.id, delivery.receipt) for delivery in deliveries]


def _of_keys(deliveries: Sequence[Delivery], keys: Iterable[Key]) -> list[Delivery]:
    gone = set(keys)
    return [d for d in deliveries if (d.task.id, d.receipt) in gone] if gone else []


def _children(plan: Settlement) -> int:
    return sum(len(ending.children) for ending in plan.endings)
