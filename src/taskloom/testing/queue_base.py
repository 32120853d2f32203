"""What the cases of queues share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any

import pytest

from taskloom.interfaces.message_queue import MessageQueue
from taskloom.outcomes import Delivery
from taskloom.task import Task
from taskloom.testing.suite import Suite

__all__ = ["LONG", "PROMPT", "WAIT", "QueueSuite", "ids"]

LONG = 60.0
"""A lease that does not end within a test."""

WAIT = 30.0
PROMPT = 15.0
"""Real seconds within which a waiting claim must notice what happened; no case waits so long."""


class QueueSuite(Suite):
    """Subclasses give a fixture `queue`: an open queue."""

    patience: float = 2.0
    """Seconds a claim waits for tasks that must be there; 0 is right for a virtual clock."""

    async def make_queue(self, queue: MessageQueue) -> str:
        """The id of an empty queue of its own. Override where queues must be created first."""
        queue_id = self.new_queue_id()
        queue.register(queue_id)
        return queue_id

    async def take(
        self, queue: MessageQueue, queue_id: str, count: int = 1, lease: float = LONG
    ) -> list[Delivery]:
        """Exactly `count` deliveries, in as many claims as the engine needs."""
        taken: list[Delivery] = []
        while len(taken) < count:
            limit = count - len(taken)
            records = await queue.claim(queue_id, limit, lease=lease, wait=self.patience)
            assert records, f"claimed {len(taken)} of {count} due tasks, then none"
            assert len(records) <= limit
            taken += [record for record in records if isinstance(record, Delivery)]
        return taken

    async def put_and_take(
        self, queue: MessageQueue, count: int = 1, lease: float = LONG
    ) -> tuple[str, list[Delivery]]:
        """A queue of its own with `count` tasks, all of them claimed."""
        queue_id = await self.make_queue(queue)
        await queue.put(queue_id, self.tasks(queue_id, count))
        return queue_id, await self.take(queue, queue_id, count, lease)

    async def in_time(
        self,
        queue: MessageQueue,
        queue_id: str,
        act: Callable[[list[Delivery]], Awaitable[Sequence[Any]]],
    ) -> list[Delivery]:
        """All that waits, claimed for `self.lease` seconds, and `act` came in time for each.

        `act` answers what it came too late for. The machine stood still then, and all that is left
        is claimed again.
        """
        while True:
            since = self.now()
            taken = await self.take(queue, queue_id, await queue.depth(queue_id), self.lease)
            if len(set(ids(taken))) == len(taken) and not await act(taken):
                return taken
            self.assert_late(since)
            await self.outlive_lease()

    async def assert_nothing(self, queue: MessageQueue, queue_id: str) -> None:
        """Nothing can be claimed now."""
        found = await queue.claim(queue_id, 10, lease=LONG)
        assert not found, f"claimed {len(found)} tasks where there should be none"

    async def start_claim(
        self, queue: MessageQueue, queue_id: str, *, wait: float, lease: float = LONG
    ) -> asyncio.Task[list[Any]]:
        """A claim of one task that is under way, and waits if there is none."""
        claim = asyncio.create_task(queue.claim(queue_id, 1, lease=lease, wait=wait))
        await self.pass_time(0.05)
        return claim

    async def start_timed_claim(
        self, queue: MessageQueue, queue_id: str, *, wait: float
    ) -> asyncio.Task[tuple[list[Any], datetime]]:
        """As `start_claim`, with the moment of the answer beside it."""

        async def claim() -> tuple[list[Any], datetime]:
            return await queue.claim(queue_id, 1, lease=LONG, wait=wait), self.now()

        waiting = asyncio.create_task(claim())
        await self.pass_time(0.05)
        return waiting

    def need(self, queue: MessageQueue, feature: str) -> None:
        """Skip the case unless the queue declares `feature`."""
        if not getattr(queue.features, feature):
            pytest.skip(f"{queue.name} declares {feature}=False")


def ids(records: list[Delivery] | list[Task[Any]]) -> list[str]:
    """The tasks' ids, in order."""
    return [each.task.id if isinstance(each, Delivery) else each.id for each in records]
