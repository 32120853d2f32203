"""Queue and storage on Redis that note what they answer, and at which a process can die.

They are two things: what ends a delivery is the queue's acknowledgement, or its taking the task
back for another attempt. Both are noted as `settle`; what the storage has written before is `row`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from crashing import Watch, retries

from taskloom.outcomes import Delivery, Settlement, UnreadableRecord
from taskloom.redis import RedisQueue, RedisServer, RedisStorage
from taskloom.task import Task, TaskStatus

__all__ = ["WatchedRedisQueue", "WatchedRedisStorage"]


class WatchedRedisStorage(RedisStorage):
    """The rows of those tasks that have one."""

    def __init__(self, server: RedisServer, watch: Watch) -> None:
        super().__init__(server)
        self._watch = watch
        self.written: dict[str, str] = {}
        """What this process has last written about a task, until it is acknowledged."""

    async def add(self, tasks: Sequence[Task[Any]]) -> list[Task[Any]]:
        return (await self._watch.around("add", super().add(tasks)))[0]

    async def claim_due(
        self, limit: int, *, lease: float, queue_id: str | None = None, now: datetime | None = None
    ) -> list[Delivery]:
        call = super().claim_due(limit, lease=lease, queue_id=queue_id, now=now)
        found, _ = await self._watch.around("due", call)
        if found:
            self._watch.here("move.before")
        return found

    async def take_over(self, ids: Sequence[str], *, lease: float) -> list[Delivery]:
        return (await self._watch.around("take", super().take_over(ids, lease=lease)))[0]

    async def extend_leases(self, deliveries: Sequence[Delivery], lease: float) -> list[Delivery]:
        call = super().extend_leases(deliveries, lease)
        return (await self._watch.around("extend-rows", call))[0]

    async def settle(self, plan: Settlement) -> list[str]:
        name = "queued" if _only_queued(plan) else "settle"
        refused, since = await self._watch.around(name, super().settle(plan))
        gone = set(refused)
        for each in plan.endings:
            if each.delivery.task.id not in gone:
                self.written[each.delivery.task.id] = each.status.value
        keys = [
            (e.delivery.task.id, 0, e.status.value)
            for e in plan.endings
            if e.delivery.task.id not in gone
        ]
        self._watch.note("row", since=since, keys=keys)
        if retries(plan.endings):
            self._watch.here("settle-retry.after")
        return refused

    async def set_aside(self, records: Sequence[UnreadableRecord]) -> None:
        await self._watch.around("set-aside", super().set_aside(records))

    async def recover_stale(self, *, now: datetime, stale_after: float) -> int:
        call = super().recover_stale(now=now, stale_after=stale_after)
        return (await self._watch.around("recover", call))[0]


class WatchedRedisQueue(RedisQueue):
    """Notes claims, renewals, releases and settles with what the queue answered."""

    def __init__(self, server: RedisServer, storage: WatchedRedisStorage, watch: Watch) -> None:
        super().__init__(server)
        self._written = storage.written
        self._watch = watch

    async def put(self, queue_id: str, tasks: Sequence[Task[Any]]) -> None:
        await self._watch.around("put", super().put(queue_id, tasks))

    async def claim(
        self, queue_id: str, limit: int, *, lease: float, wait: float = 0.0
    ) -> list[Delivery | UnreadableRecord]:
        call = super().claim(queue_id, limit, lease=lease, wait=wait)
        since = time.monotonic()
        found = await call
        self._watch.note_if_slow("claim", since, wait)
        keys = [
            (each.task.id, _epoch(each), str(each.delivery_count))
            for each in found
            if isinstance(each, Delivery)
        ]
        if keys:
            self._watch.note("claim", since=since, lease=lease, keys=keys)
            self._watch.here("claim.after")
        return found

    async def extend(self, deliveries: Sequence[Delivery], lease: float) -> list[Delivery]:
        gone, since = await self._watch.around("extend", super().extend(deliveries, lease))
        if gone:
            self._watch.note("refused", word="extend", keys=_keys(gone, ()))
        self._watch.note("extend", since=since, lease=lease, keys=_keys(deliveries, gone))
        return gone

    async def ack(self, deliveries: Sequence[Delivery | UnreadableRecord]) -> list[Delivery]:
        gone, since = await self._watch.around("ack", super().ack(deliveries))
        held = [each for each in deliveries if isinstance(each, Delivery)]
        self._note_settle(held, gone, since, "done")
        return gone

    async def release(
        self,
        deliveries: Sequence[Delivery],
        *,
        delay: float = 0.0,
        tasks: Sequence[Task[Any]] | None = None,
    ) -> list[Delivery]:
        call = super().release(deliveries, delay=delay, tasks=tasks)
        gone, since = await self._watch.around("release" if tasks is None else "back", call)
        if tasks is None:
            self._watch.note("release", since=since, keys=_keys(deliveries, gone))
        else:
            self._note_settle(deliveries, gone, since, "scheduled")
        return gone

    def _note_settle(
        self, held: Sequence[Delivery], gone: Sequence[Delivery], since: float, word: str
    ) -> None:
        lost = {id(delivery) for delivery in gone}
        keys = []
        for each in held:
            said = self._written.pop(each.task.id, word)
            keys.append(
                (each.task.id, _epoch(each), f"{said} refused" if id(each) in lost else said)
            )
        self._watch.note("settle", since=since, keys=keys)


def _only_queued(plan: Settlement) -> bool:
    """It notes that tasks are on the queue (again), and nothing of any run."""
    states = {each.status for each in plan.endings}
    return states == {TaskStatus.QUEUED} and not retries(plan.endings)


def _epoch(delivery: Delivery) -> int:
    """One more when a lease was lost, two more after a release; a new entry is far beyond both."""
    receipt = delivery.receipt
    millis, _, number = receipt.entry.partition("-")
    entry = int(millis) * 1000 + min(int(number), 999)
    return entry * 1000 + 500 + 2 * receipt.lease.claims - delivery.delivery_count


def _keys(
    deliveries: Iterable[Delivery], without: Iterable[Delivery]
) -> list[tuple[str, int, str]]:
    gone = {id(delivery) for delivery in without}
    return [(d.task.id, _epoch(d), "") for d in deliveries if id(d) not in gone]
