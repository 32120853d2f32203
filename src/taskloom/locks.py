"""Task locks: two tasks with one `task_hash` never run at the same time, on any worker."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from taskloom.interfaces.cache import Cache
from taskloom.outcomes import Delivery

__all__ = ["TaskLocks"]

PREFIX = "task_lock_"


class TaskLocks:
    """Locks in the cache, for all deliveries of a claim in one call, under this worker's name.

    Where claims are exclusive under a lease, only tasks with a `task_hash` need one. A lock lasts
    as long as a lease and is renewed with it.
    """

    def __init__(self, cache: Cache, owner: str, *, ttl: float, every_task: bool) -> None:
        self._cache = cache
        self._owner = owner
        self._ttl = ttl
        self._every_task = every_task
        self._held: dict[str, Delivery] = {}
        """Which delivery holds a lock here: another task of ours has to wait too.

        The next delivery of the same task takes its lock over, and what the former one still
        unlocks is not unlocked.
        """

    async def take(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Lock what needs a lock. Returns the deliveries whose lock is with another task."""
        if not self._every_task and all(d.task.task_hash is None for d in deliveries):
            return []
        locked: list[Delivery] = []
        wanted: dict[str, Delivery] = {}
        for delivery in deliveries:
            key = self._key(delivery)
            if key is None:
                continue
            holder = wanted.get(key) or self._held.get(key)
            if holder is not None and holder.task.id != delivery.task.id:
                locked.append(delivery)
            else:
                wanted[key] = delivery
        if not wanted:
            return locked
        # Ours from here on, so that a claim running beside this one waits for the answer too.
        self._held.update(wanted)
        try:
            got = await self._cache.acquire_many(list(wanted), self._owner, self._ttl)
        except BaseException:
            self._forget(wanted, wanted)
            raise
        missed = wanted.keys() - got
        locked += [wanted[key] for key in missed]
        self._forget(missed, wanted)
        return locked

    async def release(self, deliveries: Iterable[Delivery]) -> None:
        """Unlock what these deliveries hold. Safe to repeat."""
        if not self._held:
            return
        keys = []
        for delivery in deliveries:
            key = self._key(delivery)
            if key is not None and self._held.get(key) is delivery:
                del self._held[key]
                keys.append(key)
        if keys:
            await self._cache.release_many(keys, self._owner)

    async def renew(self) -> None:
        """Hold everything for another lease."""
        keys = list(self._held)
        if not keys:
            return
        await self._cache.acquire_many(keys, self._owner, self._ttl)
        # What was unlocked while this was under way may just have been locked again by it.
        if unlocked := [key for key in keys if key not in self._held]:
            await self._cache.release_many(unlocked, self._owner)

    def _forget(self, keys: Iterable[str], wanted: dict[str, Delivery]) -> None:
        for key in keys:
            if self._held.get(key) is wanted[key]:
                del self._held[key]

    def _key(self, delivery: Delivery) -> str | None:
        task = delivery.task
        if task.task_hash is not None:
            return PREFIX + task.task_hash
        return PREFIX + task.id if self._every_task else None
