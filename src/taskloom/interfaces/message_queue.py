"""MessageQueue: carries tasks to workers and takes them back when a worker dies."""

from __future__ import annotations

import asyncio
import inspect
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from taskloom.clock import SYSTEM_CLOCK, Clock
from taskloom.identity import new_id
from taskloom.interfaces.opening import Opening
from taskloom.lifecycle import QueueLifecycleConfig
from taskloom.outcomes import Delivery, UnreadableRecord
from taskloom.queue_reporter import TOLD, QueueReporter

if TYPE_CHECKING:
    from taskloom.interfaces.task_storage import TaskStorage
    from taskloom.task import Task

__all__ = ["BatchProcessor", "MessageQueue", "QueueFeatures"]

BatchProcessor = Callable[[str, "list[Task[Any]]"], Awaitable[Any] | Any]


class QueueFeatures(Struct, frozen=True):
    """What an engine can do beyond the rules every queue keeps. The path asks this, not a name."""

    durable: bool = False
    """Tasks survive the end of the process."""
    delay: bool = True
    """`put` and `release` honour a later `execute_at` or `delay`."""
    exclusive: bool = True
    """A claimed task is with one worker only while its lease lasts; no second lock is needed."""
    fifo_per_key: bool = False
    """Tasks of one partition key are delivered in the order they were put, each when the one
    before it is settled."""
    single_ack: bool = True
    """A delivery can be given up by itself; otherwise a whole shard moves on together."""
    inline: bool = False
    """Whoever adds a task waits until it has run; there are no workers, and delays are skipped."""

    @property
    def takes_delayed(self) -> bool:
        """Whether a task that is due soon may be put here: it waits, or inline runs at once."""
        return self.delay or self.inline


