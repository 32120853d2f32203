"""SPEC 6.1 to 6.4: long tasks leave their slots, are refused, take too long, and are shut down."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any

import pytest
from handing_off import SOON, Held, Noted, at_work, make_handler

from harness import QUEUE, Diary, Engines, Notes, Runs, make_task, parallel, single
from taskloom import Task, TaskStatus, TaskTimeoutError
from taskloom.executors import AsyncConfig
from taskloom.handoff import AsyncTaskManager

# 6.1 the lane goes on


@pytest.mark.parametrize("kind", ["single", "parallel"])
async def test_6_1_its_lane_goes_on_with_the_next_task(engines: Engines, kind: str) -> None:
    held, manager, diary = Held(), AsyncTaskManager(), Diary()
    make = single if kind == "single" else lambda *a, **k: parallel(*a, chunk_size=1, **k)
    handler = make_handler(engines, make(held, async_config=SOON), manager, diary=diary)
    first, second, third = [make_task(name, force_store=True) for name in "abc"]
    async with at_work(handler):
        await handler.add_tasks([first, second, third])
        await held.starts.reach(3)
        assert held.starts == ["a", "b", "c"]
        assert manager.is_handed_off(first.id)
        assert manager.is_handed_off(second.id)
        held.end("b")
        [done] = await diary.told("on_task_completed")
        assert done.task_id == second.id
        assert await engines.status(first) is TaskStatus.PROCESSING
        held.end("a", "c")
        await diary.told("on_task_completed", 3)
    assert held.starts == ["a", "b", "c"], "none of them ran twice"
    assert await engines.status(first) is TaskStatus.EXECUTED
    assert manager.get_metrics().active_task_count == 0


async def test_6_1_a_parallel_lane_keeps_all_its_slots_busy(engines: Engines) -> None:
    held, manager = Held(), AsyncTaskManager()
    executor = parallel(held, chunk_size=2, async_config=SOON)
    handler = make_handler(engines, executor, manager)
    async with at_work(handler):
        await handler.add_tasks([make_task(str(n)) for n in range(7)])
        await held.starts.reach(7)
        held.end(*map(str, range(7)))
    assert sorted(held.starts) == [str(n) for n in range(7)]


async def test_6_1_a_task_that_ends_in_time_is_not_handed_off(engines: Engines) -> None:
    runs, manager = Runs(), AsyncTaskManager()
    executor = single(runs, async_config=AsyncConfig(handoff_timeout=5))
    handler = make_handler(engines, executor, manager)
    async with handler:
        await handler.add_tasks([make_task(n) for n in range(20)])
        await handler.drain(10)
    assert len(runs.finished) == 20
    assert manager.get_metrics().total_handed_off == 0


async def test_6_1_its_lease_is_kept_alive(still: Engines) -> None:
    held, other, manager, parts = Held(), Runs(), AsyncTaskManager(), still.meddled()
    executor = single(held, async_config=SOON)
    handler = make_handler(still, executor, manager, parts=parts, lease=60)
    helper = make_handler(still, single(other), None)
    (task, _) = await handler.add_tasks([make_task("a", force_store=True), make_task("b")])
    async with handler, helper:
        held.end("b")
        assert (await handler.process_batch(QUEUE)).handed_off == 1
        for _ in range(5):  # thirds of its lease
            await still.pass_renewed(parts, 20)
            assert (await helper.process_batch(QUEUE)).claimed == 0
        assert await still.status(task) is TaskStatus.PROCESSING
        held.end("a")
        await held.ended.reach(2)
    assert (held.starts, other) == (["a", "b"], [])
    assert await still.status(task) is TaskStatus.EXECUTED


async def test_6_1_one_whose_lease_is_lost_is_cancelled_and_reports_nothing(
    engines: Engines,
) -> None:
    held, manager, diary = Held(), AsyncTaskManager(), Diary()
    parts = engines.meddled()
    parts.break_down("queue.extend")
    executor = single(held, async_config=SOON)
    first = make_handler(engines, executor, manager, parts=parts, lease=0.5)
    (task, _) = await first.add_tasks([make_task("a", force_store=True), make_task("b")])
    async with at_work(first):
        await held.starts.reach(2)
        held.end("b")
        second = make_handler(engines, single(Runs()), None, diary=diary, lease=5)
        async with at_work(second):
            await diary.entries.reach(
                1, lambda told: told[0] == "on_task_completed" and told[1].task_id == task.id
            )
        parts.repair("queue.extend")
        await held.cancelled.reach(1)
    stored = await engines.stored(task)
    assert stored is not None
    assert (stored.status, stored.execution_result) == (TaskStatus.EXECUTED, "a")
    assert manager.get_metrics().active_task_count == 0


# 6.2 refusals


async def test_6_2_a_refused_task_runs_on_and_is_taken_when_there_is_room(
    engines: Engines,
) -> None:
    held, manager = Held(), Noted(max_tasks=1)
    handler = make_handler(engines, single(held, async_config=SOON), manager)
    tasks = [make_task(name) for name in "abc"]
    async with at_work(handler):
        await handler.add_tasks(tasks)
        await held.starts.reach(2)
        await manager.asked.reach(1, lambda answer: not answer)
        assert [manager.is_handed_off(task.id) for task in tasks] == [True, False, False]
        held.end("a")
        await held.starts.reach(3)
        assert [manager.is_handed_off(task.id) for task in tasks] == [False, True, False]
        held.end("b", "c")
    assert held.starts == ["a", "b", "c"], "none of them ran twice"
    metrics = manager.get_metrics()
    assert metrics.total_handed_off == 2
    assert 1 <= metrics.total_rejected <= 2, "counted once per run, however often it is offered"


async def test_6_2_a_refused_task_is_never_started_again(engines: Engines) -> None:
    held, manager = Held(), Noted(max_tasks=0)
    handler = make_handler(engines, single(held, async_config=SOON), manager)
    async with at_work(handler):
        await handler.add_tasks([make_task("a"), make_task("b")])
        await manager.asked.reach(3)
        assert held.starts == ["a"], "its slot is its own until it ends"
        held.end("a", "b")
        await held.ended.reach(2)
    assert held.starts == ["a", "b"]
    assert manager.get_metrics().total_rejected <= 2


async def test_6_2_without_a_manager_it_runs_on_with_one_warning_per_type(
    engines: Engines, caplog: pytest.LogCaptureFixture
) -> None:
    runs: Notes[Any] = Notes()

    async def slow(task: Task[Any], actions: Any) -> None:
        await asyncio.sleep(0.03)
        actions.success(task)
        runs.note(task.payload)

    executor = single(slow, async_config=AsyncConfig(handoff_timeout=0.005))
    handler = make_handler(engines, executor, None)
    handler.task_queues.register(QUEUE, "other", executor)
    async with handler:
        tasks = [make_task(1), make_task(2), make_task(3), make_task(4, type="other")]
        await handler.add_tasks(tasks)
        await handler.drain(10)
    assert sorted(runs) == [1, 2, 3, 4]
    said = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(said) == 2
    assert all("there is no AsyncTaskManager" in text for text in said)


async def test_6_5_max_concurrent_async_bounds_a_type(engines: Engines) -> None:
    held, manager = Held(), Noted()
    config = AsyncConfig(handoff_timeout=0.02, max_concurrent_async=1)
    handler = make_handler(engines, single(held, async_config=config), manager)
    handler.task_queues.register(QUEUE, "other", single(held, async_config=SOON))
    tasks = [make_task(name) for name in "abc"]
    later = make_task("x", type="other")
    async with at_work(handler):
        await handler.add_tasks(tasks)
        await held.starts.reach(2)
        await handler.add_tasks([later])
        await manager.taken.reach(2)
        assert manager.taken == [tasks[0].id, later.id], "b was long enough before x"
        held.end("a")
        await held.starts.reach(4)
        assert manager.taken == [tasks[0].id, later.id, tasks[1].id]
        held.end("b", "c", "x")
    assert held.starts == ["a", "b", "x", "c"]
    assert manager.get_metrics().total_rejected == 0, "it was not even asked"


# 6.3 eviction


class Endless(Notes[int]):
    """Waits for ever at its first attempt, succeeds at the next; notes the attempts."""

    async def __call__(self, task: Task[Any], actions: Any) -> None:
        self.note(task.retry_count)
        if task.retry_count == 0:
            await asyncio.Event().wait()
        actions.success(task, "at last")


async def test_6_3_one_that_takes_too_long_is_cancelled_told_and_retried(
    engines: Engines,
) -> None:
    told: list[tuple[str, str, float]] = []
    manager = AsyncTaskManager(
        sweep_interval=0.02,
        on_task_timeout=lambda id, task, duration: told.append((id, task.payload, duration)),
    )
    runs, diary = Endless(), Diary()
    config = AsyncConfig(handoff_timeout=0.01, max_duration=0.05)
    handler = make_handler(engines, single(runs, async_config=config), manager, diary=diary)
    task = make_task("a", retries=1, retry_after=0, force_store=True)
    async with at_work(handler):
        await handler.add_tasks([task])
        await diary.told("on_task_completed")
    [failed] = diary.of("on_task_failed")
    assert isinstance(failed.error, TaskTimeoutError)
    assert failed.will_retry
    assert runs == [0, 1]
    [(id, payload, duration)] = told
    assert (id, payload) == (task.id, "a")
    assert duration > 0.05
    metrics = manager.get_metrics()
    assert (metrics.total_timed_out, metrics.active_task_count) == (1, 0)
    stored = await engines.stored(task)
    assert stored is not None
    assert "after it was handed off" in stored.execution_stats["last_error"]


async def test_6_3_a_thread_cannot_be_stopped_but_loses_its_say(engines: Engines) -> None:
    manager, diary = AsyncTaskManager(sweep_interval=0.02), Diary()
    gate, late = threading.Event(), threading.Event()

    def stuck(task: Task[Any], actions: Any) -> None:
        if task.retry_count:
            actions.success(task, "second")
            return
        gate.wait(10)
        actions.success(task, "first")
        late.set()

    config = AsyncConfig(handoff_timeout=0.01, max_duration=0.03)
    handler = make_handler(engines, single(stuck, async_config=config), manager, diary=diary)
    task = make_task("a", retries=1, retry_after=0, force_store=True)
    async with at_work(handler):
        await handler.add_tasks([task])
        await diary.told("on_task_completed")
        assert manager.get_metrics().active_task_count == 0
        gate.set()
        assert await asyncio.to_thread(late.wait, 10)
    stored = await engines.stored(task)
    assert stored is not None
    assert (stored.status, stored.execution_result) == (TaskStatus.EXECUTED, "second")


async def test_6_3_the_executors_own_timeout_still_applies(engines: Engines) -> None:
    runs, manager, diary = Endless(), AsyncTaskManager(), Diary()
    executor = single(runs, async_config=AsyncConfig(0.01), timeout=0.1)
    handler = make_handler(engines, executor, manager, diary=diary)
    async with at_work(handler):
        for number in range(1, 6):
            await handler.add_tasks([make_task(retries=0)])
            failed = await diary.told("on_task_failed", number)
            # The machine may stand still for just that tenth of a second, but not each time.
            if manager.get_metrics().total_handed_off:
                break
    assert "its timeout of 0.1 s" in str(failed[-1].error)
    metrics = manager.get_metrics()
    assert (metrics.total_handed_off, metrics.total_completed) == (1, 1)
    assert metrics.total_timed_out == 0


# 6.4 shutdown


async def test_6_4_what_ends_within_the_grace_is_settled_and_the_rest_is_released(
    engines: Engines,
) -> None:
    held, other, manager, diary = Held(), Runs(), AsyncTaskManager(), Diary()
    executor = single(held, async_config=SOON)
    handler = make_handler(engines, executor, manager, diary=diary, shutdown_grace_period=0.3)
    tasks = [make_task(name, force_store=True) for name in "abc"]
    async with at_work(handler) as stop:
        await handler.add_tasks(tasks)
        await held.starts.reach(3)
        stop.set()
        held.end("b")
        await held.cancelled.reach(2)
    assert [await engines.status(task) for task in tasks][1] is TaskStatus.EXECUTED
    assert sorted(held.cancelled) == ["a", "c"]
    assert manager.get_metrics().active_task_count == 0
    async with make_handler(engines, parallel(other), None) as second:
        await second.drain(10)  # at once: well within their leases
    assert sorted(other.payloads) == ["a", "c"]
    assert [task.retry_count for task in other] == [0, 0]
    assert diary.of("on_task_failed") == []


async def test_6_4_a_worker_waits_for_what_was_handed_off_no_longer_than_it_takes(
    engines: Engines,
) -> None:
    held, manager = Held(), AsyncTaskManager()
    handler = make_handler(
        engines, single(held, async_config=SOON), manager, shutdown_grace_period=60
    )
    async with at_work(handler) as stop:
        await handler.add_tasks([make_task("a"), make_task("b")])
        await held.starts.reach(2)
        stop.set()
        held.end("a", "b")
    assert held.cancelled == []
    assert await engines.queue.depth(QUEUE) == 0


async def test_6_4_a_worker_serves_again_and_hands_off_again(engines: Engines) -> None:
    held, manager = Held(), AsyncTaskManager()
    handler = make_handler(engines, single(held, async_config=SOON), manager)
    for names, started in (("ab", 2), ("cd", 4)):
        async with at_work(handler):
            await handler.add_tasks([make_task(name) for name in names])
            await held.starts.reach(started)
            held.end(*names)
    assert held.starts == ["a", "b", "c", "d"]


async def test_6_4_after_the_managers_own_shutdown_lanes_keep_their_tasks(
    engines: Engines,
) -> None:
    held, manager = Held(), AsyncTaskManager(shutdown_grace_period=0)
    handler = make_handler(engines, single(held, async_config=SOON), manager)
    tasks = [make_task(name) for name in "abc"]
    async with at_work(handler):
        await handler.add_tasks(tasks)
        await held.starts.reach(2)
        result = await manager.shutdown()
        assert (result.completed_during_grace, result.abandoned_task_ids[0]) == (0, tasks[0].id)
        held.end("a", "b", "c")
        await held.ended.reach(3)
    assert held.starts == ["a", "b", "c"]
