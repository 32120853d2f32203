"""KinesisQueue: a stream per queue, shards held by lock, order per partition key."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from aiobotocore.session import get_session

from taskloom.clock import SYSTEM_CLOCK
from taskloom.errors import QueueUnavailableError, StorageUnavailableError
from taskloom.identity import new_id
from taskloom.interfaces.adaptive_strategy import AdaptiveStrategy, BatchResult
from taskloom.interfaces.message_queue import MessageQueue, QueueFeatures
from taskloom.interfaces.shard_locks import ShardLocks
from taskloom.kinesis.client import KinesisClient
from taskloom.kinesis.depth import count_unread
from taskloom.kinesis.putting import put_all
from taskloom.kinesis.records import KeyOf, outgoing
from taskloom.kinesis.stream import Stream, StreamParts
from taskloom.kinesis.timing import Timing
from taskloom.kinesis.window import Receipt, Window
from taskloom.outcomes import Delivery, UnreadableRecord
from taskloom.task import Task

__all__ = ["KinesisQueue"]


class KinesisQueue(MessageQueue):
    """Queues that are streams: a queue's id is the name of its stream, which must exist.

    The instances that claim from a stream share its shards through `shard_locks`; each reads its
    own, from the checkpoint on. A checkpoint passes a record when it and all before it are settled;
    with it is kept what is settled behind that (of very much, the oldest), so that others deliver
    again only what a worker that died had in hand. A stream cannot delay: what is due later,
    retries too, waits in the storage.

    Records of one partition key are delivered in the order they were put, the next when the one
    before is settled, also where shards are split and merged. The key is the task's, else that of
    `default_partition_key`, else the task's type; the latter only says to which shard it goes.

    `delivery_count` is kept there as well, and written before a claim returns: one write for each
    shard of a claim. It counts the claims of a record by whoever held its shard, those of processes
    that died and of leases that ran out; a release takes back what its claim has counted.

        async with KinesisQueue(shard_locks=locks, region_name="eu-central-1") as queue:
            handler = TaskHandler(queue, queues, storage, cache)
    """

    name = "kinesis"
    features = QueueFeatures(
        durable=True, delay=False, exclusive=True, fifo_per_key=True, single_ack=False
    )
    timing = Timing()

    def __init__(
        self,
        session: Any = None,
        *,
        shard_locks: ShardLocks,
        default_partition_key: KeyOf | None = None,
        adaptive_strategy: AdaptiveStrategy | None = None,
        instance_id: str | None = None,
        endpoint_url: str | None = None,
        region_name: str | None = None,
    ) -> None:
        # Unique since this start, and in the order of starts, whatever name it was given.
        self.instance = f"{new_id()}:{instance_id}" if instance_id else new_id()
        self._default_key = default_partition_key
        self._strategy = adaptive_strategy
        self._locks = shard_locks
        self.beneath = (shard_locks,)
        self._client = KinesisClient(
            session or get_session(), endpoint_url=endpoint_url, region_name=region_name
        )
        self._streams: dict[str, Stream] = {}

    async def open(self) -> None:
        """Make the client. Safe to repeat. The locks are opened by a Loom, or by you."""
        await self._client.open()

    async def close(self) -> None:
        """Give the shards to others at once; what is in hand here is not ours any more."""
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            await stream.stop()
        await self._client.close()

    def _stream(self, queue_id: str) -> Stream:
        stream = self._streams.get(queue_id)
        if stream is None:
            parts = StreamParts(
                self._client,
                self._locks,
                self.instance,
                self._strategy,
                self.timing,
                SYSTEM_CLOCK,
                self,
            )
            stream = self._streams[queue_id] = Stream(queue_id, parts)
        return stream

    async def put(self, queue_id: str, tasks: Sequence[Task[Any]]) -> None:
        """Accept `tasks`, those of a key in order; those before an error are in `.accepted`.

        A put that is repeated is one task as long as the instance that reads it remembers the first
        one: in memory, 100,000 records of a stream.
        """
        await self._put(queue_id, tasks)

    async def _put(self, queue_id: str, tasks: Sequence[Task[Any]]) -> None:
        records = [outgoing(task, self._default_key) for task in tasks]
        if records:
            await put_all(self._client, queue_id, records)
            self._stream(queue_id).hurry()

    async def claim(
        self, queue_id: str, limit: int, *, lease: float, wait: float = 0.0
    ) -> list[Delivery | UnreadableRecord]:
        """At most `limit` records of the shards held here, a like part of each.

        The first claim makes this instance one of those that share the stream; it is no more when
        nothing was claimed for as long as a lock lasts. Leases are in memory; they end with the
        shard's lock at the latest.
        """
        if limit <= 0:
            return []
        stream, clock = self._stream(queue_id), SYSTEM_CLOCK
        deadline = clock.monotonic() + wait
        # Also with work at hand the loop must turn: a consumer that never waits for anything else
        # would starve everyone, and the locks would not be renewed.
        await asyncio.sleep(0)
        await stream.start()
        while True:
            taken = await self._take(stream, limit, lease)
            left = deadline - clock.monotonic()
            if taken:  # from the taking to here nothing is awaited: cancelling cannot lose it
                return taken
            if stream.trouble is not None:
                raise _unavailable(queue_id, stream.trouble)
            if left <= 0:
                return []
            await stream.news(left)

    async def _take(
        self, stream: Stream, limit: int, lease: float
    ) -> list[Delivery | UnreadableRecord]:
        try:
            return await stream.take(limit, lease)
        except StorageUnavailableError as error:
            raise _unavailable(stream.name, error) from error

    async def extend(self, deliveries: Sequence[Delivery], lease: float) -> list[Delivery]:
        """Lease for `lease` seconds from now, in memory."""
        ours, lost = self._split(deliveries)
        end = SYSTEM_CLOCK.monotonic() + lease
        for delivery in ours:
            delivery.receipt.window.extend(delivery.receipt.item, end)
        self._notice(deliveries)
        return lost

    async def ack(self, deliveries: Sequence[Delivery | UnreadableRecord]) -> list[Delivery]:
        """Done; the checkpoints of their shards move up to the lowest record that is not settled.

        A shard whose lock turns out to be lost: its deliveries are not ours. Raises
        `QueueUnavailableError` when a checkpoint cannot be written; it is written later.
        """
        ours, lost = self._split(deliveries)
        for delivery in ours:
            delivery.receipt.window.settle(delivery.receipt.item)
        self._notice(deliveries)
        for window, group in _by_window(ours).items():
            if not await self._save(window):
                lost += [each for each in group if isinstance(each, Delivery)]
            elif self._strategy is not None:
                self._strategy.record_batch_result(window.shard_id, _result(group))
        return lost

    async def release(
        self,
        deliveries: Sequence[Delivery],
        *,
        delay: float = 0.0,
        tasks: Sequence[Task[Any]] | None = None,
    ) -> list[Delivery]:
        """Back to their place in the shard; after `delay`, if the shard is ours then.

        Raises `QueueUnavailableError` when it cannot be written that these do not count as
        delivered; it is written later. `tasks` are put at the stream's end before the old records
        are settled: a crash between the two delivers both.
        """
        if tasks is not None:
            return await self._replace(deliveries, tasks)
        ours, lost = self._split(deliveries)
        due = SYSTEM_CLOCK.monotonic() + delay if delay > 0 else 0.0
        for delivery in ours:
            delivery.receipt.window.give_back(delivery.receipt.item, due)
        self._notice(deliveries)
        for window, group in _by_window(ours).items():
            if not await self._save(window):
                lost += [each for each in group if isinstance(each, Delivery)]
        return lost

    async def _replace(
        self, deliveries: Sequence[Delivery], tasks: Sequence[Task[Any]]
    ) -> list[Delivery]:
        if [task.id for task in tasks] != [delivery.task.id for delivery in deliveries]:
            raise ValueError("tasks: one for each delivery, in the same order, with the same ids")
        ours, lost = self._split(deliveries)
        current = {delivery.receipt: delivery for delivery in ours}
        by_queue: dict[str, list[Task[Any]]] = {}
        for delivery, task in zip(deliveries, tasks, strict=True):
            if delivery.receipt in current:
                by_queue.setdefault(delivery.receipt.window.queue_id, []).append(task)
        for queue_id, group in by_queue.items():
            self._stream(queue_id).forget(task.id for task in group)
            await self._put(queue_id, group)
        return lost + await self.ack([each for each in deliveries if each.receipt in current])

    async def depth(self, queue_id: str) -> int:
        """How many tasks wait, as far as a stream can say.

        Of shards held here: what was read and is with nobody. Of others: what comes after their
        checkpoints, up to 10,000 records each, what is in flight elsewhere included.
        """
        stream = self._stream(queue_id)
        waiting, others = 0, None
        if stream.is_read:
            if stream.trouble is not None:
                raise _unavailable(queue_id, stream.trouble)
            waiting, others = await stream.waiting()
        return waiting + await count_unread(self._client, self._locks, queue_id, others)

    def _split(
        self, deliveries: Sequence[Delivery | UnreadableRecord]
    ) -> tuple[list[Delivery | UnreadableRecord], list[Delivery]]:
        """What is still ours, and the tasks that are not."""
        now = SYSTEM_CLOCK.monotonic()
        held: dict[Window, bool] = {}
        ours: list[Delivery | UnreadableRecord] = []
        lost: list[Delivery] = []
        for delivery in deliveries:
            receipt: Receipt = delivery.receipt
            window = receipt.window
            if window not in held:
                window.ripen(now)
                held[window] = self._stream(window.queue_id).holds(window)
            if held[window] and receipt.is_current():
                ours.append(delivery)
            elif isinstance(delivery, Delivery):
                lost.append(delivery)
        return ours, lost

    def _notice(self, deliveries: Sequence[Delivery | UnreadableRecord]) -> None:
        """Somebody works on these streams; who waits for news of them looks again."""
        for queue_id in {each.receipt.window.queue_id for each in deliveries}:
            self._stream(queue_id).touch()
            self._stream(queue_id).ring()

    async def _save(self, window: Window) -> bool:
        try:
            return await self._stream(window.queue_id).save(window)
        except StorageUnavailableError as error:
            raise _unavailable(window.queue_id, error) from error


def _unavailable(queue_id: str, error: Exception) -> Exception:
    """What a call raises for what keeps its stream from being read."""
    if isinstance(error, StorageUnavailableError | TimeoutError):
        return QueueUnavailableError(
            f"the shard locks of {queue_id!r}: {str(error) or 'no answer'}"
        )
    return error


def _by_window(
    deliveries: Sequence[Delivery | UnreadableRecord],
) -> dict[Window, list[Delivery | UnreadableRecord]]:
    groups: dict[Window, list[Delivery | UnreadableRecord]] = {}
    for delivery in deliveries:
        groups.setdefault(delivery.receipt.window, []).append(delivery)
    return groups


def _result(group: Sequence[Delivery | UnreadableRecord]) -> BatchResult:
    tasks = [each.task for each in group if isinstance(each, Delivery)]
    return BatchResult(
        succeeded=len(tasks),
        poison_pill=len(tasks) < len(group),
        succeeded_types=tuple({task.type for task in tasks}),
    )
