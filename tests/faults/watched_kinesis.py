"""A queue on Kinesis, and a SQL storage beside it, that note what they answer."""

from __future__ import annotations

import os
import time
from collections.abc import Coroutine, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from crashing import SLOW, Watch
from watched_apart import QueueNotes, RowNotes

from taskloom.interfaces import ShardLocks
from taskloom.kinesis import FileShardLocks, KinesisQueue
from taskloom.kinesis.timing import Timing
from taskloom.kinesis.window import Window
from taskloom.outcomes import Delivery, Settlement, UnreadableRecord
from taskloom.sql import SqlDatabase, SqlStorage
from taskloom.task import Task

__all__ = ["RowsBesideStream", "StreamQueue", "WatchedKinesisQueue", "WatchedLocks"]


class RowsBesideStream(SqlStorage):
    """The rows of those tasks that have one."""

    def __init__(self, url: str, watch: Watch) -> None:
        super().__init__(SqlDatabase.from_url(url))
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


class WatchedLocks(FileShardLocks):
    """Notes the calls that are held up: a process that stops in one holds up all on that shard."""

    def __init__(self, folder: Path, watch: Watch) -> None:
        super().__init__(folder)
        self._watch = watch

    async def acquire_lock(self, key: str, owner: str, ttl: float) -> bool:
        return await self._noted("lock", super().acquire_lock(key, owner, ttl))

    async def renew_lock(self, key: str, owner: str, ttl: float) -> bool:
        return await self._noted("renew", super().renew_lock(key, owner, ttl))

    async def set_checkpoint(self, key: str, value: str, owner: str) -> bool:
        return await self._noted("checkpoint", super().set_checkpoint(key, value, owner))

    async def _noted(self, name: str, call: Coroutine[Any, Any, bool]) -> bool:
        since = time.monotonic()
        self._watch.here(f"{name}.before")
        try:
            return await call
        finally:  # given up after a while, too
            self._watch.here(f"{name}.after")
            if time.monotonic() - since > SLOW:
                self._watch.note("fault", word="stall", target=os.getpid(), since=since, call=name)


class StreamQueue(KinesisQueue):
    """It opens its locks too, and is quick to notice who has died."""

    timing = Timing(
        lock_ttl=2.0,
        renew=0.5,
        look=0.3,
        beat_ttl=2.0,
        list_shards=5.0,
        gap=0.1,
        idle=0.3,
        drain=0.5,
    )

    def __init__(self, *, shard_locks: ShardLocks, **where: Any) -> None:
        super().__init__(shard_locks=shard_locks, **where)
        self._own = shard_locks

    async def open(self) -> None:
        await self._own.open()
        await super().open()

    async def close(self) -> None:
        await super().close()
        await self._own.close()


class WatchedKinesisQueue(StreamQueue):
    """Notes claims, renewals, releases and settles with what the queue answered."""

    def __init__(
        self, storage: RowsBesideStream, watch: Watch, *, shard_locks: ShardLocks, **where: Any
    ) -> None:
        super().__init__(shard_locks=shard_locks, **where)
        self._watch = watch
        self._notes = QueueNotes(watch, storage.notes.written, self._epoch)
        self._seen_at: WeakKeyDictionary[Window, int] = WeakKeyDictionary()

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

    def _epoch(self, delivery: Delivery) -> int:
        """Whoever holds the shard later is far beyond those before, and so is a later record."""
        receipt = delivery.receipt
        since = self._seen_at.setdefault(receipt.window, int(time.monotonic() * 1000))
        record = since * 1_000_000 + receipt.item.number
        return record * 1000 + 500 + 2 * receipt.epoch - delivery.delivery_count
