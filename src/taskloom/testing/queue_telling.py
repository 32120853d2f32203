"""Cases of queues: what a listener is told."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from taskloom.interfaces.message_queue import MessageQueue
from taskloom.lifecycle import LifecycleMode, QueueLifecycleConfig
from taskloom.queue_events import (
    ConsumerCheckpoint,
    ConsumerConnected,
    ConsumerDisconnected,
    MessageConsumed,
    MessagePublished,
    QueueLifecycleProvider,
)
from taskloom.task import Task
from taskloom.testing.queue_base import LONG, QueueSuite, ids

__all__ = ["TellingCases"]

_PROMPT = 10.0
"""Real seconds within which a listener must be told."""


class _Listener(QueueLifecycleProvider):
    """Keeps what it is told; the last two may come while nobody waits for them."""

    def __init__(self) -> None:
        self.published: list[MessagePublished] = []
        self.consumed: list[MessageConsumed] = []
        self.connected: asyncio.Queue[ConsumerConnected] = asyncio.Queue()
        self.disconnected: asyncio.Queue[ConsumerDisconnected] = asyncio.Queue()
        self.checkpoints: asyncio.Queue[ConsumerCheckpoint] = asyncio.Queue()

    def on_message_published(self, event: MessagePublished) -> None:
        self.published.append(event)

    def on_message_consumed(self, event: MessageConsumed) -> None:
        self.consumed.append(event)

    def on_consumer_connected(self, event: ConsumerConnected) -> None:
        self.connected.put_nowait(event)

    def on_consumer_disconnected(self, event: ConsumerDisconnected) -> None:
        self.disconnected.put_nowait(event)

    def on_consumer_checkpoint(self, event: ConsumerCheckpoint) -> None:
        self.checkpoints.put_nowait(event)


class _Stuck(QueueLifecycleProvider):
    """Is told of a delivery, and does not return."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()

    async def on_message_consumed(self, event: MessageConsumed) -> None:
        self.entered.set()
        await asyncio.Event().wait()


class _Failing(QueueLifecycleProvider):
    async def on_message_published(self, event: MessagePublished) -> None:
        raise RuntimeError("a listener failed")

    def on_message_consumed(self, event: MessageConsumed) -> None:
        raise RuntimeError("a listener failed")


