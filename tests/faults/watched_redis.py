"""Queue and storage on Redis that note what they answer, and at which a process can die."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from crashing import Watch
from watched_apart import QueueNotes, RowNotes

from taskloom.outcomes import Delivery, Settlement, UnreadableRecord
from taskloom.redis import RedisQueue, RedisServer, RedisStorage
from taskloom.task import Task

__all__ = ["WatchedRedisQueue", "WatchedRedisStorage"]


class WatchedRedisStorage(RedisStorage):
    """The rows of those tasks that have one."""

    def __init__(self, server: RedisServer, watch: Watch) -> None:
        super().__init__(server)
        self._watch = watch
        self.notes = RowNotes(watch)

    async def add(self, tasks: Sequence[Task[Any]]) -> list[Task[Any]]:
        return (await self._watch.around("add", super().add(tasks)))[0]

    async def claim_due(
        self, limit: int, *, lease: float, queue_id: str | None = None, now: datetime | None = None
    ) -> list[Delivery]:
        call = super().claim_due(limit, lease=lease, queue_id=queue_id, now=now)
        return await self.notes.claim_due(call)

    async def take_over(self, ids: Sequence[str], *, lease: float) -> list[Delivery]:
        return (await self._watch.around("take", super().take_over(ids, lease=lease)))[0]

    async def extend_leases(self, deliveries: Sequence[Delivery], lease: float) -> list[Delivery]:
        call = super().extend_leases(deliveries, lease)
        return (await self._watch.around("extend-rows", call))[0]

    async def settle(self, plan: Settlement) -> list[str]:
        return await self.notes.settle(super().settle(plan), plan)

    async def set_aside(self, records: Sequence[UnreadableRecord]) -> None:
        await self._watch.around("set-aside", super().set_aside(records))

    async def recover_stale(self, *, now: datetime, stale_after: float) -> int:
        call = super().recover_stale(now=now, stale_after=stale_after)
        return (await self._watch.around("recover", call))[0]


class WatchedRedisQueue(RedisQueue):
    """Notes claims, renewals, releases and settles with what the queue answered."""

    def __init__(self, server: RedisServer, storage: WatchedRedisStorage, watch: Watch) -> None:
        super().__init__(server)
        self._watch = watch
        self._notes = QueueNotes(watch, storage.notes.written, _epoch)

    async def put(self, queue_id: str, tasks: Sequence[Task[Any]]) -> None:
        await self._watch.around("put", super().put(queue_id, tasks))

    async def claim(
        self, queue_id: str, limit: int, *, lease: float, wait: float = 0.0
    ) -> list[Delivery | UnreadableRecord]:
        call = super().claim(queue_id, limit, lease=lease, wait=wait)
        return await self._notes.claim(call, lease, wait)

    async def extend(self, deliveries: Sequence[Delivery], lease: float) -> list[Delivery]:
        return await self._notes.extend(super().extend(deliveries, lease), deliveries, lease)

    async def ack(self, deliveries: Sequence[Delivery | UnreadableRecord]) -> list[Delivery]:
        return await self._notes.ack(super().ack(deliveries), deliveries)

    async def release(
        self,
        deliveries: Sequence[Delivery],
        *,
        delay: float = 0.0,
        tasks: Sequence[Task[Any]] | None = None,
    ) -> list[Delivery]:
        call = super().release(deliveries, delay=delay, tasks=tasks)
        return await self._notes.release(call, deliveries, tasks)


def _epoch(delivery: Delivery) -> int:
    """A new entry is far beyond those before it."""
    receipt = delivery.receipt
    millis, _, number = receipt.entry.partition("-")
    entry = int(millis) * 1000 + min(int(number), 999)
    return entry * 1000 + 500 + 2 * receipt.lease.claims - delivery.delivery_count
