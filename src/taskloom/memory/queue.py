"""InMemoryQueue: tasks in this process, gone with it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from taskloom.clock import SYSTEM_CLOCK, Clock
from taskloom.interfaces.message_queue import MessageQueue
from taskloom.memory.channel import TICK, Channel, ring
from taskloom.memory.copies import keep
from taskloom.memory.line import Item
from taskloom.outcomes import Delivery, UnreadableRecord
from taskloom.task import Task

__all__ = ["InMemoryQueue"]


class InMemoryQueue(MessageQueue):
    """A queue for tests and for one process. Lost with it; empty when made.

    All state changes happen between two awaits, so each call is atomic. For one event loop.
    """

    name = "memory"

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._channels: dict[str, Channel] = {}

    def _channel(self, queue_id: str) -> Channel:
        channel = self._channels.get(queue_id)
        if channel is None:
            channel = self._channels[queue_id] = Channel(queue_id)
        return channel

    async def put(self, queue_id: str, tasks: Sequence[Task[Any]]) -> None:
        """Accept all of `tasks` or, when one of them has no JSON form, none."""
        self._channel(queue_id).put(tasks, self._due_from())

    def _due_from(self) -> datetime:
        """Up to which `execute_at` a task is due."""
        return self._clock.now()

    async def claim(
        self, queue_id: str, limit: int, *, lease: float, wait: float = 0.0
    ) -> list[Delivery | UnreadableRecord]:
        # Also with work at hand the loop must turn: a consumer that never waits for anything
        # else would starve everyone.
        await asyncio.sleep(0)
        channel = self._channel(queue_id)
        deadline = self._clock.monotonic() + wait
        while True:
            # From here to the return nothing is awaited, so cancelling cannot lose what was taken.
            now = self._clock.monotonic()
            taken = channel.take(limit, now, lease, self._due_from())
            if taken or limit <= 0 or now >= deadline - TICK:
                return taken
            await self._news(channel, deadline - now)

    async def _news(self, channel: Channel, longest: float) -> None:
        """Wait for a put or a release, the next due time or the next lost lease."""
        pause = channel.pause(self._clock.monotonic(), self._due_from())
        bell = channel.listen()
        nap = asyncio.ensure_future(self._clock.sleep(min(longest, pause)))
        nap.add_done_callback(lambda _: ring(bell))
        try:
            await bell  # itself: a wait for both would be a turn of the loop later
        finally:
            nap.cancel()
            channel.bells.discard(bell)

    async def extend(self, deliveries: Sequence[Delivery], lease: float) -> list[Delivery]:
        end = self._clock.monotonic() + lease
        held, lost = self._split(deliveries)
        for channel, items in held:
            channel.lease(items, end)
        return lost

    async def ack(self, deliveries: Sequence[Delivery | UnreadableRecord]) -> list[Delivery]:
        # Nothing here is unreadable: what was put is kept as it came.
        held, lost = self._split([each for each in deliveries if isinstance(each, Delivery)])
        for channel, items in held:
            channel.drop(items)
        return lost

    async def release(
        self,
        deliveries: Sequence[Delivery],
        *,
        delay: float = 0.0,
        tasks: Sequence[Task[Any]] | None = None,
    ) -> list[Delivery]:
        replacements = _by_id(deliveries, tasks)
        held, lost = self._split(deliveries)
        now = self._due_from()
        due = None
        if delay > 0 and self.features.delay:
            due = self._clock.now() + timedelta(seconds=delay)
        for channel, items in held:
            for item in items.values():
                if replacements is None:
                    channel.give_back(item, due, now)
                else:
                    channel.replace(item, *replacements[item.id], now)
            channel.ring()
        return lost

    async def depth(self, queue_id: str) -> int:
        channel = self._channel(queue_id)
        return channel.depth(self._clock.monotonic(), self._due_from())

    def _split(
        self, deliveries: Sequence[Delivery]
    ) -> tuple[list[tuple[Channel, dict[str, Item]]], list[Delivery]]:
        """What is still ours, by channel and id, and what is not."""
        queues = {delivery.receipt[0] for delivery in deliveries}
        by_queue = dict.fromkeys(queues, deliveries)
        if len(queues) > 1:
            by_queue = {id: [each for each in deliveries if each.receipt[0] == id] for id in queues}
        held, lost = [], []
        for queue_id, group in by_queue.items():
            channel = self._channel(queue_id)
            ours, others = channel.split(group)
            held.append((channel, ours))
            lost += others
        return held, lost


def _by_id(
    deliveries: Sequence[Delivery], tasks: Sequence[Task[Any]] | None
) -> dict[str, tuple[datetime, tuple[Task[Any] | None, bytes]]] | None:
    """The replacements by the id of what they replace, encoded before anything is changed."""
    if tasks is None:
        return None
    if [task.id for task in tasks] != [delivery.task.id for delivery in deliveries]:
        raise ValueError("tasks: one for each delivery, in the same order, with the same ids")
    return {task.id: (task.execute_at, keep(task)) for task in tasks}
