"""SPEC 11.1, 11.2, FAULTS D13: what is told of tasks, in which order, and callbacks that fail."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
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
    multi,
    parallel,
    serving,
    single,
    until,
)
from taskloom import (
    BatchSummary,
    LifecycleConfig,
    Task,
    TaskHandler,
    TaskLifecycleProvider,
    TaskMetadata,
)

MODES = ("sync", "async")


async def run_batch(handler: TaskHandler, limit: int = 10) -> BatchSummary:
    async with asyncio.timeout(PATIENCE):
        return await handler.process_batch(QUEUE, limit)


class Slow(Diary):
    """Notes what it is told, then takes its time."""


def _slow(name: str) -> Any:
    async def callback(self: Slow, event: Any) -> None:
        self.entries.note((name, event))
        for _ in range(20):
            await asyncio.sleep(0)

    return callback


for _name in ("scheduled", "started", "completed", "failed", "exhausted"):
    setattr(Slow, f"on_task_{_name}", _slow(f"on_task_{_name}"))


def about(diary: Diary, task_id: str) -> list[str]:
    """The names of the events of one task, in the order they were told."""
    return [
        name.removeprefix("on_task_")
        for name, event in diary.entries
        if getattr(event, "task_id", None) == task_id
    ]


async def fail(task: Task[Any], actions: Any) -> None:
    raise RuntimeError("no")


# 11.1


async def test_11_1_in_sync_mode_the_work_waits_for_the_callback(engines: Engines) -> None:
    entered, go = asyncio.Event(), asyncio.Event()

    class Waiting(TaskLifecycleProvider):
        async def on_task_started(self, event: Any) -> None:
            entered.set()
            await go.wait()

    runs = Runs()
    handler = engines.handler(
        {TYPE: single(runs)},
        lifecycle_provider=Waiting(),
        lifecycle=LifecycleConfig(mode="sync"),
    )
    await handler.add_tasks([make_task()])
    work = asyncio.create_task(run_batch(handler))
    await until(entered)
    assert runs == []
    go.set()
    assert (await work).succeeded == 1


async def test_11_1_in_async_mode_a_slow_callback_never_blocks_work(engines: Engines) -> None:
    go = asyncio.Event()
    told: list[str] = []

    class Waiting(TaskLifecycleProvider):
        async def on_task_started(self, event: Any) -> None:
            await go.wait()
            told.append("started")

        def on_task_completed(self, event: Any) -> None:
            told.append("completed")

    handler = engines.handler({TYPE: single(Runs())}, lifecycle_provider=Waiting())
    await handler.add_tasks([make_task(n) for n in range(3)])
    assert (await run_batch(handler)).succeeded == 3
    assert told == []
    go.set()
    await handler.close()  # flushes
    assert told.count("started") == told.count("completed") == 3
    assert told[0] == "started"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("error", [RuntimeError("mine"), SystemExit(1), asyncio.CancelledError()])
async def test_11_1_an_error_in_a_callback_is_logged_with_its_name_and_changes_nothing(
    engines: Engines, caplog: pytest.LogCaptureFixture, mode: Any, error: BaseException
) -> None:
    class Broken(Diary):
        def on_task_started(self, event: Any) -> None:
            raise error

        async def on_task_scheduled(self, event: Any) -> None:
            raise error

        async def on_task_completed(self, event: Any) -> None:
            raise error

        async def on_worker_started(self, event: Any) -> None:
            raise error

        async def on_batch_started(self, event: Any) -> None:
            raise error

    broken, runs = Broken(), Runs()
    lifecycle = LifecycleConfig(mode=mode)
    handler = engines.handler({TYPE: single(runs)}, diary=broken, lifecycle=lifecycle)
    async with serving(handler):
        await handler.add_tasks([make_task(n) for n in range(3)])
        await runs.finished.reach(3)
    await handler.close()
    assert runs.payloads == [0, 1, 2]
    for name in ("on_task_started", "on_task_completed", "on_worker_started"):
        assert f"Broken.{name} failed" in caplog.text
        assert caplog.text.count(f"Broken.{name} failed on") == 1  # not once per task


# 11.2


@pytest.mark.parametrize("mode", MODES)
async def test_11_2_the_order_of_each_task(engines: Engines, mode: Any) -> None:
    async def on_task(task: Task[Any], actions: Any) -> None:
        if task.payload % 2:
            raise RuntimeError("no")
        actions.success(task)

    diary = Slow()
    executor = parallel(on_task, default_retries=1)
    lifecycle = LifecycleConfig(mode=mode)
    handler = engines.handler({TYPE: executor}, diary=diary, lifecycle=lifecycle)
    async with serving(handler):
        tasks = await handler.add_tasks([make_task(n, retry_after=0) for n in range(30)])
        await diary.told("on_task_completed", 15)
        await diary.told("on_task_exhausted", 15)
    for task in tasks:
        assert about(diary, task.id) == (
            ["scheduled", "started", "completed"]
            if task.payload % 2 == 0
            else ["scheduled", "started", "failed", "started", "failed", "exhausted"]
        )


@pytest.mark.parametrize("mode", MODES)
async def test_11_2_children_are_told_from_scheduled_on(engines: Engines, mode: Any) -> None:
    async def on_task(task: Task[Any], actions: Any) -> None:
        actions.add_tasks([make_task(type="child")])
        actions.success(task)

    diary = Slow()
    handler = engines.handler(
        {TYPE: single(on_task), "child": single(Runs())},
        diary=diary,
        lifecycle=LifecycleConfig(mode=mode),
    )
    async with serving(handler):
        await handler.add_tasks([make_task()])
        await diary.told("on_task_completed", 2)
    [child] = {event.task_id for _, event in diary.entries if _is_child(event)}
    assert about(diary, child) == ["scheduled", "started", "completed"]


def _is_child(event: Any) -> bool:
    return getattr(event, "task_type", None) == "child"


async def test_11_2_the_context_of_a_task(engines: Engines) -> None:
    diary = Diary()
    handler = engines.handler({TYPE: single(fail, default_retries=1)}, diary=diary)
    metadata = TaskMetadata(log_context={"k": "v"})
    [task] = await handler.add_tasks(
        [make_task({"secret": 1}, metadata=metadata, task_hash="h", retry_after=0)]
    )
    await run_batch(handler)
    await run_batch(handler)
    [scheduled] = diary.of("on_task_scheduled")
    started, again = diary.of("on_task_started")
    assert (scheduled.worker_id, scheduled.attempt) == (None, 1)
    assert (started.attempt, again.attempt) == (1, 2)
    for event in (scheduled, started, again, *diary.of("on_task_failed")):
        assert event.task_id == task.id
        assert (event.task_type, event.queue_id, event.task_hash) == (TYPE, QUEUE, "h")
        assert event.max_retries == 1
        assert event.log_context == {"k": "v"}
        assert event.payload == {}
        assert event.scheduled_at == task.created_at
    assert started.worker_id == handler.worker_id
    assert started.consumer_id
    [exhausted] = diary.of("on_task_exhausted")
    assert exhausted.total_attempts == 2


async def test_11_2_the_payload_only_when_asked_for(engines: Engines) -> None:
    diary = Diary()
    lifecycle = LifecycleConfig(mode="sync", include_payload=True)
    handler = engines.handler({TYPE: single(Runs())}, diary=diary, lifecycle=lifecycle)
    await handler.add_tasks([make_task({"a": 1})])
    await run_batch(handler)
    names = ("on_task_scheduled", "on_task_started", "on_task_completed")
    assert [diary.of(name)[0].payload for name in names] == [{"a": 1}] * 3


async def test_11_2_failed_tells_the_real_error_and_what_comes_next(still: Engines) -> None:
    error = ValueError("real")

    async def on_task(task: Task[Any], actions: Any) -> None:
        raise error

    diary = Diary()
    handler = still.handler({TYPE: single(on_task, default_retries=1)}, diary=diary)
    await handler.add_tasks([make_task()])
    now = still.clock.now()
    await run_batch(handler)
    await still.pass_time(2)
    await run_batch(handler)
    first, last = diary.of("on_task_failed")
    assert first.error is last.error is error
    assert (first.will_retry, first.next_attempt_at) == (True, now + timedelta(seconds=2))
    assert (last.will_retry, last.next_attempt_at) == (False, None)
    assert diary.of("on_task_exhausted")[0].error is error


async def test_11_2_completed_carries_result_and_durations(memory: Engines) -> None:
    gate = asyncio.Event()
    runs, diary = Runs(gate), Diary()
    handler = memory.handler({TYPE: single(runs)}, diary=diary)
    await handler.add_tasks([make_task([1], created_at=memory.clock.now())])
    await memory.pass_time(3)
    work = asyncio.create_task(run_batch(handler))
    await runs.reach(1)
    await memory.pass_time(4)
    gate.set()
    await work
    [done] = diary.of("on_task_completed")
    assert done.result == [1]
    assert done.queued_duration == pytest.approx(3)
    assert done.processing_duration == pytest.approx(4)
    assert done.total_duration == pytest.approx(7)


async def test_11_2_exhausted_also_when_nothing_is_stored(memory: Engines) -> None:
    diary = Diary()
    handler = memory.handler({TYPE: single(fail, store_on_failure=False)}, diary=diary)
    [task] = await handler.add_tasks([make_task()])
    await run_batch(handler)
    assert await memory.status(task) is None
    assert about(diary, task.id) == ["scheduled", "started", "failed", "exhausted"]


async def test_11_2_cancelled_is_told_by_cancel_tasks(still: Engines) -> None:
    diary = Diary()
    handler = still.handler({TYPE: single(Runs())}, diary=diary)
    later = still.clock.now() + timedelta(hours=1)
    [task] = await handler.add_tasks([make_task(execute_at=later)])
    assert await handler.cancel_tasks([task.id, "unknown"], reason="changed my mind") == [task.id]
    [event] = diary.of("on_task_cancelled")
    assert (event.task_id, event.reason) == (task.id, "changed my mind")
    assert about(diary, task.id) == ["scheduled", "cancelled"]


@pytest.mark.parametrize("mode", MODES)
async def test_11_2_a_multi_executor_tells_batch_started_and_completed(
    engines: Engines, mode: Any
) -> None:
    async def on_tasks(tasks: Sequence[Task[Any]], actions: Any) -> None:
        actions.success(tasks[0])
        actions.fail(tasks[1], "no")

    diary = Diary()
    lifecycle = LifecycleConfig(mode=mode)
    handler = engines.handler({TYPE: multi(on_tasks)}, diary=diary, lifecycle=lifecycle)
    good, bad, silent = await handler.add_tasks([make_task(n) for n in range(3)])
    await run_batch(handler)
    await handler.close()
    [started] = diary.of("on_task_batch_started")
    [completed] = diary.of("on_task_batch_completed")
    ids = [good.id, bad.id, silent.id]
    assert [context.task_id for context in started.tasks] == ids
    assert (started.task_type, started.queue_id) == (TYPE, QUEUE)
    assert started.worker_id == handler.worker_id
    assert completed.succeeded == [good.id]
    assert completed.failed == [bad.id, silent.id]
    names = [name for name, _ in diary.entries]
    assert names.index("on_task_batch_started") < names.index("on_task_batch_completed")


@pytest.mark.parametrize("mode", MODES)
async def test_11_2_a_multi_executor_tells_of_each_task_too(engines: Engines, mode: Any) -> None:
    async def on_tasks(tasks: Sequence[Task[Any]], actions: Any) -> None:
        actions.success(tasks[0])

    diary = Diary()
    lifecycle = LifecycleConfig(mode=mode)
    handler = engines.handler({TYPE: multi(on_tasks)}, diary=diary, lifecycle=lifecycle)
    good, bad = await handler.add_tasks([make_task(n) for n in range(2)])
    await run_batch(handler)
    await handler.close()
    assert about(diary, good.id) == ["scheduled", "started", "completed"]
    assert about(diary, bad.id) == ["scheduled", "started", "failed", "exhausted"]


async def test_11_2_what_is_ignored_or_released_is_not_told_as_ended(engines: Engines) -> None:
    diary = Diary()
    handler = engines.handler({"other": single(Runs())}, diary=diary)
    [task] = await handler.add_tasks([make_task()])
    assert (await run_batch(handler)).ignored == 1
    assert about(diary, task.id) == ["scheduled"]


async def test_11_2_a_callback_does_not_act_in_the_name_of_the_task(engines: Engines) -> None:
    """What a callback adds is nobody's child: it runs outside of the task."""
    made: list[Task[Any]] = []

    class Adding(TaskLifecycleProvider):
        async def on_task_completed(self, event: Any) -> None:
            made.append(make_task(type="child"))

    handler = engines.handler(
        {TYPE: single(Runs())},
        lifecycle_provider=Adding(),
        lifecycle=LifecycleConfig(mode="sync"),
    )
    await handler.add_tasks([make_task(n) for n in range(2)])
    await run_batch(handler)
    assert len({task.id for task in made}) == 2