class TellingCases(QueueSuite):
    """`set_lifecycle`, and what follows from it."""

    def listen(self, queue: MessageQueue, mode: LifecycleMode = "sync") -> _Listener:
        """Told before the call that caused it returns."""
        listener = _Listener()
        queue.set_lifecycle(QueueLifecycleConfig(listener, mode))
        return listener

    async def test_what_is_put_is_told_as_published(self, queue: MessageQueue) -> None:
        listener = self.listen(queue)
        queue_id = await self.make_queue(queue)
        tasks = self.tasks(queue_id, 3)
        await queue.put(queue_id, tasks)
        assert [event.task_id for event in listener.published] == ids(tasks)
        for event in listener.published:
            assert (event.queue_id, event.provider) == (queue_id, queue.name)
            assert event.task_type == "conformance"
        assert not listener.consumed

    async def test_what_is_claimed_is_told_with_its_age(self, queue: MessageQueue) -> None:
        listener = self.listen(queue)
        queue_id, deliveries = await self.put_and_take(queue, 3)
        assert [event.task_id for event in listener.consumed] == ids(deliveries)
        for event in listener.consumed:
            assert (event.queue_id, event.provider) == (queue_id, queue.name)
            assert event.task_type == "conformance"
            assert 50 < event.age < 120, "these tasks were made 60 seconds ago"
            assert event.delivery_count == 1
        await queue.ack(deliveries)
        assert len(listener.published) == len(listener.consumed) == 3

    async def test_what_comes_again_is_consumed_again_not_published(
        self, queue: MessageQueue
    ) -> None:
        listener = self.listen(queue)
        queue_id, (first,) = await self.put_and_take(queue)
        await queue.release([first])
        (again,) = await self.take(queue, queue_id)
        await queue.release([again], tasks=[again.task.replace(retry_count=1)])
        (retried,) = await self.take(queue, queue_id)
        assert [event.task_id for event in listener.consumed] == [retried.task.id] * 3
        assert len(listener.published) == 1

    async def test_beside_the_work_all_is_told_in_order(self, queue: MessageQueue) -> None:
        listener = self.listen(queue, "async")
        queue_id = await self.make_queue(queue)
        tasks = self.tasks(queue_id, 20)
        await queue.put(queue_id, tasks)
        await self.take(queue, queue_id, 20)
        await queue.close()  # delivers what is still to be told
        assert [event.task_id for event in listener.published] == ids(tasks)
        assert sorted(event.task_id for event in listener.consumed) == sorted(ids(tasks))

    async def test_a_consumer_comes_and_goes(self, queue: MessageQueue) -> None:
        listener = self.listen(queue)
        queue_id = await self.make_queue(queue)
        await queue.put(queue_id, self.tasks(queue_id, 1))
        stop = asyncio.Event()

        def process(_: str, tasks: list[Task[Any]]) -> None:
            assert len(tasks) == 1
            stop.set()

        consuming = asyncio.create_task(queue.consume_messages_stream(queue_id, process, stop))
        connected = await self._of_worker(listener.connected)
        await asyncio.wait_for(consuming, _PROMPT)
        disconnected = await self._of_worker(listener.disconnected)
        assert connected.consumer_id == disconnected.consumer_id
        assert connected.queue_id == disconnected.queue_id == queue_id
        assert connected.provider == disconnected.provider == queue.name

    async def test_shards_and_their_checkpoints_are_told(self, queue: MessageQueue) -> None:
        if queue.features.single_ack:
            pytest.skip(f"{queue.name} declares single_ack=True: it has no shards")
        listener = self.listen(queue)
        queue_id, deliveries = await self.put_and_take(queue)
        connected = await asyncio.wait_for(listener.connected.get(), _PROMPT)
        assert connected.queue_id == queue_id
        assert connected.shard_id
        assert listener.checkpoints.empty(), "nothing is settled yet"
        await queue.ack(deliveries)
        checkpoint = await asyncio.wait_for(listener.checkpoints.get(), _PROMPT)
        assert checkpoint.queue_id == queue_id
        assert checkpoint.checkpoint
        await queue.close()
        disconnected = await asyncio.wait_for(listener.disconnected.get(), _PROMPT)
        assert (disconnected.queue_id, disconnected.provider) == (queue_id, queue.name)

    async def test_a_listener_that_fails_changes_nothing(self, queue: MessageQueue) -> None:
        queue.set_lifecycle(QueueLifecycleConfig(_Failing(), "sync"))
        queue_id, deliveries = await self.put_and_take(queue, 2)
        assert await queue.ack(deliveries) == []
        await self.assert_nothing(queue, queue_id)

    async def test_a_claim_cancelled_while_it_is_told_loses_nothing(
        self, queue: MessageQueue
    ) -> None:
        listener = _Stuck()
        queue.set_lifecycle(QueueLifecycleConfig(listener, "sync"))
        queue_id = await self.make_queue(queue)
        (task,) = tasks = self.tasks(queue_id, 1)
        await queue.put(queue_id, tasks)
        claim = asyncio.create_task(queue.claim(queue_id, 1, lease=LONG, wait=self.patience))
        await asyncio.wait_for(listener.entered.wait(), _PROMPT)
        claim.cancel()
        with pytest.raises(asyncio.CancelledError):
            await claim
        self.listen(queue)
        (delivery,) = await self.take(queue, queue_id)
        assert delivery.task.id == task.id

    async def _of_worker(self, told: asyncio.Queue[Any]) -> Any:
        """The first that is not about a shard."""
        while (event := await asyncio.wait_for(told.get(), _PROMPT)).shard_id is not None:
            pass
        return event
