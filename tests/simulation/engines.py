"""Memory engines behind a nemesis: each call may be done, refused, lost, slow, or the last.

What an engine accepted is noted where it happens, before anything can go wrong on the way back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeAlias

from simulation.nemesis import Life, Nemesis
from taskloom import QueueUnavailableError, StorageUnavailableError, Task
from taskloom.interfaces import (
    Cache,
    Delivery,
    MessageQueue,
    Settlement,
    TaskStorage,
    UnreadableRecord,
)

__all__ = ["SimulatedCache", "SimulatedQueue", "SimulatedStorage"]

_Keys: TypeAlias = set[str]


def _ids(deliveries: Sequence[Any]) -> list[str]:
    return [delivery.task.id for delivery in deliveries]


class SimulatedQueue(MessageQueue):
    """One process's way to a queue."""

    def __init__(
        self, inner: MessageQueue, nemesis: Nemesis, life: Life, storage: TaskStorage | None
    ) -> None:
        self.name = inner.name
        self.features = inner.features
        self.storage = storage
        self._inner = inner
        self._nemesis = nemesis
        self._life = life

    async def _call(self, name: str, ids: Sequence[str], act: Any, nothing: Any) -> Any:
        return await self._nemesis.around(
            self._life, name, ids, act, nothing, QueueUnavailableError
        )

    async def put(self, queue_id: str, tasks: Sequence[Task[Any]]) -> None:
        ids = [task.id for task in tasks]
        await self._call("put", ids, lambda: self._inner.put(queue_id, tasks), None)

    async def claim(
        self, queue_id: str, limit: int, *, lease: float, wait: float = 0.0
    ) -> list[Delivery | UnreadableRecord]:
        async def act() -> list[Delivery | UnreadableRecord]:
            taken = await self._inner.claim(queue_id, limit, lease=lease, wait=wait)
            for each in taken:
                about = {"receipt": each.receipt, "count": each.delivery_count}
                self._life.saw("claim", _ids([each])[0], **about)
            return taken

        if self._life.dead:
            await asyncio.sleep(max(wait, 0.01))
        answer: list[Delivery | UnreadableRecord] = await self._call("claim", (), act, [])
        return answer

    async def extend(self, deliveries: Sequence[Delivery], lease: float) -> list[Delivery]:
        act = lambda: self._inner.extend(deliveries, lease)  # noqa: E731
        answer: list[Delivery] = await self._call("extend", _ids(deliveries), act, [])
        return answer

    async def ack(self, deliveries: Sequence[Delivery | UnreadableRecord]) -> list[Delivery]:
        async def act() -> list[Delivery]:
            lost = await self._inner.ack(deliveries)
            self._note("ack", deliveries, lost)
            return lost

        answer: list[Delivery] = await self._call("ack", _ids(deliveries), act, [])
        return answer

    async def release(
        self,
        deliveries: Sequence[Delivery],
        *,
        delay: float = 0.0,
        tasks: Sequence[Task[Any]] | None = None,
    ) -> list[Delivery]:
        async def act() -> list[Delivery]:
            lost = await self._inner.release(deliveries, delay=delay, tasks=tasks)
            self._note("release" if tasks is None else "back", deliveries, lost)
            return lost

        answer: list[Delivery] = await self._call("release", _ids(deliveries), act, [])
        return answer

    def _note(self, kind: str, deliveries: Sequence[Any], lost: Sequence[Delivery]) -> None:
        refused = {id(delivery) for delivery in lost}
        for delivery in deliveries:
            if id(delivery) not in refused:
                self._life.saw(kind, delivery.task.id, receipt=delivery.receipt)

    async def depth(self, queue_id: str) -> int:
        answer: int = await self._call("depth", (), lambda: self._inner.depth(queue_id), 0)
        return answer


