"""What behaviour tests share: engines, workers, executors that note their runs, parts that fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from meddling import PATIENCE, Meddled, Notes, Parts

from taskloom import (
    Clock,
    Executor,
    LifecycleConfig,
    MultiTaskExecutor,
    ParallelTaskExecutor,
    SingleTaskExecutor,
    Task,
    TaskHandler,
    TaskHandlerConfig,
    TaskLifecycleProvider,
    TaskNotificationProvider,
    TaskQueuesManager,
    TaskStatus,
    WorkerLifecycleProvider,
)
from taskloom.identity import new_id
from taskloom.memory import InMemoryCache, InMemoryQueue, InMemoryStorage
from taskloom.mongodb import MongoDBCache, MongoDBDatabase, MongoDBQueue, MongoDBStorage
from taskloom.redis import RedisCache, RedisQueue, RedisServer, RedisStorage
from taskloom.sql import SqlCache, SqlDatabase, SqlQueue, SqlStorage
from taskloom.testing import ManualClock

__all__ = [
    "PATIENCE",
    "QUEUE",
    "TYPE",
    "Diary",
    "Engines",
    "Meddled",
    "Notes",
    "Parts",
    "Runs",
    "make_task",
    "multi",
    "open_engines",
    "parallel",
    "serving",
    "single",
    "until",
]

QUEUE = "q"
TYPE = "work"


def make_task(payload: Any = None, **fields: Any) -> Task[Any]:
    """A task of type "work" on queue "q", due now."""
    return Task(**({"type": TYPE, "queue_id": QUEUE, "payload": payload} | fields))


async def until(event: asyncio.Event) -> None:
    """Wait for a signal that must come."""
    async with asyncio.timeout(PATIENCE):
        await event.wait()


class Runs(Notes[Task[Any]]):
    """An executor function: notes its tasks, waits for `gate` if there is one, succeeds.

    The payload is the result. `finished` notes those that got to their end.
    """

    def __init__(self, gate: asyncio.Event | None = None) -> None:
        super().__init__()
        self.gate = gate
        self.finished: Notes[Task[Any]] = Notes()

    async def __call__(self, task: Task[Any], actions: Any) -> None:
        self.note(task)
        if self.gate is not None:
            await self.gate.wait()
        actions.success(task, task.payload)
        self.finished.note(task)

    @property
    def payloads(self) -> list[Any]:
        return [task.payload for task in self]


def single(on_task: Any, **options: Any) -> SingleTaskExecutor:
    """A single executor that stores what fails."""
    return SingleTaskExecutor(on_task, **({"store_on_failure": True} | options))


def parallel(on_task: Any, chunk_size: int = 100, **options: Any) -> ParallelTaskExecutor:
    """A parallel executor that stores what fails."""
    options = {"store_on_failure": True} | options
    return ParallelTaskExecutor(on_task, chunk_size=chunk_size, **options)


def multi(on_tasks: Any, **options: Any) -> MultiTaskExecutor:
    """A multi executor that stores what fails."""
    return MultiTaskExecutor(on_tasks, **({"store_on_failure": True} | options))


class Diary(TaskLifecycleProvider, WorkerLifecycleProvider, TaskNotificationProvider):
    """All providers in one: notes (name, event) of everything told."""

    def __init__(self) -> None:
        self.entries: Notes[tuple[str, Any]] = Notes()

    async def told(self, name: str, count: int = 1) -> list[Any]:
        """Wait for so many events of a name; returns them."""
        found = await self.entries.reach(count, lambda entry: entry[0] == name)
        return [event for _, event in found]

    def of(self, name: str) -> list[Any]:
        """The events of a name so far."""
        return [event for told, event in self.entries if told == name]


def _noting(name: str) -> Callable[[Diary, Any], None]:
    def callback(self: Diary, event: Any) -> None:
        self.entries.note((name, event))

    return callback


for _provider in (TaskLifecycleProvider, WorkerLifecycleProvider, TaskNotificationProvider):
    for _name in dir(_provider):
        if _name.startswith("on_"):
            setattr(Diary, _name, _noting(_name))


class Engines:
    """A queue, a storage and a cache, open, and handlers made on them."""

    def __init__(self, kind: str, clock: Clock, parts: Parts, file: Path, url: str = "") -> None:
        self.kind = kind
        self.clock = clock
        self.file = file
        self.url = url
        self.parts = parts
        self.queue = parts.queue
        self.storage: Any = parts.storage
        self.cache = parts.cache
        self._handlers: list[TaskHandler] = []

    @property
    def integrated(self) -> bool:
        """Whether the storage is the queue."""
        return self.queue.storage is self.storage

    def handler(
        self,
        executors: Mapping[str | tuple[str, str], Executor] | None = None,
        *,
        parts: Parts | None = None,
        diary: Diary | None = None,
        **config: Any,
    ) -> TaskHandler:
        """A handler with executors by type (on queue "q") or by (queue, type).

        `diary` is told everything, in place; `config` are fields of `TaskHandlerConfig`.
        """
        parts = parts or self.parts
        queues = TaskQueuesManager(parts.queue)
        for key, executor in (executors or {}).items():
            queue_id, type_ = (QUEUE, key) if isinstance(key, str) else key
            queues.register(queue_id, type_, executor)
        if diary is not None:
            config |= {"lifecycle_provider": diary, "worker_provider": diary}
            config.setdefault("lifecycle", LifecycleConfig(mode="sync"))
        handler = TaskHandler(
            parts.queue,
            queues,
            parts.storage,
            parts.cache,
            notification_provider=diary,
            config=TaskHandlerConfig(**({"clock": self.clock} | config)),
        )
        self._handlers.append(handler)
        return handler

    def sized(self, count: int) -> int:
        """So many, or a fiftieth on MongoDB, whose server here does some hundred a second."""
        return count // 50 if self.kind == "mongodb" else count

    def meddled(self, **features: Any) -> Meddled:
        """The same parts, wrapped so that calls are noted and can be made to fail."""
        return Meddled(self.parts, **features)

    async def pass_time(self, seconds: float | timedelta) -> None:
        """Move the clock of engines whose time stands still."""
        assert isinstance(self.clock, ManualClock)
        await self.clock.advance(seconds)

    async def pass_renewed(self, parts: Meddled, seconds: float) -> None:
        """As `pass_time`, and what the worker of `parts` holds of stored tasks is renewed then."""
        calls = ["queue.extend"] if self.integrated else ["queue.extend", "storage.extend_leases"]
        wanted = [(call, parts.done.count(call) + 1) for call in calls]
        await self.pass_time(seconds)
        for call, times in wanted:
            await parts.done.reach(times, call.__eq__)

    async def stored(self, task: Task[Any]) -> Task[Any] | None:
        """The task as the storage has it."""
        found = await self.storage.get([task.id])
        return found[0] if found else None

    async def status(self, task: Task[Any]) -> TaskStatus | None:
        """Its status in the storage; None when it is not there."""
        found = await self.stored(task)
        return None if found is None else found.status

    async def is_empty(self, queue_id: str = QUEUE) -> bool:
        """Nothing waits in the queue, and the storage knows nothing."""
        return await self.queue.depth(queue_id) == 0 and not await self.storage.counts()

    async def close(self) -> None:
        for handler in self._handlers:
            await handler.close()


@asynccontextmanager
async def open_engines(
    kind: str, clock: Clock, folder: Path, url: str = ""
) -> AsyncIterator[Engines]:
    """Engines of a kind, open; at the end their handlers are closed, then they.

    A database is the one of `url`, or a SQLite file in `folder`; Redis gets a prefix of its own.
    """
    file = folder / "tasks.db"
    if kind == "memory":
        parts = Parts(InMemoryQueue(clock), InMemoryStorage(clock), InMemoryCache(clock))
    elif kind == "redis":
        server = RedisServer.from_url(url, prefix=f"test-{new_id()}", clock=clock)
        parts = Parts(RedisQueue(server), RedisStorage(server), RedisCache(server))
    elif kind == "mongodb":
        documents = MongoDBDatabase.from_url(url, clock=clock)
        kept = MongoDBStorage(documents)
        parts = Parts(MongoDBQueue(kept), kept, MongoDBCache(documents))
    else:
        url = url or f"sqlite:///{file}"
        database = SqlDatabase.from_url(url, clock=clock)
        storage = SqlStorage(database)
        parts = Parts(SqlQueue(storage), storage, SqlCache(database))
    async with parts.storage, parts.queue, parts.cache:
        engines = Engines(kind, clock, parts, file, url)
        try:
            yield engines
        finally:
            await engines.close()


@asynccontextmanager
async def serving(
    handler: TaskHandler, queues: list[str] | None = None
) -> AsyncIterator[asyncio.Event]:
    """A worker at work; yields its `stop`, set at the end."""
    stop = asyncio.Event()
    work = asyncio.create_task(handler.serve(queues, stop))
    try:
        yield stop
    finally:
        stop.set()
        async with asyncio.timeout(PATIENCE):
            await work
