"""What is told about queues: event values and the provider that receives them."""

from __future__ import annotations

from collections.abc import Awaitable
from datetime import datetime
from typing import TypeAlias

from msgspec import Struct

__all__ = [
    "ConsumerCheckpoint",
    "ConsumerConnected",
    "ConsumerDisconnected",
    "MessageConsumed",
    "MessagePublished",
    "QueueContext",
    "QueueLifecycleProvider",
]

Reply: TypeAlias = Awaitable[None] | None


class QueueContext(Struct, frozen=True, kw_only=True):
    """Which queue of which engine, and when; `provider` is the engine's `name`."""

    queue_id: str
    provider: str
    at: datetime


class MessagePublished(QueueContext, frozen=True, kw_only=True):
    """A queue has accepted a task. Put again, it may be told again, though it is one task."""

    task_id: str
    task_type: str


class MessageConsumed(QueueContext, frozen=True, kw_only=True):
    """A task was claimed; told for each delivery of it."""

    task_id: str
    task_type: str
    age: float
    """Seconds since the task was made."""
    delivery_count: int


class ConsumerConnected(QueueContext, frozen=True, kw_only=True):
    """A worker begins to claim from a queue, or an instance has got a shard of a stream."""

    consumer_id: str
    shard_id: str | None = None


class ConsumerDisconnected(QueueContext, frozen=True, kw_only=True):
    """A worker claims no more, or an instance has given up a shard, or lost it.

    What it has claimed may still run.
    """

    consumer_id: str
    shard_id: str | None = None


class ConsumerCheckpoint(QueueContext, frozen=True, kw_only=True):
    """A shard's checkpoint was written: everything up to it is settled."""

    consumer_id: str
    shard_id: str
    checkpoint: str


class QueueLifecycleProvider:
    """Told what passes through a queue. Override what you need, as `def` or `async def`.

    Given to `MessageQueue.set_lifecycle`. What is told of one task may come in either order where
    a worker is quicker than the answer to whoever put it.
    """

    def on_message_published(self, event: MessagePublished) -> Reply: ...
    def on_message_consumed(self, event: MessageConsumed) -> Reply: ...
    def on_consumer_connected(self, event: ConsumerConnected) -> Reply: ...
    def on_consumer_disconnected(self, event: ConsumerDisconnected) -> Reply: ...
    def on_consumer_checkpoint(self, event: ConsumerCheckpoint) -> Reply: ...
