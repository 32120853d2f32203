"""Balance: which shards of a stream this instance should hold, and getting there."""

from __future__ import annotations

from collections.abc import Iterable

from taskloom.clock import Clock
from taskloom.interfaces.shard_locks import ShardLocks
from taskloom.kinesis.assignment import share
from taskloom.kinesis.client import KinesisClient
from taskloom.kinesis.holding import lock_key
from taskloom.kinesis.progress import FINISHED
from taskloom.kinesis.shard_map import Shard, ShardMap
from taskloom.kinesis.timing import Timing

__all__ = ["Balance"]


class Balance:
    """What is known of a stream's shards and of the instances that read it."""

    def __init__(
        self,
        client: KinesisClient,
        locks: ShardLocks,
        stream: str,
        instance: str,
        timing: Timing,
        clock: Clock,
    ) -> None:
        self._client, self._locks, self._stream, self._me = client, locks, stream, instance
        self._timing, self._clock = timing, clock
        self._map = ShardMap()
        self._listed_at = float("-inf")
        self._finished: set[str] = set()
        self._readable: list[str] = []
        self._want = 0
        self._first = 0

    def shard(self, shard_id: str) -> Shard | None:
        """A shard as it was listed last."""
        return self._map.shards.get(shard_id)

    def note_finished(self, shard_id: str) -> None:
        """A shard is read to its end: what comes after it is to be found at the next look."""
        self._finished.add(shard_id)
        self._listed_at = float("-inf")

    async def look(self) -> None:
        """See which shards there are and who reads them; say that this instance does.

        Raises `UnavailableError`.
        """
        await self._locks.send_heartbeat(self._stream, self._me, self._timing.beat_ttl)
        now = self._clock.monotonic()
        if now - self._listed_at >= self._timing.list_shards:
            self._map = await self._client.list_shards(self._stream)
            self._listed_at = now
            self._finished &= self._map.shards.keys()
        await self._look_at_closed()
        instances = sorted({*await self._locks.get_active_instances(self._stream), self._me})
        self._readable = self._map.readable(self._finished)
        self._want = share(len(self._readable), instances, self._me)
        self._first = self._want * instances.index(self._me)

    async def _look_at_closed(self) -> None:
        """Whoever finishes a shard says so in its checkpoint."""
        for shard_id in self._map.closed(self._finished):
            key = lock_key(self._stream, shard_id)
            if await self._locks.get_checkpoint(key) == FINISHED:
                self._finished.add(shard_id)

    def excess(self, held: int) -> int:
        """How many of the shards held are more than the share."""
        return max(0, held - self._want)

    def wanted(self, held: Iterable[str]) -> list[str]:
        """Shards to try, while there are fewer than the share; each instance starts elsewhere."""
        have = set(held)
        if len(have) >= self._want:
            return []
        start = self._first % len(self._readable)
        turned = self._readable[start:] + self._readable[:start]
        return [shard_id for shard_id in turned if shard_id not in have]

    def is_short(self, held: int) -> bool:
        """Whether there are fewer than the share."""
        return held < self._want

    def unread(self, held: Iterable[str]) -> list[str]:
        """Readable shards that are not held here."""
        return sorted(set(self._readable) - set(held))
