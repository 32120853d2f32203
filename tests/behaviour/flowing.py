"""What tests of flows and projections share: the matrix of engines, steps, joins, a flow diary."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from meddling import Notes

from harness import Diary, Engines, Parts, parallel
from taskloom import (
    Clock,
    EntityRef,
    EntityTaskProjection,
    Executor,
    FlowJoin,
    FlowLifecycleProvider,
    FlowResults,
    FlowStep,
    Task,
    TaskHandler,
    flow_results,
)
from taskloom.identity import new_id
from taskloom.interfaces import EntityProjections, FlowBarrier
from taskloom.memory import (
    ImmediateQueue,
    InMemoryCache,
    InMemoryFlowBarrier,
    InMemoryProjections,
    InMemoryQueue,
    InMemoryStorage,
)
from taskloom.mongodb import (
    MongoDBCache,
    MongoDBDatabase,
    MongoDBFlowBarrier,
    MongoDBProjections,
    MongoDBQueue,
    MongoDBStorage,
)
from taskloom.redis import RedisCache, RedisFlowBarrier, RedisQueue, RedisServer, RedisStorage
from taskloom.sql import (
    SqlCache,
    SqlDatabase,
    SqlFlowBarrier,
    SqlProjections,
    SqlQueue,
    SqlStorage,
)

__all__ = [
    "ALBUM",
    "JOIN",
    "KINDS",
    "WORKERS",
    "FlowDiary",
    "FlowEngines",
    "Joins",
    "Told",
    "open_flow_engines",
    "steps_of",
    "work_or_fail",
]

WORKERS = ("memory", "sqlite", "postgresql", "redis", "mongodb", "beside", "separate")
"""All in memory · all in one SQLite file · in one PostgreSQL · in Redis, with projections in memory
· in one MongoDB · in one SQLite file, with barrier and projections beside it · a queue in memory
beside SQLite."""

KINDS = (*WORKERS, "inline")
"""Those, and one where whoever adds a task runs it."""

JOIN = FlowJoin("join", "q")
ALBUM = EntityRef("a_1", "album")


def steps_of(*payloads: Any, type: str = "step", entity: EntityRef | None = None) -> list[FlowStep]:
    """Steps on queue "q"."""
    return [FlowStep(type, "q", payload, entity) for payload in payloads]


async def work_or_fail(task: Task[Any], actions: Any) -> None:
    """Succeeds with its payload; fails when that is "bad"."""
    if task.payload == "bad":
        actions.fail(task, "spoiled")
    else:
        actions.success(task, task.payload)


class Joins(Notes[FlowResults]):
    """The executor of joins: notes what each was given; its result is how many steps counted."""

    def __init__(self) -> None:
        super().__init__()
        self.tasks: list[Task[Any]] = []

    async def __call__(self, task: Task[Any], actions: Any) -> None:
        self.tasks.append(task)
        results = flow_results(task)
        actions.success(task, len(results.steps))
        self.note(results)

    @property
    def outcomes(self) -> list[list[Any]]:
        """Of each join, what its steps came to: their result, or their error."""
        return [
            [step.result if step.error is None else step.error for step in j.steps] for j in self
        ]


class Told(EntityProjections):
    """Projections without any rule: keeps every call, and the last status of each task."""

    def __init__(self) -> None:
        self.calls: Notes[list[EntityTaskProjection]] = Notes()
        self.last: dict[str, EntityTaskProjection] = {}

    async def upsert_projections(self, entries: Sequence[EntityTaskProjection]) -> None:
        self.last.update({entry.task_id: entry for entry in entries})
        self.calls.note(list(entries))

    def of(self, task_id: str) -> list[str]:
        """What was told of a task, in order: its statuses."""
        return [row.status for call in self.calls for row in call if row.task_id == task_id]

    async def get(self, task_ids: Sequence[str]) -> list[EntityTaskProjection]:
        return [self.last[id] for id in task_ids if id in self.last]


class FlowDiary(Diary, FlowLifecycleProvider):
    """A diary that is told of flows, too."""


def _noting(name: str) -> Any:
    def callback(self: FlowDiary, event: Any) -> None:
        self.entries.note((name, event))

    return callback


for _name in dir(FlowLifecycleProvider):
    if _name.startswith("on_"):
        setattr(FlowDiary, _name, _noting(_name))


class FlowEngines(Engines):
    """Engines with a barrier and projections, which each handler made here is given."""

    def __init__(
        self,
        kind: str,
        clock: Clock,
        parts: Parts,
        file: Path,
        barrier: FlowBarrier,
        projections: Any,
    ) -> None:
        super().__init__(kind, clock, parts, file)
        self.barrier = barrier
        self.projections = projections

    def handler(
        self,
        executors: Mapping[str | tuple[str, str], Executor] | None = None,
        *,
        parts: Parts | None = None,
        diary: Diary | None = None,
        **config: Any,
    ) -> TaskHandler:
        config = {"flow_barrier": self.barrier, "entity_projections": self.projections} | config
        if isinstance(diary, FlowDiary):
            config.setdefault("flow_lifecycle_provider", diary)
        return super().handler(executors, parts=parts, diary=diary, **config)

    def flow_handler(self, joins: Any, step: Any = work_or_fail, **config: Any) -> TaskHandler:
        """A handler for steps of type "step", side by side, and their join."""
        return self.handler({"step": parallel(step), "join": parallel(joins)}, **config)

    async def row(self, task_id: str) -> EntityTaskProjection | None:
        """The row of a task, or of a flow under its id."""
        rows = await self.projections.get([task_id])
        return rows[0] if rows else None

    async def row_status(self, task_id: str) -> tuple[str, str | None] | None:
        """Its status and error."""
        row = await self.row(task_id)
        return None if row is None else (row.status, row.error)

    async def by_type(self, type: str) -> list[Task[Any]]:
        """The stored tasks of a type, by the index of their step."""
        found: list[Task[Any]] = await self.storage.search(type=type, limit=1000)
        flows = [(task.metadata.flow, task) for task in found]
        return [task for _, task in sorted(flows, key=lambda each: each[0].step_index)]


@asynccontextmanager
async def open_flow_engines(
    kind: str, clock: Clock, folder: Path, url: str = ""
) -> AsyncIterator[FlowEngines]:
    """Engines of one of `KINDS`, open; at the end their handlers are closed, then they.

    PostgreSQL, Redis and MongoDB are those of `url`; Redis gets a prefix of its own.
    """
    file = folder / "tasks.db"
    storage: Any
    barrier: Any = InMemoryFlowBarrier(clock)
    projections: Any = InMemoryProjections()
    if kind in ("memory", "inline"):
        queue = InMemoryQueue(clock) if kind == "memory" else ImmediateQueue(clock)
        storage = InMemoryStorage(clock)
        parts = Parts(queue, storage, InMemoryCache(clock))
    elif kind == "redis":
        server = RedisServer.from_url(url, prefix=f"test-{new_id()}", clock=clock)
        parts = Parts(RedisQueue(server), RedisStorage(server), RedisCache(server))
        barrier = RedisFlowBarrier(server)
    elif kind == "mongodb":
        documents = MongoDBDatabase.from_url(url, clock=clock)
        storage = MongoDBStorage(documents)
        parts = Parts(MongoDBQueue(storage), storage, MongoDBCache(documents))
        barrier, projections = MongoDBFlowBarrier(storage), MongoDBProjections(storage)
    else:
        database = SqlDatabase.from_url(url or f"sqlite:///{file}", clock=clock)
        storage = SqlStorage(database)
        parts = Parts(SqlQueue(storage), storage, SqlCache(database))
        if kind == "separate":
            parts.queue = InMemoryQueue(clock)
        if kind != "beside":
            barrier, projections = SqlFlowBarrier(storage), SqlProjections(storage)
    async with parts.storage, parts.queue, parts.cache, barrier, projections:
        engines = FlowEngines(kind, clock, parts, file, barrier, projections)
        try:
            yield engines
        finally:
            await engines.close()
