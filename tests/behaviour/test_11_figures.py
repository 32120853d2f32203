"""SPEC 11.3, 11.4: what a worker tells of itself, and the figures of its queues."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest

from harness import (
    PATIENCE,
    QUEUE,
    TYPE,
    Diary,
    Engines,
    Runs,
    make_task,
    parallel,
    serving,
    single,
)
from taskloom import BatchSummary, LifecycleConfig, Task, TaskHandler


async def run_batch(handler: TaskHandler, limit: int = 10) -> BatchSummary:
    async with asyncio.timeout(PATIENCE):
        return await handler.process_batch(QUEUE, limit)


async def odd_ones_fail(task: Task[Any], actions: Any) -> None:
    if task.payload % 2:
        actions.fail(task, "odd")
    else:
        actions.success(task)


# 11.3


@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_11_3_started_consumer_started_consumer_stopped_stopped(
    engines: Engines, mode: Any
) -> None:
    diary = Diary()
    executors = {TYPE: parallel(odd_ones_fail), ("idle", TYPE): single(Runs())}
    lifecycle = LifecycleConfig(mode=mode)
    handler = engines.handler(executors, diary=diary, lifecycle=lifecycle)
    async with serving(handler):
        [started] = await diary.told("on_worker_started")
        assert diary.of("on_consumer_started") == []
        await handler.add_tasks([make_task(n) for n in range(4)])
        await diary.told("on_task_completed", 2)
        await diary.told("on_task_failed", 2)
        await handler.add_tasks([make_task(4)])
        await diary.told("on_task_completed", 3)
    await handler.close()
    assert started.worker_id == handler.worker_id
    assert (started.pid, set(started.enabled_queues)) == (os.getpid(), {QUEUE, "idle"})
    [consumer] = diary.of("on_consumer_started")
    assert (consumer.queue_id, consumer.worker_id) == (QUEUE, handler.worker_id)
    [gone] = diary.of("on_consumer_stopped")
    assert gone.consumer_id == consumer.consumer_id
    assert (gone.tasks_processed, gone.tasks_succeeded, gone.tasks_failed) == (5, 3, 2)
    assert gone.last_task_at is not None
    [stopped] = diary.of("on_worker_stopped")
    assert (stopped.tasks_processed, stopped.tasks_succeeded, stopped.tasks_failed) == (5, 3, 2)
    assert stopped.reason == "stopped"
    names = [name for name, _ in diary.entries]
    assert names[0] == "on_worker_started"
    assert names.index("on_consumer_stopped") < names.index("on_worker_stopped")


async def test_11_3_the_reason_when_it_was_cancelled(engines: Engines) -> None:
    diary = Diary()
    handler = engines.handler({TYPE: single(Runs())}, diary=diary)
    work = asyncio.create_task(handler.serve())
    await diary.told("on_worker_started")
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    [stopped] = diary.of("on_worker_stopped")
    assert stopped.reason == "cancelled"


async def test_11_3_a_heartbeat_every_interval_with_figures(memory: Engines) -> None:
    gate, diary = asyncio.Event(), Diary()
    runs = Runs(gate)
    lifecycle = LifecycleConfig(mode="sync", heartbeat_interval=5)
    handler = memory.handler({TYPE: single(runs)}, diary=diary, lifecycle=lifecycle)
    [task] = await handler.add_tasks([make_task()])
    async with serving(handler):
        await runs.reach(1)
        await memory.pass_time(4.9)
        assert diary.of("on_worker_heartbeat") == []
        await memory.pass_time(0.1)
        [busy] = await diary.told("on_worker_heartbeat")
        gate.set()
        await diary.told("on_task_completed")
        await memory.pass_time(5)
        [_, idle] = await diary.told("on_worker_heartbeat", 2)
    assert (busy.tasks_running, busy.tasks_processed, busy.active_consumers) == (1, 0, 1)
    assert busy.current_task == task.id  # while exactly one runs
    assert busy.memory_usage > 1_000_000
    assert (idle.tasks_running, idle.tasks_processed, idle.tasks_succeeded) == (0, 1, 1)
    assert idle.current_task is None
    assert idle.avg_processing_duration == pytest.approx(5)


async def test_11_3_each_claim_is_told_as_a_batch(engines: Engines) -> None:
    diary = Diary()
    executors = {TYPE: parallel(odd_ones_fail), "other": single(Runs())}
    handler = engines.handler(executors, diary=diary)
    tasks = [make_task(n) for n in range(3)] + [make_task(type="other"), make_task(type="lost")]
    await handler.add_tasks(tasks)
    await run_batch(handler)
    await handler.close()
    [started] = diary.of("on_batch_started")
    assert (started.queue_id, started.batch_size) == (QUEUE, 5)
    assert sorted(started.task_types) == ["lost", "other", TYPE]
    [completed] = diary.of("on_batch_completed")
    assert (completed.batch_size, completed.succeeded, completed.failed) == (5, 3, 1)
    assert completed.batch_duration >= 0


async def test_11_3_a_worker_serves_all_registered_queues_unless_told_which(
    engines: Engines,
) -> None:
    here, there = Runs(), Runs()
    executors = {("here", TYPE): single(here), ("there", TYPE): single(there)}
    handler, diary = engines.handler(executors), Diary()
    told = engines.handler(executors, diary=diary)
    await handler.add_tasks([make_task(queue_id="here"), make_task(queue_id="there")])
    async with serving(told, ["there"]):
        await there.finished.reach(1)
    assert diary.of("on_worker_started")[0].enabled_queues == ["there"]
    assert here == []
    async with serving(handler):
        await here.finished.reach(1)


# 11.4


async def test_11_4_figures_are_told_at_the_threshold_and_start_again(engines: Engines) -> None:
    diary = Diary()
    handler = engines.handler(
        {TYPE: parallel(Runs())}, diary=diary, stats_threshold=10, instance_id="me"
    )
    for batch, expected in ((9, 0), (1, 1), (9, 1), (3, 2)):
        await handler.add_tasks([make_task(n) for n in range(batch)])
        await run_batch(handler)
        assert len(diary.of("on_queue_stats")) == expected
    first, second = diary.of("on_queue_stats")
    assert (first.queue_id, first.instance_id) == (QUEUE, "me")
    assert (first.success, first.failed, first.handed_off, first.ignored) == (10, 0, 0, 0)
    assert second.success == 12


async def test_11_4_failures_have_a_threshold_of_their_own(engines: Engines) -> None:
    diary = Diary()
    executor = single(odd_ones_fail)
    handler = engines.handler({TYPE: executor}, diary=diary, stats_failure_threshold=2)
    await handler.add_tasks([make_task(n) for n in (0, 1)])
    await run_batch(handler)
    assert diary.of("on_queue_stats") == []
    await handler.add_tasks([make_task(n) for n in (2, 3)])
    await run_batch(handler)
    [stats] = diary.of("on_queue_stats")
    assert (stats.success, stats.failed) == (2, 2)


async def test_11_4_by_default_a_thousand_tasks_or_a_hundred_failures(memory: Engines) -> None:
    diary = Diary()
    executors = {TYPE: parallel(Runs(), 1000), ("bad", TYPE): parallel(odd_ones_fail, 100)}
    handler = memory.handler(executors, diary=diary)
    await handler.add_tasks([make_task(n) for n in range(999)])
    await handler.add_tasks([make_task(1, queue_id="bad") for n in range(99)])
    await handler.drain(PATIENCE)
    assert diary.of("on_queue_stats") == []
    await handler.add_tasks([make_task(), make_task(1, queue_id="bad")])
    await handler.drain(PATIENCE)
    told = {stats.queue_id: (stats.success, stats.failed) for stats in diary.of("on_queue_stats")}
    assert told == {QUEUE: (1000, 0), "bad": (0, 100)}


async def test_11_4_the_rest_at_shutdown_one_entry_per_queue(engines: Engines) -> None:
    diary = Diary()
    executors = {TYPE: parallel(odd_ones_fail), ("r", TYPE): single(Runs())}
    handler = engines.handler(executors, diary=diary, stats_threshold=4)
    async with serving(handler):
        await handler.add_tasks([make_task(n) for n in range(3)])
        await diary.told("on_task_completed", 2)
        await diary.told("on_task_failed", 1)
        await handler.add_tasks([make_task(queue_id="r")])
        await diary.told("on_task_completed", 3)
    [final] = diary.of("on_final_stats")
    assert isinstance(final, list)
    told = {stats.queue_id: (stats.success, stats.failed, stats.ignored) for stats in final}
    assert told == {QUEUE: (2, 1, 0), "r": (1, 0, 0)}


async def test_11_4_what_was_told_at_a_threshold_is_not_told_again_at_the_end(
    engines: Engines,
) -> None:
    diary = Diary()
    handler = engines.handler({TYPE: parallel(Runs())}, diary=diary, stats_threshold=2)
    async with serving(handler):
        await handler.add_tasks([make_task(n) for n in range(2)])
        await diary.told("on_queue_stats")
        await handler.add_tasks([make_task()])
        await diary.told("on_task_completed", 3)
    everything = diary.of("on_queue_stats") + diary.of("on_final_stats")[0]
    assert sum(stats.success for stats in everything) == 3


async def test_11_4_also_of_a_handler_that_never_served(engines: Engines) -> None:
    diary = Diary()
    async with engines.handler({TYPE: single(Runs())}, diary=diary) as handler:
        await handler.add_tasks([make_task()])
        await run_batch(handler)
    [final] = diary.of("on_final_stats")
    assert [stats.success for stats in final] == [1]


async def test_11_4_ignored_ones_are_counted(engines: Engines) -> None:
    diary = Diary()
    handler = engines.handler({"other": single(Runs())}, diary=diary, stats_threshold=2)
    await handler.add_tasks([make_task(), make_task()])
    assert (await run_batch(handler)).ignored == 2
    [stats] = diary.of("on_queue_stats")
    assert stats.ignored == 2


async def test_11_4_a_cache_that_is_away_does_not_silence_the_discards(memory: Engines) -> None:
    async def fail(task: Task[Any], actions: Any) -> None:
        raise RuntimeError("no")

    parts, diary = memory.meddled(), Diary()
    parts.break_down("cache.incr")
    handler = memory.handler({TYPE: single(fail, store_on_failure=False)}, parts=parts, diary=diary)
    await handler.add_tasks([make_task()])
    assert (await run_batch(handler)).failed == 1
    [discarded] = diary.of("on_tasks_discarded")
    assert discarded.count == 1
    [trouble] = diary.of("on_task_error")
    assert "discard" in trouble.context
