"""Maturity and upkeep: due tasks to their queues, lost ones back, ended ones away."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any

from msgspec.structs import replace

from taskloom.clock import Clock, seconds
from taskloom.config import TaskHandlerConfig
from taskloom.errors import UnavailableError
from taskloom.flow_keeper import FlowKeeper
from taskloom.interfaces.cache import Cache
from taskloom.interfaces.flow_barrier import FlowNews
from taskloom.interfaces.message_queue import MessageQueue
from taskloom.interfaces.task_storage import TaskArchive, TaskStorage
from taskloom.outage import Outage
from taskloom.outcomes import Delivery, Ending, Settlement
from taskloom.task import Task, TaskStatus
from taskloom.waiting import to_the_end, within

__all__ = ["Maturity"]

_log = logging.getLogger(__name__)

LOCK = "taskloom_mature_lock"
LOCK_TTL = 20.0
UNLOCK_LIMIT = 1.0
"""Seconds that giving up the lock may take before it is left to end by itself."""
BATCH = 1000
PRUNE_BATCH = 500
MOVE_LEASE = 30.0
"""Seconds a moving task is held: put on the queue first, then noted as `queued`."""


class Maturity:
    """The upkeep of a storage. One worker at a time does it, by a lock in the cache."""

    def __init__(
        self,
        queue: MessageQueue,
        storage: TaskStorage,
        cache: Cache,
        owner: str,
        config: TaskHandlerConfig,
        put: Callable[[Sequence[Task[Any]]], Awaitable[None]],
        flows: FlowKeeper | None,
        tell: Callable[[Sequence[FlowNews]], Awaitable[None]],
    ) -> None:
        self._flows = flows
        self._tell = tell
        self._queue = queue
        self._storage = storage
        self._cache = cache
        self._owner = owner
        self._config = config
        self._clock: Clock = config.clock
        self._put = put

    async def run(self) -> None:
        """One pass every `mature_interval`, until cancelled."""
        outage = Outage("moving mature tasks", self._clock)
        interval = seconds(self._config.mature_interval, "mature_interval")
        while True:
            try:
                await self.one_pass()
                outage.over()
            except UnavailableError as error:
                await outage.wait(error)
            except Exception:
                _log.exception("a pass of upkeep failed")
            await self._clock.sleep(interval)

    async def one_pass(self) -> int:
        """Recover, move, prune. Returns how many were moved; 0 when another worker is at it."""
        try:
            if not await self._lock():
                return 0
            await self._recover()
            await self._fill()
            moved = await self._move()
            if self._flows is not None:
                await self._tell(await self._flows.sweep())
            await self._prune()
        finally:
            # Also when the worker stops just now: others would wait for the lock's end.
            await to_the_end(self._unlock(), asyncio.Event())
        return moved

    async def _lock(self) -> bool:
        locking = asyncio.ensure_future(self._cache.acquire_many([LOCK], self._owner, LOCK_TTL))
        try:
            return bool(await asyncio.shield(locking))
        except asyncio.CancelledError:
            # A server may do what it was asked for after the unlock, which then has no effect.
            await asyncio.wait([locking], timeout=UNLOCK_LIMIT)
            locking.cancel()
            raise

    async def _unlock(self) -> None:
        try:
            await within(self._cache.release_many([LOCK], self._owner), UNLOCK_LIMIT)
        except UnavailableError as error:
            # Raised out of a `finally` it would take the place of a cancellation.
            _log.debug("the upkeep lock ends by itself: %s", error)

    async def _recover(self) -> None:
        stale_after = seconds(self._config.stale_after, "stale_after")
        count = await self._storage.recover_stale(now=self._clock.now(), stale_after=stale_after)
        if count:
            _log.warning("%d tasks were left by a worker that is gone; they run again", count)

    async def _fill(self) -> None:
        """Tasks that were `queued` on a queue whose engine knew nothing of it wait to be moved."""
        for queue_id in self._queue.found_empty():
            count = await self._unqueue(queue_id)
            # Last: dying before, another worker does it again, which is harmless.
            await self._queue.filled_again(queue_id)
            if count:
                _log.warning(
                    "queue %r was new or came back empty; %d stored tasks go to it again",
                    queue_id,
                    count,
                )

    async def _unqueue(self, queue_id: str) -> int:
        if not isinstance(self._storage, TaskArchive):
            return 0
        count, last = 0, None
        while True:
            found = await self._storage.search(
                status=TaskStatus.QUEUED, queue_id=queue_id, limit=BATCH, after=last
            )
            if not found:
                return count
            ids = tuple(task.id for task in found)
            refused = await self._storage.settle(Settlement(unqueued=ids))
            count, last = count + len(ids) - len(refused), ids[-1]
            await self._cache.acquire_many([LOCK], self._owner, LOCK_TTL)

    async def _move(self) -> int:
        """Due tasks of the storage to a separate queue. A queue that is its storage needs none."""
        fed = self._queue.fed_from(self._storage)
        if fed is None:
            return await self._move_of(None)
        return sum([await self._move_of(queue_id) for queue_id in fed])

    async def _move_of(self, queue_id: str | None) -> int:
        moved = 0
        while True:
            due = await self._storage.claim_due(
                BATCH, lease=MOVE_LEASE, queue_id=queue_id, now=self._clock.now()
            )
            if due:
                await self._move_batch(due)
            moved += len(due)
            if len(due) < BATCH:
                return moved
            await self._cache.acquire_many([LOCK], self._owner, LOCK_TTL)

    async def _move_batch(self, due: Sequence[Delivery]) -> None:
        # The queue first: dying in between leaves a lease that ends, and the task is put again,
        # which is harmless. The other way round it would be lost until `stale_after`.
        tasks = [replace(delivery.task, status=TaskStatus.QUEUED) for delivery in due]
        await self._put(tasks)
        endings = tuple(
            Ending(delivery, TaskStatus.QUEUED, next=task)
            for delivery, task in zip(due, tasks, strict=True)
        )
        await self._storage.settle(Settlement(endings))

    async def _prune(self) -> None:
        if not isinstance(self._storage, TaskArchive):
            return
        now, retention = self._clock.now(), self._config.retention
        for status, keep in (
            (TaskStatus.EXECUTED, retention.executed),
            (TaskStatus.FAILED, retention.failed),
            (TaskStatus.EXPIRED, retention.expired),
            (TaskStatus.IGNORED, retention.ignored),
            (TaskStatus.CANCELLED, retention.cancelled),
        ):
            if keep is None:
                continue
            before = now - timedelta(seconds=seconds(keep, "retention"))
            # Small batches: a long delete would hold up everybody's claims.
            for _ in range(20):
                gone = await self._storage.prune(status, ended_before=before, limit=PRUNE_BATCH)
                if gone < PRUNE_BATCH:
                    break
        if self._flows is not None and retention.executed is not None:
            before = now - timedelta(seconds=seconds(retention.executed, "retention"))
            await self._flows.barrier.prune(sent_before=before, limit=PRUNE_BATCH)
