"""SPEC 4.3 to 4.5: the first word on a task counts; rescheduling; saying nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from msgspec import UNSET

from harness import PATIENCE, QUEUE, TYPE, Diary, Engines, make_task, multi, single
from taskloom import (
    BatchSummary,
    ForeignTaskError,
    NoOutcomeError,
    Task,
    TaskFailedError,
    TaskHandler,
    TaskStatus,
)

# What is looked at here comes to pass in the worker, the same on every engine.
pytestmark = pytest.mark.on("memory", "sqlite")


async def run_batch(handler: TaskHandler, limit: int = 10) -> BatchSummary:
    async with asyncio.timeout(PATIENCE):
        return await handler.process_batch(QUEUE, limit)


async def ended(engines: Engines, executor: Any, **fields: Any) -> tuple[Task[Any], Diary]:
    """Run one stored task; how the storage has it afterwards, and what was told."""
    diary = Diary()
    handler = engines.handler({TYPE: executor}, diary=diary)
    [task] = await handler.add_tasks([make_task(**({"force_store": True} | fields))])
    await run_batch(handler)
    kept = await engines.stored(task)
    assert kept is not None
    return kept, diary


async def test_4_3_success_then_exception_is_success(
    engines: Engines, caplog: pytest.LogCaptureFixture
) -> None:
    async def on_task(task: Task[Any], actions: Any) -> None:
        actions.success(task, 1)
        raise RuntimeError("too late")

    kept, diary = await ended(engines, single(on_task))
    assert (kept.status, kept.execution_result) == (TaskStatus.EXECUTED, 1)
    assert diary.of("on_task_failed") == []
    assert "too late" in caplog.text


async def test_4_3_fail_then_exception_is_that_failure_once(engines: Engines) -> None:
    async def on_task(task: Task[Any], actions: Any) -> None:
        actions.fail(task, "first")
        raise RuntimeError("second")

    kept, diary = await ended(engines, single(on_task))
    assert kept.status is TaskStatus.FAILED
    assert kept.execution_stats["last_error"] == "first"
    [told] = diary.of("on_task_failed")
    assert isinstance(told.error, TaskFailedError)


async def test_4_3_an_exception_is_a_failure_with_that_exception(engines: Engines) -> None:
    error = RuntimeError("mine")

    async def on_task(task: Task[Any], actions: Any) -> None:
        raise error

    kept, diary = await ended(engines, single(on_task))
    assert kept.execution_stats["last_error"] == "mine"
    assert diary.of("on_task_failed")[0].error is error


@pytest.mark.parametrize("raises", [False, True])
async def test_4_3_in_a_multi_executor_each_task_by_its_own_word(
    engines: Engines, raises: bool
) -> None:
    async def on_tasks(tasks: Sequence[Task[Any]], actions: Any) -> None:
        by_payload = {task.payload: task for task in tasks}
        actions.fail(by_payload["bad"], "mine")
        actions.success(by_payload["good"], "done")
        if raises:
            raise RuntimeError("all the others")

    diary = Diary()
    handler = engines.handler({TYPE: multi(on_tasks)}, diary=diary)
    names = ("good", "bad", "silent")
    tasks = await handler.add_tasks([make_task(name, force_store=True) for name in names])
    summary = await run_batch(handler)
    assert (summary.succeeded, summary.failed) == (1, 2)
    good, bad, silent = [await engines.stored(task) for task in tasks]
    assert good is not None
    assert bad is not None
    assert silent is not None
    assert (good.status, good.execution_result) == (TaskStatus.EXECUTED, "done")
    assert bad.execution_stats["last_error"] == "mine"
    assert silent.status is TaskStatus.FAILED
    errors = {event.task_id: event.error for event in diary.of("on_task_failed")}
    assert type(errors[silent.id]) is (RuntimeError if raises else NoOutcomeError)


async def test_4_3_in_a_multi_executor_success_in_any_order(engines: Engines) -> None:
    async def on_tasks(tasks: Sequence[Task[Any]], actions: Any) -> None:
        for task in reversed(tasks):
            actions.success(task, task.payload * 10)

    handler = engines.handler({TYPE: multi(on_tasks)})
    tasks = await handler.add_tasks([make_task(n, force_store=True) for n in range(3)])
    assert (await run_batch(handler)).succeeded == 3
    kept = await handler.get_tasks([task.id for task in tasks])
    assert [task.execution_result for task in kept] == [0, 10, 20]


@pytest.mark.parametrize("kind", [single, multi])
@pytest.mark.parametrize("word", ["success", "fail", "add_tasks"])
async def test_4_3_a_foreign_task_is_a_value_error(engines: Engines, kind: Any, word: str) -> None:
    caught: list[BaseException] = []
    foreign = make_task()

    def speak(actions: Any) -> None:
        if word == "add_tasks":
            actions.add_tasks([make_task()], parent=foreign)
        else:
            getattr(actions, word)(foreign)

    async def work(given: Any, actions: Any) -> None:
        with pytest.raises(ValueError, match=foreign.id) as info:
            speak(actions)
        caught.append(info.value)
        actions.success(given if isinstance(given, Task) else given[0])

    kept, _ = await ended(engines, kind(work))
    assert isinstance(caught[0], ForeignTaskError)
    assert kept.status is TaskStatus.EXECUTED
    assert await engines.stored(foreign) is None


async def test_4_3_a_foreign_task_that_nobody_catches_fails_the_attempt(engines: Engines) -> None:
    async def on_task(task: Task[Any], actions: Any) -> None:
        actions.success(make_task())

    kept, diary = await ended(engines, single(on_task))
    assert kept.status is TaskStatus.FAILED
    assert isinstance(diary.of("on_task_failed")[0].error, ForeignTaskError)


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("success", "fail"), TaskStatus.EXECUTED),
        (("success", "success"), TaskStatus.EXECUTED),
        (("fail", "success"), TaskStatus.FAILED),
        (("success", "again"), TaskStatus.EXECUTED),
        (("fail", "again"), TaskStatus.FAILED),
    ],
)
async def test_4_3_a_second_word_is_ignored_with_a_warning(
    engines: Engines,
    caplog: pytest.LogCaptureFixture,
    words: tuple[str, str],
    status: TaskStatus,
) -> None:
    async def on_task(task: Task[Any], actions: Any) -> None:
        for number, word in enumerate(words):
            if word == "again":
                actions.add_tasks([task.replace(payload="changed")])
            elif word == "success":
                actions.success(task, number)
            else:
                actions.fail(task, f"error {number}")

    kept, _ = await ended(engines, single(on_task))
    assert kept.status is status
    assert kept.execution_result == (0 if status is TaskStatus.EXECUTED else UNSET)
    assert kept.payload is None
    assert caplog.text.count("the first word counts") == 1


# 4.4


@pytest.mark.parametrize("stored", [False, True])
async def test_4_4_its_own_id_reschedules_the_task_with_the_fields_given(
    still: Engines, stored: bool
) -> None:
    seen: list[tuple[Any, int]] = []

    async def on_task(task: Task[Any], actions: Any) -> None:
        seen.append((task.payload, task.retry_count))
        if task.payload == 1:
            later = still.clock.now() + timedelta(seconds=30)
            actions.add_tasks([task.replace(payload=2, execute_at=later)])
        else:
            actions.success(task)

    diary = Diary()
    handler = still.handler({TYPE: single(on_task)}, diary=diary)
    [task] = await handler.add_tasks([make_task(1, force_store=stored)])
    assert (await run_batch(handler)).retried == 1
    assert diary.of("on_task_completed") == diary.of("on_task_failed") == []
    await still.pass_time(29)
    assert (await run_batch(handler)).claimed == 0
    await still.pass_time(1)
    assert (await run_batch(handler)).succeeded == 1
    assert seen == [(1, 0), (2, 0)]
    [completed] = diary.of("on_task_completed")
    assert completed.task_id == task.id


async def test_4_4_far_in_the_future_it_waits_in_the_storage(still: Engines) -> None:
    seen: list[Any] = []

    async def on_task(task: Task[Any], actions: Any) -> None:
        seen.append(task.payload)
        if task.payload == 1:
            later = still.clock.now() + timedelta(hours=2)
            actions.add_tasks([task.replace(payload=2, execute_at=later)])
        else:
            actions.success(task)

    handler = still.handler({TYPE: single(on_task)})
    [task] = await handler.add_tasks([make_task(1)])
    assert (await run_batch(handler)).retried == 1
    kept = await still.stored(task)
    assert kept is not None
    assert (kept.status, kept.payload) == (TaskStatus.SCHEDULED, 2)
    await still.pass_time(timedelta(hours=2))
    await handler.drain(PATIENCE)
    assert seen == [1, 2]


async def test_4_4_a_word_after_it_is_ignored(
    still: Engines, caplog: pytest.LogCaptureFixture
) -> None:
    async def on_task(task: Task[Any], actions: Any) -> None:
        actions.add_tasks([task.replace(execute_at=still.clock.now() + timedelta(seconds=60))])
        actions.success(task)

    kept, diary = await ended(still, single(on_task))
    assert not kept.status.terminal
    assert diary.of("on_task_completed") == []
    assert "said success after rescheduled" in caplog.text


async def test_4_4_an_exception_after_it_changes_nothing(still: Engines) -> None:
    async def on_task(task: Task[Any], actions: Any) -> None:
        actions.add_tasks([task.replace(execute_at=still.clock.now() + timedelta(seconds=60))])
        raise RuntimeError("too late")

    kept, diary = await ended(still, single(on_task))
    assert not kept.status.terminal
    assert diary.of("on_task_failed") == []


async def test_4_4_together_with_children(still: Engines) -> None:
    made: list[Task[Any]] = []

    async def on_task(task: Task[Any], actions: Any) -> None:
        made.append(make_task("child", type="other", force_store=True))
        later = still.clock.now() + timedelta(seconds=60)
        actions.add_tasks([made[0], task.replace(execute_at=later)])

    kept, _ = await ended(still, single(on_task))
    assert not kept.status.terminal
    assert await still.stored(made[0]) is not None


async def test_4_4_in_a_multi_executor(still: Engines) -> None:
    calls: list[list[Any]] = []

    async def on_tasks(tasks: Sequence[Task[Any]], actions: Any) -> None:
        calls.append([task.payload for task in tasks])
        for task in tasks:
            if task.payload == 1:
                later = still.clock.now() + timedelta(seconds=30)
                actions.add_tasks([task.replace(payload=3, execute_at=later)])
            else:
                actions.success(task)

    handler = still.handler({TYPE: multi(on_tasks)})
    await handler.add_tasks([make_task(1), make_task(2)])
    summary = await run_batch(handler)
    assert (summary.succeeded, summary.retried) == (1, 1)
    await still.pass_time(30)
    assert (await run_batch(handler)).succeeded == 1
    assert calls == [[1, 2], [3]]


# 4.5


@pytest.mark.parametrize("kind", [single, multi])
async def test_4_5_without_a_word_a_failure_that_says_so(engines: Engines, kind: Any) -> None:
    async def work(given: Any, actions: Any) -> None:
        return None

    kept, diary = await ended(engines, kind(work))
    assert kept.status is TaskStatus.FAILED
    assert "without calling actions.success" in kept.execution_stats["last_error"]
    assert isinstance(diary.of("on_task_failed")[0].error, NoOutcomeError)


async def test_4_5_and_it_is_retried_like_one(engines: Engines) -> None:
    async def on_task(task: Task[Any], actions: Any) -> None:
        if task.retry_count:
            actions.success(task)

    handler = engines.handler({TYPE: single(on_task, default_retries=1)})
    [task] = await handler.add_tasks([make_task(force_store=True, retry_after=0)])
    assert (await run_batch(handler)).retried == 1
    assert (await run_batch(handler)).succeeded == 1
    assert await engines.status(task) is TaskStatus.EXECUTED
