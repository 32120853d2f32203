"""Workers on a stream whose shards change: what ran, and in what order by key."""

from __future__ import annotations

import asyncio
from collections import defaultdict

from taskloom import Task
from taskloom.kinesis import KinesisQueue
from taskloom.outcomes import Delivery

__all__ = ["KEYS", "TASKS", "Flow"]

KEYS = 12
TASKS = 48
"""How many are put in a round, on `KEYS` keys."""
LEASE = 60.0
PATIENCE = 20.0


class Flow:
    """Runs what it claims as quickly as it can; `runs` has the key and number of each run."""

    def __init__(self) -> None:
        self.runs: list[tuple[str, int]] = []
        self._put = 0
        self._news = asyncio.Event()
        self._workers: dict[KinesisQueue, asyncio.Task[None]] = {}

    def join(self, queue: KinesisQueue, stream: str) -> None:
        """An instance begins to work."""
        self._workers[queue] = asyncio.create_task(self._work(queue, stream))

    async def leave(self, queue: KinesisQueue) -> None:
        """It ends, with all settled that it has claimed."""
        worker = self._workers.pop(queue)
        worker.cancel()
        await asyncio.wait([worker])

    async def _work(self, queue: KinesisQueue, stream: str) -> None:
        while True:
            found = await queue.claim(stream, 7, lease=LEASE, wait=0.1)
            taken = [each for each in found if isinstance(each, Delivery)]
            for each in taken:
                self.runs.append((each.task.partition_key or "", each.task.payload))
            await asyncio.shield(queue.ack(taken))
            self._news.set()

    async def put(self, queue: KinesisQueue, stream: str, turn: int) -> None:
        """A round of tasks."""
        numbers = range(turn * TASKS, (turn + 1) * TASKS)
        tasks = [
            Task(type="t", queue_id=stream, payload=number, partition_key=f"k{number % KEYS}")
            for number in numbers
        ]
        await queue.put(stream, tasks)
        self._put += TASKS

    async def until_run(self, count: int) -> None:
        """Return when so many have run."""
        async with asyncio.timeout(PATIENCE):
            while len(set(self.runs)) < count:
                self._news.clear()
                await self._news.wait()

    async def end(self) -> None:
        """Return when all have run, and nobody works any more."""
        await self.until_run(self._put)
        for queue in list(self._workers):
            await self.leave(queue)

    @property
    def in_order(self) -> bool:
        """Whether the first runs of each key came in the order they were put."""
        by_key: dict[str, list[int]] = defaultdict(list)
        for key, number in dict.fromkeys(self.runs):
            by_key[key].append(number)
        return all(numbers == sorted(numbers) for numbers in by_key.values())
