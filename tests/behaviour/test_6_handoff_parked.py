"""SPEC 6.1: long tasks on queues that cannot give up one delivery; their row becomes the task."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from handing_off import SOON, Held, at_work, make_handler

from harness import Diary, Engines, Meddled, Notes, Parts, Runs, make_task, single
from taskloom import SystemClock, Task, TaskHandler, TaskStatus
from taskloom.handoff import AsyncTaskManager
from taskloom.memory import InMemoryQueue

SHARED = ("memory", "sqlite", "postgresql", "redis", "mongodb")


class Streaming:
    """A queue that moves on as a whole, beside one of the storages."""

    def __init__(self, engines: Engines) -> None:
        self.engines = engines
        self.inner = Parts(InMemoryQueue(SystemClock()), engines.storage, engines.cache)
        self.parts = self.meddled()

    def meddled(self) -> Meddled:
        return Meddled(self.inner, single_ack=False, delay=False)

    def handler(self, executor: Any, parts: Parts | None = None, **options: Any) -> TaskHandler:
        manager, options = AsyncTaskManager(), {"mature_interval": 0.05} | options
        return make_handler(self.engines, executor, manager, parts=parts or self.parts, **options)

    async def parked(self, task: Task[Any], parts: Meddled | None = None) -> None:
        """Wait until the queue was told that it is done with a task that was handed off."""
        async with asyncio.timeout(10):
            await (parts or self.parts).done.reach(1, lambda name: name == "queue.ack")
        assert await self.engines.status(task) is TaskStatus.PROCESSING


beside = pytest.mark.parametrize("engines", SHARED, indirect=True)


@beside
async def test_6_1_it_is_stored_under_a_lease_and_its_record_given_up(engines: Engines) -> None:
    streaming, held, diary = Streaming(engines), Held(), Diary()
    handler = streaming.handler(single(held, async_config=SOON), diary=diary, lease=0.6)
    (task,) = await handler.add_tasks([make_task("a")])
    async with at_work(handler):
        await held.starts.reach(1)
        await streaming.parked(task)
        calls = streaming.parts.names("storage.settle", "storage.take_over", "queue.ack")
        assert calls == ["storage.settle", "storage.take_over", "queue.ack"], "the ack is last"
        await streaming.parts.called("storage.extend_leases", 5)  # five thirds of the lease
        held.end("a")
        await diary.told("on_task_completed")
    stored = await engines.stored(task)
    assert stored is not None
    assert (stored.status, stored.execution_result) == (TaskStatus.EXECUTED, "a")
    assert stored.execution_stats == {}
    assert held.starts == ["a"]
    assert await streaming.inner.queue.depth("q") == 0


@beside
async def test_6_5_a_failure_is_retried_from_its_row(engines: Engines) -> None:
    streaming, gate, tries = Streaming(engines), asyncio.Event(), Notes[int]()

    async def body(task: Task[Any], actions: Any) -> None:
        tries.note(task.retry_count)
        if task.retry_count == 0:
            await gate.wait()
            raise ValueError("not yet")
        actions.success(task, "done")

    executor = single(body, async_config=SOON, retry_policy=lambda task, error: 0.0)
    (task,) = await (handler := streaming.handler(executor)).add_tasks([make_task()])
    async with at_work(handler):
        await tries.reach(1)
        await streaming.parked(task)
        gate.set()
        await tries.reach(2)
    stored = await engines.stored(task)
    assert stored is not None
    assert (stored.status, stored.execution_result) == (TaskStatus.EXECUTED, "done")
    assert tries == [0, 1]


@beside
async def test_6_4_one_that_is_released_waits_in_its_row(engines: Engines) -> None:
    streaming, held, runs = Streaming(engines), Held(), Runs()
    executor = single(held, async_config=SOON)
    first = streaming.handler(executor, shutdown_grace_period=0.01)
    (task,) = await first.add_tasks([make_task("a")])
    async with at_work(first):
        await held.starts.reach(1)
        await streaming.parked(task)
    assert held.cancelled == ["a"]
    assert await engines.status(task) is TaskStatus.SCHEDULED
    second = streaming.handler(single(runs))
    async with at_work(second):
        await runs.finished.reach(1)
    assert await engines.status(task) is TaskStatus.EXECUTED


@beside
async def test_6_1_one_whose_worker_is_gone_runs_again_and_the_late_word_is_refused(
    engines: Engines,
) -> None:
    streaming, held, runs = Streaming(engines), Held(), Runs()
    streaming.parts.break_down("storage.extend_leases")
    first = streaming.handler(single(held, async_config=SOON), lease=0.5, mature_interval=3600)
    (task,) = await first.add_tasks([make_task("a")])
    async with at_work(first):
        await held.starts.reach(1)
        await streaming.parked(task)
        streaming.parts.break_down("queue.claim")
        other = streaming.meddled()
        second = streaming.handler(single(runs), other)
        async with at_work(second):
            (again,) = await runs.finished.reach(1)
        held.end("a")
        await held.ended.reach(1)
    assert again.execution_stats == {"handed_off": 1}
    stored = await engines.stored(task)
    assert stored is not None
    assert (stored.status, stored.execution_result) == (TaskStatus.EXECUTED, "a")
    assert stored.execution_stats == {}


@beside
async def test_f4_one_that_kills_its_worker_each_time_is_set_aside(engines: Engines) -> None:
    streaming, runs, diary = Streaming(engines), Runs(), Diary()
    handler = streaming.handler(single(runs), diary=diary, max_deliveries=3)
    (task,) = await handler.add_tasks([make_task(execution_stats={"handed_off": 3})])
    async with at_work(handler):
        await diary.told("on_task_failed")
    stored = await engines.stored(task)
    assert stored is not None
    assert (stored.status, stored.execution_stats["poison"]) == (TaskStatus.FAILED, 4)
    assert runs == []


@beside
@pytest.mark.parametrize("call", ["storage.settle", "storage.take_over", "queue.ack"])
async def test_6_1_what_is_not_answered_is_said_again(engines: Engines, call: str) -> None:
    streaming, held, diary = Streaming(engines), Held(), Diary()
    streaming.parts.fail_after(call)
    handler = streaming.handler(single(held, async_config=SOON), diary=diary)
    (task,) = await handler.add_tasks([make_task("a")])
    async with at_work(handler):
        await held.starts.reach(1)
        await streaming.parked(task)
        held.end("a")
        await diary.told("on_task_completed")
    assert await engines.status(task) is TaskStatus.EXECUTED
    assert held.starts == ["a"]
    assert await streaming.inner.queue.depth("q") == 0


@beside
async def test_6_1_an_end_waits_until_it_is_stored(engines: Engines) -> None:
    streaming, held, diary = Streaming(engines), Held(), Diary()
    gate = streaming.parts.hold("storage.take_over")
    handler = streaming.handler(single(held, async_config=SOON), diary=diary)
    (task,) = await handler.add_tasks([make_task("a")])
    async with at_work(handler):
        await held.starts.reach(1)
        await gate.reached.wait()
        held.end("a")
        await held.ended.reach(1)
        assert diary.of("on_task_completed") == []
        gate.open.set()
        await diary.told("on_task_completed")
    assert await engines.status(task) is TaskStatus.EXECUTED
    assert held.starts == ["a"]


@beside
async def test_6_1_a_record_that_comes_again_finds_the_row(engines: Engines) -> None:
    """The queue was not told in time, so it delivers the record to somebody else."""
    streaming, held, runs, diary = Streaming(engines), Held(), Runs(), Diary()
    parts, other = streaming.parts, streaming.meddled()
    gate = parts.hold("queue.ack")
    handler = streaming.handler(single(held, async_config=SOON), diary=diary, lease=0.5)
    (task,) = await handler.add_tasks([make_task("a")])
    async with at_work(handler):
        await held.starts.reach(1)
        await gate.reached.wait()
        parts.break_down("queue.claim")
        async with at_work(streaming.handler(single(runs), other)):
            await other.done.reach(1, lambda name: name == "queue.ack")
            assert await engines.status(task) is TaskStatus.PROCESSING
        gate.open.set()
        held.end("a")
        await diary.told("on_task_completed")
    assert (held.starts, runs) == (["a"], [])


@beside
async def test_6_5_what_it_adds_runs(engines: Engines) -> None:
    streaming, gate, seen = Streaming(engines), asyncio.Event(), Notes[str]()

    async def body(task: Task[Any], actions: Any) -> None:
        seen.note(task.payload)
        if task.payload == "parent":
            await gate.wait()
            actions.add_tasks([make_task("child")])
        actions.success(task)

    handler = streaming.handler(single(body, async_config=SOON))
    (task,) = await handler.add_tasks([make_task("parent")])
    async with at_work(handler):
        await seen.reach(1)
        await streaming.parked(task)
        gate.set()
        await seen.reach(2)
    assert seen == ["parent", "child"]
    assert await engines.status(task) is TaskStatus.EXECUTED