class SimulatedStorage(TaskStorage):
    """One process's way to a storage. `is_queue`: its claims and settles are a queue's."""

    def __init__(self, inner: TaskStorage, nemesis: Nemesis, life: Life, *, is_queue: bool) -> None:
        self._inner = inner
        self._nemesis = nemesis
        self._life = life
        self._is_queue = is_queue

    async def _call(self, name: str, ids: Sequence[str], act: Any, nothing: Any) -> Any:
        return await self._nemesis.around(
            self._life, name, ids, act, nothing, StorageUnavailableError
        )

    async def open(self) -> None:
        """It is open."""

    async def close(self) -> None:
        """Others use it too."""

    async def add(self, tasks: Sequence[Task[Any]]) -> list[Task[Any]]:
        ids = [task.id for task in tasks]
        answer: list[Task[Any]] = await self._call(
            "add", ids, lambda: self._inner.add(tasks), list(tasks)
        )
        return answer

    async def claim_due(
        self, limit: int, *, lease: float, queue_id: str | None = None, now: datetime | None = None
    ) -> list[Delivery]:
        act = lambda: self._inner.claim_due(limit, lease=lease, queue_id=queue_id, now=now)  # noqa: E731
        answer: list[Delivery] = await self._call("claim_due", (), act, [])
        return answer

    async def take_over(self, ids: Sequence[str], *, lease: float) -> list[Delivery]:
        act = lambda: self._inner.take_over(ids, lease=lease)  # noqa: E731
        answer: list[Delivery] = await self._call("take_over", ids, act, [])
        return answer

    async def extend_leases(self, deliveries: Sequence[Delivery], lease: float) -> list[Delivery]:
        act = lambda: self._inner.extend_leases(deliveries, lease)  # noqa: E731
        answer: list[Delivery] = await self._call("extend_leases", _ids(deliveries), act, [])
        return answer

    async def settle(self, plan: Settlement) -> list[str]:
        async def act() -> list[str]:
            lost = await self._inner.settle(plan)
            self._note(plan, set(lost))
            return lost

        ids = [each.delivery.task.id for each in plan.endings]
        ids += [*plan.cancelled, *plan.unqueued]
        ids += [task.id for task in plan.revived]
        answer: list[str] = await self._call("settle", ids, act, [])
        return answer

    def _note(self, plan: Settlement, lost: set[str]) -> None:
        if not self._is_queue:
            return
        for ending in plan.endings:
            if ending.delivery.task.id not in lost:
                about = {"receipt": ending.delivery.receipt, "status": ending.status.value}
                self._life.saw("settle", ending.delivery.task.id, **about)

    async def get(self, ids: Sequence[str]) -> list[Task[Any]]:
        answer: list[Task[Any]] = await self._call("get", ids, lambda: self._inner.get(ids), [])
        return answer

    async def recover_stale(self, *, now: datetime, stale_after: float) -> int:
        act = lambda: self._inner.recover_stale(now=now, stale_after=stale_after)  # noqa: E731
        answer: int = await self._call("recover_stale", (), act, 0)
        return answer

    async def set_aside(self, records: Sequence[UnreadableRecord]) -> None:
        await self._call("set_aside", (), lambda: self._inner.set_aside(records), None)


class SimulatedCache(Cache):
    """One process's way to a cache."""

    def __init__(self, inner: Cache, nemesis: Nemesis, life: Life) -> None:
        self._inner = inner
        self._nemesis = nemesis
        self._life = life

    async def _call(self, name: str, act: Any, nothing: Any) -> Any:
        return await self._nemesis.around(
            self._life, f"cache.{name}", (), act, nothing, StorageUnavailableError
        )

    async def get(self, key: str) -> Any:
        return await self._call("get", lambda: self._inner.get(key), None)

    async def get_many(self, keys: Sequence[str]) -> dict[str, Any]:
        answer: dict[str, Any] = await self._call(
            "get_many", lambda: self._inner.get_many(keys), {}
        )
        return answer

    async def set(self, key: str, value: Any, ttl: float | None = None) -> None:
        await self._call("set", lambda: self._inner.set(key, value, ttl), None)

    async def delete(self, key: str) -> None:
        await self._call("delete", lambda: self._inner.delete(key), None)

    async def incr(self, key: str, by: int = 1, ttl: float | None = None) -> int:
        answer: int = await self._call("incr", lambda: self._inner.incr(key, by, ttl), by)
        return answer

    async def acquire_many(self, keys: Sequence[str], owner: str, ttl: float) -> _Keys:
        act = lambda: self._inner.acquire_many(keys, owner, ttl)  # noqa: E731
        answer: _Keys = await self._call("acquire", act, frozenset())
        return answer

    async def release_many(self, keys: Sequence[str], owner: str) -> None:
        await self._call("release", lambda: self._inner.release_many(keys, owner), None)
