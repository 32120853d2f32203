"""The queue reporter: makes events of what passes through one queue, if anyone wants them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar, copy_context
from functools import wraps
from typing import TYPE_CHECKING, Any

from taskloom.clock import Clock
from taskloom.errors import QueueUnavailableError
from taskloom.lifecycle import QueueLifecycleConfig
from taskloom.listeners import Listeners
from taskloom.outcomes import Delivery, UnreadableRecord
from taskloom.queue_events import (
    ConsumerCheckpoint,
    ConsumerConnected,
    ConsumerDisconnected,
    MessageConsumed,
    MessagePublished,
)

if TYPE_CHECKING:
    from taskloom.interfaces.message_queue import MessageQueue
    from taskloom.task import Task

__all__ = ["TOLD", "QueueReporter"]

_log = logging.getLogger(__name__)

TOLD = ("open", "close", "put", "claim")
"""The methods of a queue that `QueueReporter.around` wraps."""
IN_PLACE = 1.0
"""How long, in seconds, a call waits for its listener in mode "sync": leases run meanwhile."""

_in_callback: ContextVar[bool] = ContextVar("taskloom_in_queue_callback", default=False)
"""Set where listeners run: what one of them puts must not wait for itself."""


class QueueReporter:
    """Tells one provider of one queue, in the order things are told here.

    Delivery is beside the work. In mode "sync" `published`, `consumed` and what tells of a worker's
    consumers return when their events were delivered, or after `IN_PLACE` seconds; while a provider
    is behind nobody waits for it.
    """

    def __init__(self, provider: str, config: QueueLifecycleConfig, clock: Clock) -> None:
        self._provider = provider
        self._clock = clock
        self._sync = config.mode == "sync"
        self._behind = False
        self._listeners = copy_context().run(_listeners_of, config.provider)
        self.wants_published = self._listeners.wants("on_message_published")
        self._wants_consumed = self._listeners.wants("on_message_consumed")

    async def published(self, tasks: Sequence[Task[Any]], queue_id: str | None = None) -> None:
        """`tasks` were accepted, by `queue_id` or each by its own queue."""
        if self.wants_published and tasks:
            at = self._clock.now()
            events = [
                MessagePublished(
                    queue_id=queue_id or task.queue_id,
                    provider=self._provider,
                    at=at,
                    task_id=task.id,
                    task_type=task.type,
                )
                for task in tasks
            ]
            await self._tell("on_message_published", events)

    async def consumed(self, queue_id: str, deliveries: Sequence[Delivery]) -> None:
        """`deliveries` were claimed."""
        if self._wants_consumed and deliveries:
            at = self._clock.now()
            events = [
                MessageConsumed(
                    queue_id=queue_id,
                    provider=self._provider,
                    at=at,
                    task_id=delivery.task.id,
                    task_type=delivery.task.type,
                    age=max(0.0, (at - delivery.task.created_at).total_seconds()),
                    delivery_count=delivery.delivery_count,
                )
                for delivery in deliveries
            ]
            await self._tell("on_message_consumed", events)

    async def connected(self, queue_id: str, consumer_id: str) -> None:
        """A consumer begins to claim."""
        event = ConsumerConnected(**self._about(queue_id, consumer_id))
        await self._tell("on_consumer_connected", [event])

    async def disconnected(self, queue_id: str, consumer_id: str) -> None:
        """A consumer claims no more."""
        event = ConsumerDisconnected(**self._about(queue_id, consumer_id))
        await self._tell("on_consumer_disconnected", [event])

    # Never waited for, so that no listener costs an instance a lock.

    def shard(self, queue_id: str, shard_id: str, *, connected: bool) -> None:
        """A shard was got, or is no longer ours."""
        about = self._about(queue_id, f"{queue_id}:{shard_id}")
        if connected:
            event: object = ConsumerConnected(**about, shard_id=shard_id)
            self._listeners.post("on_consumer_connected", [event])
        else:
            event = ConsumerDisconnected(**about, shard_id=shard_id)
            self._listeners.post("on_consumer_disconnected", [event])

    def checkpoint(self, queue_id: str, shard_id: str, checkpoint: str) -> None:
        """A shard's checkpoint was written."""
        about = self._about(queue_id, f"{queue_id}:{shard_id}")
        event = ConsumerCheckpoint(**about, shard_id=shard_id, checkpoint=checkpoint)
        self._listeners.post("on_consumer_checkpoint", [event])

    def _about(self, queue_id: str, consumer_id: str) -> dict[str, Any]:
        return {
            "queue_id": queue_id,
            "provider": self._provider,
            "at": self._clock.now(),
            "consumer_id": consumer_id,
        }

    async def _tell(self, name: str, events: Sequence[object]) -> None:
        if self._behind:
            self._behind = not await self._listeners.flush(0)
        self._listeners.post(name, events)
        if self._sync and not self._behind and not _in_callback.get():
            await self._wait_told()

    async def _wait_told(self) -> None:
        try:
            told = await self._listeners.flush(IN_PLACE)
        except asyncio.CancelledError:
            # Perhaps by a time-out shorter than ours: the next call shall not run into it too.
            self._behind = True
            raise
        if not told and not self._behind:
            self._behind = True
            _log.warning(
                "a listener of queue %s has taken more than %g s; until it has caught up, "
                "it is told beside the work",
                self._provider,
                IN_PLACE,
            )

    def around(self, queue: MessageQueue) -> dict[str, Callable[..., Awaitable[Any]]]:
        """The methods of `queue`, by name, that tell what they did once they have done it."""
        return {
            "open": self._around_open(queue.open),
            "close": self._around_close(queue.close),
            "put": self._around_put(queue.put),
            "claim": self._around_claim(queue.claim, queue.release),
        }

    def _around_open(self, open_queue: Callable[[], Awaitable[None]]) -> Callable[[], Any]:
        @wraps(open_queue)
        async def open() -> None:
            self._listeners.open()
            await open_queue()

        return open

    def _around_close(self, close_queue: Callable[[], Awaitable[None]]) -> Callable[[], Any]:
        @wraps(close_queue)
        async def close() -> None:
            try:
                await close_queue()
            finally:
                await self._listeners.close()

        return close

    def _around_put(self, put_tasks: Callable[..., Awaitable[None]]) -> Callable[..., Any]:
        @wraps(put_tasks)
        async def put(queue_id: str, tasks: Sequence[Task[Any]]) -> None:
            try:
                await put_tasks(queue_id, tasks)
            except QueueUnavailableError as error:
                await self.published(error.accepted, queue_id)
                raise
            await self.published(tasks, queue_id)

        return put

    def _around_claim(
        self,
        claim_some: Callable[..., Awaitable[list[Delivery | UnreadableRecord]]],
        release: Callable[[Sequence[Delivery]], Awaitable[Any]],
    ) -> Callable[..., Any]:
        @wraps(claim_some)
        async def claim(
            queue_id: str, limit: int, *, lease: float, wait: float = 0.0
        ) -> list[Delivery | UnreadableRecord]:
            records = await claim_some(queue_id, limit, lease=lease, wait=wait)
            deliveries = [record for record in records if isinstance(record, Delivery)]
            try:
                await self.consumed(queue_id, deliveries)
            except asyncio.CancelledError:
                # Where the engine does not answer, what was taken comes back after its lease.
                with contextlib.suppress(QueueUnavailableError):
                    await asyncio.shield(release(deliveries))
                raise
            return records

        return claim


def _listeners_of(provider: object) -> Listeners:
    _in_callback.set(True)
    return Listeners(provider)
