"""RoutingQueue: one queue for the handler, and behind it an engine for each queue id."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar

from taskloom import ConfigurationError, QueueLifecycleConfig, Task
from taskloom.interfaces import (
    Delivery,
    MessageQueue,
    QueueFeatures,
    TaskStorage,
    UnreadableRecord,
)

__all__ = ["RoutingQueue"]

T = TypeVar("T")


class RoutingQueue(MessageQueue):
    """Sends each queue id to its engine: `RoutingQueue({"mail": mongodb, "clicks": kinesis})`.

    What a queue can do is what its engine can do; `features` is what all of them can. A task on a
    queue that is its storage (MongoDB) is one row there, settled in one write; one on a queue
    beside it (Kinesis) is settled step by step. A child may be of the other kind: what a task in
    the storage adds to a queue beside it waits there for upkeep, `mature_interval` at the most.

    The engines are opened and closed with it.
    """

    name = "routing"

    def __init__(self, routes: Mapping[str, MessageQueue]) -> None:
        if not routes:
            raise ConfigurationError("routes: name at least one queue id with its engine")
        self._routes = dict(routes)
        self._engines = list({id(engine): engine for engine in routes.values()}.values())
        self.beneath = [part for engine in self._engines for part in engine.beneath]
        self.features = _common(engine.features for engine in self._engines)

    def engine(self, queue_id: str) -> MessageQueue:
        """The engine of a queue. Raises `ConfigurationError` for one that has none."""
        try:
            return self._routes[queue_id]
        except KeyError:
            known = ", ".join(sorted(self._routes))
            raise ConfigurationError(
                f"queue {queue_id!r} has no route; there are: {known}"
            ) from None

    # What differs from queue to queue

    def features_of(self, queue_id: str) -> QueueFeatures:
        return self.engine(queue_id).features

    def storage_of(self, queue_id: str) -> TaskStorage | None:
        return self.engine(queue_id).storage

    def fed_from(self, storage: TaskStorage) -> Sequence[str]:
        return [id for id, engine in self._routes.items() if engine.storage is not storage]

    # Opening and closing

    async def open(self) -> None:
        async with AsyncExitStack() as opened:
            for part in self._engines:
                await part.open()
                opened.push_async_callback(part.close)
            opened.pop_all()

    async def upgrade(self) -> None:
        for part in self._engines:
            await part.upgrade()

    async def close(self) -> None:
        async with AsyncExitStack() as closing:  # also when one of them cannot be closed
            for part in self._engines:
                closing.push_async_callback(part.close)

    # Of one queue

    def register(self, queue_id: str) -> None:
        self.engine(queue_id).register(queue_id)

    async def put(self, queue_id: str, tasks: Sequence[Task[Any]]) -> None:
        await self.engine(queue_id).put(queue_id, tasks)

    async def claim(
        self, queue_id: str, limit: int, *, lease: float, wait: float = 0.0
    ) -> list[Delivery | UnreadableRecord]:
        return await self.engine(queue_id).claim(queue_id, limit, lease=lease, wait=wait)

    async def depth(self, queue_id: str) -> int:
        return await self.engine(queue_id).depth(queue_id)

    def found_empty(self) -> list[str]:
        return [queue_id for engine in self._engines for queue_id in engine.found_empty()]

    async def filled_again(self, queue_id: str) -> None:
        await self.engine(queue_id).filled_again(queue_id)

    @asynccontextmanager
    async def connection(self, queue_id: str, consumer_id: str) -> AsyncIterator[None]:
        async with self.engine(queue_id).connection(queue_id, consumer_id):
            yield

    # Of deliveries, which may be from several

    async def extend(self, deliveries: Sequence[Delivery], lease: float) -> list[Delivery]:
        lost = []
        for engine, group in self._by_engine(deliveries, _queue_of):
            lost += await engine.extend(group, lease)
        return lost

    async def ack(self, deliveries: Sequence[Delivery | UnreadableRecord]) -> list[Delivery]:
        lost = []
        for engine, group in self._by_engine(deliveries, _queue_of):
            lost += await engine.ack(group)
        return lost

    async def release(
        self,
        deliveries: Sequence[Delivery],
        *,
        delay: float = 0.0,
        tasks: Sequence[Task[Any]] | None = None,
    ) -> list[Delivery]:
        lost = []
        if tasks is None:
            for engine, group in self._by_engine(deliveries, _queue_of):
                lost += await engine.release(group, delay=delay)
            return lost
        pairs = list(zip(deliveries, tasks, strict=True))
        for engine, some in self._by_engine(pairs, lambda pair: _queue_of(pair[0])):
            old, new = [delivery for delivery, _ in some], [task for _, task in some]
            lost += await engine.release(old, delay=delay, tasks=new)
        return lost

    def _by_engine(
        self, items: Iterable[T], queue_of: Callable[[T], str]
    ) -> list[tuple[MessageQueue, list[T]]]:
        groups: dict[int, tuple[MessageQueue, list[T]]] = {}
        for item in items:
            engine = self.engine(queue_of(item))
            groups.setdefault(id(engine), (engine, []))[1].append(item)
        return list(groups.values())

    # Events: each engine tells of its own queues

    def set_lifecycle(self, config: QueueLifecycleConfig) -> None:
        for engine in self._engines:
            engine.set_lifecycle(config)

    @property
    def tells_published(self) -> bool:
        return any(engine.tells_published for engine in self._engines)

    async def tell_published(self, tasks: Sequence[Task[Any]]) -> None:
        for engine, group in self._by_engine(tasks, lambda task: task.queue_id):
            await engine.tell_published(group)


def _queue_of(record: Delivery | UnreadableRecord) -> str:
    return record.task.queue_id if isinstance(record, Delivery) else record.queue_id


def _common(each: Iterable[QueueFeatures]) -> QueueFeatures:
    """What all of them can do. Raises `ConfigurationError` for a queue that runs tasks itself."""
    features = list(each)
    if any(one.inline for one in features):
        raise ConfigurationError("a queue that runs tasks as they are added cannot be routed to")
    names = QueueFeatures.__struct_fields__
    return QueueFeatures(**{name: all(getattr(one, name) for one in features) for name in names})
