"""MongoDBQueue: the storage's tasks as a queue."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Any, Self

from msgspec.structs import replace

from taskloom.clock import SYSTEM_CLOCK, Clock
from taskloom.errors import QueueUnavailableError, StorageUnavailableError
from taskloom.interfaces import MessageQueue, QueueFeatures
from taskloom.mongodb import claims
from taskloom.mongodb.schema import claimable
from taskloom.mongodb.storage import MongoDBStorage
from taskloom.outcomes import Delivery, UnreadableRecord
from taskloom.task import Task, TaskStatus

__all__ = ["MongoDBQueue"]

_LOOK_EVERY = 1.0
"""Seconds after which a waiting claim looks whatever it was told, or not told."""


class MongoDBQueue(MessageQueue):
    """Claims straight from its storage: adding or settling there is putting or acknowledging here.

    storage = MongoDBStorage.from_url("mongodb://localhost:27017/tasks")
    async with MongoDBQueue(storage) as queue:
        await queue.put("mail", [Task(type="send", queue_id="mail", payload={})])
        [delivery] = await queue.claim("mail", 10, lease=60)
    """

    name = "mongodb"
    features = QueueFeatures(durable=True, delay=True, exclusive=True, single_ack=True)

    def __init__(self, storage: MongoDBStorage) -> None:
        self.storage: MongoDBStorage = storage
        self._database = storage.database
        self._clock = storage.database.clock
        self._idle: set[str] = set()

    @classmethod
    def from_url(cls, url: str, *, clock: Clock = SYSTEM_CLOCK) -> Self:
        """A queue that makes its own storage: see `MongoDBDatabase.from_url`."""
        return cls(MongoDBStorage.from_url(url, clock=clock))

    async def open(self) -> None:
        await self._database.open(self)

    async def upgrade(self) -> None:
        await self._database.upgrade()

    async def close(self) -> None:
        await self._database.close(self)

    async def put(self, queue_id: str, tasks: Sequence[Task[Any]]) -> None:
        """Accept `tasks`, all or none, as SCHEDULED. A known id is left as it is."""
        with _as_queue_errors(tasks):
            await self.storage.add([_for_queue(task, queue_id) for task in tasks])

    async def claim(
        self, queue_id: str, limit: int, *, lease: float, wait: float = 0.0
    ) -> list[Delivery | UnreadableRecord]:
        """At most `limit` due tasks: found, marked as ours by one update, and read by the mark.

        While it waits it looks with a read: when told of a change by another process, and at least
        once a second.
        """
        end = time.monotonic() + wait
        with _as_queue_errors():
            found = []
            if queue_id not in self._idle:
                found = await self.storage.claim_records(limit, lease=lease, queue_id=queue_id)
            if not found:
                found = await self._claim_when_due(queue_id, limit, lease, end)
        if found:
            self._idle.discard(queue_id)
        else:
            self._idle.add(queue_id)
        return found

    async def _claim_when_due(
        self, queue_id: str, limit: int, lease: float, end: float
    ) -> list[Delivery | UnreadableRecord]:
        changed_here = False
        while True:
            change = self._database.wakeups.expect(queue_id)
            try:
                # What was added in this process is likely to be there still.
                away = 0.0 if changed_here else await self._until_due(queue_id)
                if away <= 0:
                    found = await self.storage.claim_records(limit, lease=lease, queue_id=queue_id)
                    if found:
                        return found
                left = end - time.monotonic()
                if left <= 0:
                    return []
                await asyncio.wait({change}, timeout=max(0.0, min(away, left, _LOOK_EVERY)))
                changed_here = change.done() and change.result()
            finally:
                change.cancel()

    async def _until_due(self, queue_id: str) -> float:
        """Seconds until the queue's first task is due; infinite when it is empty."""
        with self._database.calling():
            due = await claims.next_due(self.storage.kept.tasks, queue_id)
        return float("inf") if due is None else (due - self._database.now_micros()) / 1_000_000

    async def extend(self, deliveries: Sequence[Delivery], lease: float) -> list[Delivery]:
        """Lease for `lease` seconds from now."""
        with _as_queue_errors():
            return await self.storage.extend_leases(deliveries, lease)

    async def ack(self, deliveries: Sequence[Delivery | UnreadableRecord]) -> list[Delivery]:
        """Done: executed without a result. For those who do not settle through the storage.

        What was settled there is acknowledged already, and so is "no longer ours" here. A record
        that is no task is set aside, if the storage has not done so.
        """
        unreadable = [record for record in deliveries if isinstance(record, UnreadableRecord)]
        with _as_queue_errors():
            if unreadable:
                await self.storage.set_aside(unreadable)
            return await self.storage.mark_executed(deliveries)

    async def release(
        self,
        deliveries: Sequence[Delivery],
        *,
        delay: float = 0.0,
        tasks: Sequence[Task[Any]] | None = None,
    ) -> list[Delivery]:
        """Back to the queue, each in one atomic step."""
        with _as_queue_errors():
            if tasks is not None:
                return await self.storage.put_back(deliveries, tasks)
            return await self.storage.give_back(deliveries, delay=delay)

    async def depth(self, queue_id: str) -> int:
        """How many tasks are due and with nobody; those of a lapsed lease included."""
        due = {"queue": queue_id, **claimable(self._database.now_micros())}
        with _as_queue_errors(), self._database.calling():
            return await self.storage.kept.tasks.count_documents(due)


def _for_queue(task: Task[Any], queue_id: str) -> Task[Any]:
    if task.queue_id == queue_id and task.status is TaskStatus.SCHEDULED:
        return task
    return replace(task, queue_id=queue_id, status=TaskStatus.SCHEDULED)


@contextlib.contextmanager
def _as_queue_errors(rejected: Sequence[Task[Any]] = ()) -> Iterator[None]:
    try:
        yield
    except StorageUnavailableError as error:
        raise QueueUnavailableError(str(error), rejected=rejected) from error
