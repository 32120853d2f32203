"""A queue before two engines, one that is the storage and one beside it, in one Loom."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from taskloom import (
    ConfigurationError,
    ExecutorActions,
    FlowResults,
    Loom,
    Task,
    TaskHandlerConfig,
    TaskStatus,
)
from taskloom.identity import new_id
from taskloom.interfaces import MessageQueue, QueueLifecycleConfig, QueueLifecycleProvider
from taskloom.memory import ImmediateQueue, InMemoryQueue
from taskloom.sql import SqlCache, SqlDatabase, SqlFlowBarrier, SqlQueue, SqlStorage
from taskloom.testing import QueueConformance

EXAMPLE = Path(__file__).parents[2] / "examples" / "production"
PATIENCE = 20.0
QUEUES = ("stored", "carried")


@pytest.fixture
def routing(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The class of the production example."""
    monkeypatch.syspath_prepend(EXAMPLE)
    yield __import__("routing_queue").RoutingQueue
    del sys.modules["routing_queue"]


@pytest.fixture
async def loom(routing: Any, tmp_path: Path) -> AsyncIterator[Loom]:
    storage = SqlStorage(SqlDatabase.from_url(f"sqlite:///{tmp_path}/tasks.db"))
    loom = Loom(
        None,
        queue=routing({"stored": SqlQueue(storage), "carried": InMemoryQueue()}),
        storage=storage,
        cache=SqlCache(storage.database),
        flow_barrier=SqlFlowBarrier(storage),
        config=TaskHandlerConfig(mature_interval=0.05),
    )
    async with loom:
        yield loom


class TestRoutingQueue(QueueConformance):
    """It does what its engine does: every other queue is on one of the two."""

    lease = 0.12

    @pytest.fixture
    async def queue(self, routing: Any, tmp_path: Path) -> AsyncIterator[MessageQueue]:
        engines = SqlQueue.from_url(f"sqlite:///{tmp_path}/tasks.db"), InMemoryQueue()
        routes = {new_id(): engine for engine in engines * 20}
        self.left = list(routes)
        async with routing(routes) as queue:
            for engine in engines:
                engine.name = queue.name  # which events carry
            yield queue

    async def make_queue(self, queue: MessageQueue) -> str:
        return self.left.pop()


@pytest.mark.parametrize("queue_id", QUEUES)
async def test_a_task_runs_and_is_retried_on_its_own_engine(loom: Loom, queue_id: str) -> None:
    counts: list[int] = []

    @loom.task(queue=queue_id, retries=1)
    async def work(task: Task[Any]) -> str:
        counts.append(task.retry_count)
        if task.retry_count == 0:
            raise ValueError("the first time")
        return "done"

    task = await work.with_(force_store=True, retry_after=0.01).enqueue()
    await until(loom, [task], TaskStatus.EXECUTED)
    assert counts == [0, 1]


@pytest.mark.parametrize("queue_id", QUEUES)
async def test_children_go_to_either_kind(loom: Loom, queue_id: str) -> None:
    ran: list[str] = []

    @loom.task(type="child", queue="stored")
    async def stored() -> None:
        ran.append("stored")

    @loom.task(type="child", queue="carried")
    async def carried() -> None:
        ran.append("carried")

    @loom.task(queue=queue_id)
    async def parent(actions: ExecutorActions) -> None:
        children = [Task(type="child", queue_id=each, payload={}) for each in QUEUES]
        actions.add_tasks(children)

    await parent.enqueue()
    await loom.handler.drain(timeout=PATIENCE)
    assert sorted(ran) == ["carried", "stored"]


@pytest.mark.parametrize("join_on", QUEUES)
async def test_a_flow_has_steps_on_both(loom: Loom, join_on: str) -> None:
    found: list[Any] = []

    @loom.task(type="step", queue="stored")
    async def stored() -> str:
        return "stored"

    @loom.task(type="step", queue="carried")
    async def carried() -> str:
        return "carried"

    @loom.task(queue=join_on)
    async def join(results: FlowResults) -> None:
        found.extend(step.result for step in results.steps)

    await loom.start_flow([carried.step(), stored.step()], join=join.join())
    await loom.handler.drain(timeout=PATIENCE)
    assert found == ["carried", "stored"]


