"""Instances that share streams of a fake, in one process: what tests of the engine start from."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from kinesis_fake import FakeKinesis
from taskloom import Task
from taskloom.interfaces import AdaptiveStrategy, ShardLocks
from taskloom.kinesis import FileShardLocks, KinesisQueue
from taskloom.kinesis.timing import Timing
from taskloom.outcomes import Delivery

__all__ = ["LONG", "QUICK", "Cluster", "cluster", "held", "keyed", "take"]

LONG = 60.0
QUICK = Timing(
    lock_ttl=5.0,
    renew=0.2,
    look=0.05,
    beat_ttl=0.5,
    list_shards=0.05,
    gap=0.002,
    idle=0.02,
    drain=0.3,
)


class Cluster:
    """A service, and instances of the engine on it."""

    def __init__(self, fake: FakeKinesis, locks: ShardLocks, stack: AsyncExitStack) -> None:
        self.fake, self.locks, self._stack = fake, locks, stack

    async def instance(
        self,
        *,
        timing: Timing = QUICK,
        locks: ShardLocks | None = None,
        strategy: AdaptiveStrategy | None = None,
        **options: Any,
    ) -> KinesisQueue:
        """Another instance, open."""
        queue = KinesisQueue(
            self.fake, shard_locks=locks or self.locks, adaptive_strategy=strategy, **options
        )
        queue.timing = timing
        return await self._stack.enter_async_context(queue)


@asynccontextmanager
async def cluster(folder: Path) -> AsyncIterator[Cluster]:
    """Instances share the locks in `folder`; they are closed at the end."""
    async with FileShardLocks(folder / "locks") as locks, AsyncExitStack() as stack:
        yield Cluster(FakeKinesis(), locks, stack)


def keyed(number: int, key: str | None = None, **fields: Any) -> Task[Any]:
    """A task of stream `s`."""
    return Task(type="t", queue_id="s", payload=number, partition_key=key, **fields)


async def take(queue: KinesisQueue, count: int = 1, lease: float = LONG) -> list[Delivery]:
    """Exactly `count` tasks of stream `s`."""
    taken: list[Delivery] = []
    while len(taken) < count:
        found = await queue.claim("s", count - len(taken), lease=lease, wait=2.0)
        assert found, f"claimed {len(taken)} of {count}, then none"
        taken += [each for each in found if isinstance(each, Delivery)]
    return taken


def held(queue: KinesisQueue) -> list[str]:
    """The shards of stream `s` that an instance holds."""
    return sorted(queue._stream("s")._held)