class MessageQueue(Opening, ABC):
    """One engine's queues, each under its id.

    A delivery is leased: until `lease` seconds after the claim (or the last `extend`) nobody else
    gets the task; afterwards it is claimed again, with `delivery_count` one higher. Everything that
    takes deliveries compares them with the leases in force, changes those that are still ours and
    returns the others.

    All methods raise `QueueUnavailableError` when the engine cannot be reached; what they were
    asked for is then unknown, and safe to ask again. Cancelling any of them loses no task.

    Events are this class's work: an engine writes nothing for them. Only one that holds shards
    calls `tell_shard` and `tell_checkpoint`, and none calls its own `put` for what is no news.
    """

    name: str = "queue"
    features: QueueFeatures = QueueFeatures()
    storage: TaskStorage | None = None
    """The storage that *is* this queue: a task is one record there from birth to end."""
    beneath: Sequence[Opening] = ()
    """Parts of its own that must be open while it is: a Loom opens and closes them with it."""
    _clock: Clock = SYSTEM_CLOCK
    """What the times in events are told by."""
    _reporter: QueueReporter | None = None

    def register(self, queue_id: str) -> None:
        """Announce a queue before it is used. Safe to repeat."""

    @abstractmethod
    async def put(self, queue_id: str, tasks: Sequence[Task[Any]]) -> None:
        """Accept `tasks`, all or (where the engine cannot) those before an error.

        A task becomes claimable at its `execute_at`. An id put twice is one task.
        """

    @abstractmethod
    async def claim(
        self, queue_id: str, limit: int, *, lease: float, wait: float = 0.0
    ) -> list[Delivery | UnreadableRecord]:
        """At most `limit` due tasks, in the order they are due, leased for `lease` seconds.

        Waits up to `wait` seconds for the first one. Cancelling gives back what was taken.
        """

    @abstractmethod
    async def extend(self, deliveries: Sequence[Delivery], lease: float) -> list[Delivery]:
        """Lease for `lease` seconds from now. Returns the deliveries that were no longer ours."""

    @abstractmethod
    async def ack(self, deliveries: Sequence[Delivery | UnreadableRecord]) -> list[Delivery]:
        """Done: never deliver these again. Returns the deliveries that were no longer ours."""

    @abstractmethod
    async def release(
        self,
        deliveries: Sequence[Delivery],
        *,
        delay: float = 0.0,
        tasks: Sequence[Task[Any]] | None = None,
    ) -> list[Delivery]:
        """Back to the queue: as they were after `delay` seconds, or as `tasks`.

        `tasks` (one per delivery, in order, with the same ids) replace what was delivered: a retry
        with its new `retry_count` and `execute_at`, starting again at one delivery. Each goes back
        in one atomic step with giving up the old delivery. A release does not count as a delivery.
        Returns the deliveries that were no longer ours.
        """

    @abstractmethod
    async def depth(self, queue_id: str) -> int:
        """How many tasks are waiting and due: nothing in flight, nothing delayed."""

    # What may differ from queue to queue where one stands before several engines.

    def features_of(self, queue_id: str) -> QueueFeatures:
        """What the engine of this queue can do: `features`."""
        return self.features

    def storage_of(self, queue_id: str) -> TaskStorage | None:
        """The storage that *is* this queue, if one is: `storage`."""
        return self.storage

    def fed_from(self, storage: TaskStorage) -> Sequence[str] | None:
        """The queues that due tasks of `storage` are moved to; None for all it has tasks of."""
        return () if self.storage is storage else None

    def found_empty(self) -> list[str]:
        """Queues that the engine knew nothing of when they were claimed, until `filled_again`.

        They are new, or it came back without its data: what a storage has as `queued` on them is
        to be put again.
        """
        return []

    async def filled_again(self, queue_id: str) -> None:
        """What the storage knows of is on its way to a queue that was found empty."""

    # Events

    def set_lifecycle(self, config: QueueLifecycleConfig) -> None:
        """Tell `config.provider` of what passes through, from now on; it replaces the one before.

        Best before the queue is opened. Closing it delivers what is still to be told. While nobody
        was ever set, calls go to the engine as they are.
        """
        reporter = QueueReporter(self.name, config, self._clock)
        mine = vars(self)
        for method in TOLD:
            mine.pop(method, None)
        self._reporter = reporter
        mine.update(reporter.around(self))

    @property
    def tells_published(self) -> bool:
        """Whether anyone is told of `on_message_published`."""
        return self._reporter is not None and self._reporter.wants_published

    async def tell_published(self, tasks: Sequence[Task[Any]]) -> None:
        """Called by whoever adds to the storage that is this queue, and so does not `put`."""
        if self._reporter is not None:
            await self._reporter.published(tasks)

    @asynccontextmanager
    async def connection(self, queue_id: str, consumer_id: str) -> AsyncIterator[None]:
        """Around claiming again and again: tells that a consumer is there, and is gone."""
        reporter = self._reporter
        if reporter is None:
            yield
            return
        await reporter.connected(queue_id, consumer_id)
        try:
            yield
        finally:
            await reporter.disconnected(queue_id, consumer_id)

    def tell_shard(self, queue_id: str, shard_id: str, *, connected: bool) -> None:
        """Called by an engine that has got a shard, or has given it up or lost it.

        Returns at once in either mode; raises nothing of the listener's.
        """
        if self._reporter is not None:
            self._reporter.shard(queue_id, shard_id, connected=connected)

    def tell_checkpoint(self, queue_id: str, shard_id: str, checkpoint: str) -> None:
        """Called by an engine that has written a shard's checkpoint. Returns at once, as above."""
        if self._reporter is not None:
            self._reporter.checkpoint(queue_id, shard_id, checkpoint)

    # For those who use a queue without tasks' executors.

    async def consume_messages_batch(
        self, queue_id: str, processor: BatchProcessor, limit: int = 10, *, lease: float = 60.0
    ) -> int:
        """Claim once, call `processor(queue_id, tasks)`, acknowledge. Returns how many.

        An exception of the processor releases the whole batch and is raised. The lease is not
        renewed: `lease` must be longer than the processor takes.
        """
        records = await self.claim(queue_id, limit, lease=lease)
        return await self._process(queue_id, records, processor)

    async def consume_messages_stream(
        self,
        queue_id: str,
        processor: BatchProcessor,
        stop: asyncio.Event | None = None,
        *,
        limit: int = 100,
        lease: float = 60.0,
    ) -> None:
        """Process batches until `stop` is set. An exception of the processor ends it."""
        stop = stop or asyncio.Event()
        async with self.connection(queue_id, f"{new_id()}:{queue_id}"):
            while not stop.is_set():
                records = await self.claim(queue_id, limit, lease=lease, wait=1.0)
                await self._process(queue_id, records, processor)

    async def _process(
        self,
        queue_id: str,
        records: Sequence[Delivery | UnreadableRecord],
        processor: BatchProcessor,
    ) -> int:
        # An unreadable record stays leased: nobody here can set it aside.
        deliveries = [record for record in records if isinstance(record, Delivery)]
        if not deliveries:
            return 0
        try:
            answer = processor(queue_id, [delivery.task for delivery in deliveries])
            if inspect.isawaitable(answer):
                await answer
        except BaseException:
            await asyncio.shield(self.release(deliveries))
            raise
        await self.ack(deliveries)
        return len(deliveries)