async def test_each_kind_is_settled_as_it_must_be(
    loom: Loom, monkeypatch: pytest.MonkeyPatch
) -> None:
    acknowledged: list[str] = []
    for queue_id in QUEUES:
        engine = loom.handler.message_queue.engine(queue_id)
        monkeypatch.setattr(engine, "ack", noting(acknowledged, queue_id, engine.ack))
    for queue_id in QUEUES:
        loom.queues.executor(queue_id, "work", store_on_failure=True)(succeed)
    tasks = [
        Task(type="work", queue_id=QUEUES[number % 2], payload=number, force_store=True)
        for number in range(40)
    ]
    kept = await loom.add_tasks(tasks)
    assert ids_of(kept) == ids_of(tasks)
    batches = await asyncio.gather(*(loom.handler.process_batch(each, 20) for each in QUEUES))
    assert [batch.succeeded for batch in batches] == [20, 20]
    assert set(acknowledged) == {"carried"}, "where the storage is the queue, one write does both"
    assert {task.status for task in await loom.get_tasks(ids_of(kept))} == {TaskStatus.EXECUTED}
    assert [await loom.handler.message_queue.depth(each) for each in QUEUES] == [0, 0]


def noting(names: list[str], name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    def noted(*args: Any, **options: Any) -> Any:
        names.append(name)
        return call(*args, **options)

    return noted


async def succeed(task: Task[Any], actions: ExecutorActions) -> None:
    actions.success(task, task.payload)


async def test_each_put_and_each_claim_is_told_once(routing: Any, tmp_path: Path) -> None:
    told = Told()
    storage = SqlStorage(SqlDatabase.from_url(f"sqlite:///{tmp_path}/tasks.db"))
    queue = routing({"stored": SqlQueue(storage), "carried": InMemoryQueue()})
    queue.set_lifecycle(QueueLifecycleConfig(provider=told, mode="sync"))
    async with Loom(None, queue=queue, storage=storage, cache=SqlCache(storage.database)) as loom:
        for queue_id in QUEUES:
            loom.queues.executor(queue_id, "work", store_on_failure=True)(succeed)
        await loom.add_tasks(Task(type="work", queue_id=each, payload=1) for each in QUEUES)
        await loom.handler.drain(timeout=PATIENCE)
    assert sorted(told.published) == [("memory", "carried"), ("sql", "stored")]
    assert sorted(told.consumed) == [("memory", "carried"), ("sql", "stored")]


class Told(QueueLifecycleProvider):
    """Which engine published and consumed, for which queue."""

    def __init__(self) -> None:
        self.published: list[tuple[str, str]] = []
        self.consumed: list[tuple[str, str]] = []

    def on_message_published(self, event: Any) -> None:
        self.published.append((event.provider, event.queue_id))

    def on_message_consumed(self, event: Any) -> None:
        self.consumed.append((event.provider, event.queue_id))


def test_what_cannot_be_routed_is_refused(routing: Any) -> None:
    with pytest.raises(ConfigurationError, match="at least one queue"):
        routing({})
    with pytest.raises(ConfigurationError, match="as they are added"):
        routing({"now": ImmediateQueue()})
    with pytest.raises(ConfigurationError, match="'nowhere' has no route; there are: a, b"):
        routing({"b": InMemoryQueue(), "a": InMemoryQueue()}).register("nowhere")


async def test_an_engine_that_cannot_be_opened_leaves_none_open(routing: Any) -> None:
    good = Opened()
    with pytest.raises(ConfigurationError, match="no"):
        await routing({"good": good, "bad": Opened(fails=True)}).open()
    assert not good.is_open


class Opened(InMemoryQueue):
    """Whether it is open; one that cannot be."""

    def __init__(self, *, fails: bool = False) -> None:
        super().__init__()
        self.fails, self.is_open = fails, False

    async def open(self) -> None:
        if self.fails:
            raise ConfigurationError("no")
        self.is_open = True

    async def close(self) -> None:
        self.is_open = False


async def until(loom: Loom, tasks: list[Task[Any]], status: TaskStatus) -> None:
    """Work until these tasks have this status."""
    while {task.status for task in await loom.get_tasks(ids_of(tasks))} != {status}:
        await loom.handler.drain(timeout=PATIENCE)


def ids_of(tasks: Iterable[Task[Any]]) -> list[str]:
    return [task.id for task in tasks]
