"""StorageQueue: a queue that claims straight from its storage, and how it waits there."""

from __future__ import annotations

import asyncio
import contextlib
import time
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Generic, Protocol, TypeVar

from msgspec.structs import replace

from taskloom.clock import Clock
from taskloom.errors import QueueUnavailableError, StorageUnavailableError
from taskloom.interfaces import MessageQueue, QueueFeatures, TaskStorage
from taskloom.outcomes import Delivery, UnreadableRecord
from taskloom.task import Task, TaskStatus
from taskloom.wakeups import Wakeups

__all__ = ["Database", "QueueStorage", "StorageQueue"]

LOOK_EVERY = 1.0
"""Seconds after which a waiting claim looks whatever it was told, or not told."""


class Database(Protocol):
    """What parts of one database share."""

    clock: Clock
    wakeups: Wakeups

    def now_micros(self) -> int:
        """The database's time."""
        ...

    async def open(self, holder: object) -> None:
        """Be open until every holder has called `close`."""
        ...

    async def close(self, holder: object) -> None:
        """This holder needs it no more."""
        ...

    async def upgrade(self) -> None:
        """Bring up to date what an earlier version made."""
        ...


class QueueStorage(TaskStorage):
    """A storage whose tasks can be claimed, and given back, by a queue."""

    @abstractmethod
    async def claim_records(
        self, limit: int, *, lease: float, queue_id: str
    ) -> list[Delivery | UnreadableRecord]:
        """As `claim_due`, with the records that are not tasks among the others."""

    @abstractmethod
    async def give_back(
        self, deliveries: Sequence[Delivery], *, delay: float = 0.0
    ) -> list[Delivery]:
        """End leases early, as if the claim had not been. Returns those no longer ours."""

    @abstractmethod
    async def put_back(
        self, deliveries: Sequence[Delivery], tasks: Sequence[Task[Any]]
    ) -> list[Delivery]:
        """End leases with `tasks`, one per delivery, in place of what was delivered."""

    @abstractmethod
    async def mark_executed(
        self, deliveries: Sequence[Delivery | UnreadableRecord]
    ) -> list[Delivery]:
        """End as executed what is still ours and was not settled; those no longer ours."""

    @abstractmethod
    async def next_due(self, queue_id: str) -> int | None:
        """When the queue's first task may be claimed, in microseconds; None if there is none."""

    @abstractmethod
    async def depth(self, queue_id: str) -> int:
        """How many tasks of a queue could be claimed now."""


S = TypeVar("S", bound=QueueStorage)


class StorageQueue(MessageQueue, Generic[S]):
    """Adding to its storage, or settling there, is putting or acknowledging here."""

    features = QueueFeatures(durable=True, delay=True, exclusive=True, single_ack=True)

    def __init__(self, storage: S, database: Database) -> None:
        self.storage: S = storage
        self._database = database
        self._clock = database.clock
        self._idle: set[str] = set()

    async def open(self) -> None:
        await self._database.open(self)

    async def upgrade(self) -> None:
        await self._database.upgrade()

    async def close(self) -> None:
        await self._database.close(self)

    async def put(self, queue_id: str, tasks: Sequence[Task[Any]]) -> None:
        """Accept `tasks` as SCHEDULED, as the storage's `add` does. A known id is left as it is."""
        with _as_queue_errors(tasks):
            await self.storage.add([_for_queue(task, queue_id) for task in tasks])

    async def claim(
        self, queue_id: str, limit: int, *, lease: float, wait: float = 0.0
    ) -> list[Delivery | UnreadableRecord]:
        """At most `limit` due tasks.

        While it waits it takes no lock: it looks with a read, when told of a change by another
        process, and at least once a second.
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
                await asyncio.wait({change}, timeout=max(0.0, min(away, left, LOOK_EVERY)))
                changed_here = change.done() and change.result()
            finally:
                change.cancel()

    async def _until_due(self, queue_id: str) -> float:
        """Seconds until the queue's first task is due; infinite when it is empty."""
        due = await self.storage.next_due(queue_id)
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
        with _as_queue_errors():
            return await self.storage.depth(queue_id)


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
