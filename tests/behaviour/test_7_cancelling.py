"""SPEC 7.4, 7.5: cancelling, draining."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from harness import (
    QUEUE,
    TYPE,
    Diary,
    Engines,
    Runs,
    make_task,
    serving,
    single,
)
from taskloom import (
    Task,
    TaskStatus,
)


async def _later(engines: Engines, count: int = 1, hours: float = 1) -> list[Task[Any]]:
    """Tasks that wait in the storage."""
    due = engines.clock.now() + timedelta(hours=hours)
    tasks = [make_task(n, execute_at=due) for n in range(count)]
    return await engines.handler().add_tasks(tasks)


# 7.4 cancelling


@pytest.mark.parametrize("fields", [{"force_store": True}, {}])
async def test_7_4_scheduled_tasks_can_be_cancelled(still: Engines, fields: dict[str, Any]) -> None:
    runs, diary = Runs(), Diary()
    handler = still.handler({TYPE: single(runs)}, diary=diary)
    (task,) = await _later(still)
    assert await handler.cancel_tasks([task.id, "unknown"], reason="changed my mind") == [task.id]
    found = await still.stored(task)
    assert found is not None
    assert found.status is TaskStatus.CANCELLED
    assert "changed my mind" in str(found.execution_stats)
    await still.pass_time(7200)
    await handler.drain(10)
    assert runs == []
    assert [event.reason for event in diary.of("on_task_cancelled")] == ["changed my mind"]


async def test_7_4_a_delivery_whose_stored_task_was_cancelled_is_dropped(still: Engines) -> None:
    runs = Runs()
    handler = still.handler({TYPE: single(runs)})
    task, _ = await handler.add_tasks([make_task(n, force_store=True) for n in range(2)])
    assert await handler.cancel_tasks([task.id], reason="no") == [task.id]
    await handler.drain(10)
    assert runs.payloads == [1]
    assert await still.status(task) is TaskStatus.CANCELLED


async def test_7_4_a_task_on_a_separate_queue_only_cannot_be_cancelled(memory: Engines) -> None:
    runs = Runs()
    handler = memory.handler({TYPE: single(runs)})
    (task,) = await handler.add_tasks([make_task()])
    assert await handler.cancel_tasks([task.id], reason="no") == []
    await handler.drain(10)
    assert len(runs) == 1


async def test_7_4_a_task_that_runs_cannot_be_cancelled(engines: Engines) -> None:
    runs = Runs(gate=asyncio.Event())
    assert runs.gate is not None
    handler = engines.handler({TYPE: single(runs)})
    (task,) = await handler.add_tasks([make_task(force_store=True)])
    async with serving(handler):
        await runs.reach(1)
        cancelled = await handler.cancel_tasks([task.id], reason="no")
        runs.gate.set()
    assert cancelled == []
    assert await engines.status(task) is TaskStatus.EXECUTED


async def test_7_4_cancelling_nothing_is_fine(still: Engines) -> None:
    assert await still.handler().cancel_tasks([], reason="none") == []


# 7.5 draining


def _chain(length: int) -> Any:
    async def work(task: Task[Any], actions: Any) -> None:
        if task.payload < length:
            actions.add_tasks([make_task(task.payload + 1)])
        ran.append(task.payload)
        actions.success(task)

    ran: list[int] = []
    work.ran = ran  # type: ignore[attr-defined]
    return work


async def test_7_5_drain_processes_until_nothing_is_due_or_running(engines: Engines) -> None:
    work = _chain(20)
    handler = engines.handler({TYPE: single(work)})
    await handler.add_tasks([make_task(0)])
    await handler.drain(10)
    assert work.ran == list(range(21))
    assert await engines.queue.depth(QUEUE) == 0


async def test_7_5_mature_tasks_are_included_and_later_ones_stay(still: Engines) -> None:
    runs = Runs()
    handler = still.handler({TYPE: single(runs)})
    (due,) = await _later(still, hours=1)
    (later,) = await _later(still, hours=2)
    await still.pass_time(3601)
    await handler.drain(10)
    assert [task.id for task in runs] == [due.id]
    assert await still.status(later) is TaskStatus.SCHEDULED


async def test_7_5_retries_without_a_delay_are_included(still: Engines) -> None:
    attempts: list[int] = []

    async def fail(task: Task[Any], actions: Any) -> None:
        attempts.append(task.retry_count)
        actions.fail(task, "no")

    handler = still.handler({TYPE: single(fail)})
    await handler.add_tasks([make_task(retries=3, retry_after=0)])
    await handler.drain(10)
    assert attempts == [0, 1, 2, 3]


async def test_7_5_several_queues_are_drained(engines: Engines) -> None:
    runs = Runs()
    handler = engines.handler({("a", TYPE): single(runs), ("b", TYPE): single(runs)})
    await handler.add_tasks([make_task(n, queue_id="ab"[n % 2]) for n in range(20)])
    await handler.drain(10)
    assert sorted(runs.payloads) == list(range(20))


async def test_7_5_past_its_time_out_it_raises_and_releases(engines: Engines) -> None:
    stuck, runs = Runs(gate=asyncio.Event()), Runs()
    handler = engines.handler({TYPE: single(stuck)})
    await handler.add_tasks([make_task("once more")])
    with pytest.raises(TimeoutError):
        await handler.drain(0.2)
    await engines.handler({TYPE: single(runs)}).drain(10)
    assert runs.payloads == ["once more"]


async def test_7_5_draining_nothing_returns(engines: Engines) -> None:
    await engines.handler({TYPE: single(Runs())}).drain(10)
