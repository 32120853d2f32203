"""SPEC 5.1 to 5.5, FAULTS D5: results, failures, retries, and how they end."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from msgspec import UNSET

from harness import PATIENCE, QUEUE, TYPE, Diary, Engines, make_task, multi, single
from taskloom import BatchSummary, Task, TaskHandler, TaskStatus

LIMIT = 256 * 1024


async def run_batch(handler: TaskHandler, limit: int = 10) -> BatchSummary:
    async with asyncio.timeout(PATIENCE):
        return await handler.process_batch(QUEUE, limit)


async def fail(task: Task[Any], actions: Any) -> None:
    actions.fail(task, "no")


async def kept_result(engines: Engines, result: Any) -> Task[Any]:
    """A stored task after its executor said success with `result`."""

    async def on_task(task: Task[Any], actions: Any) -> None:
        actions.success(task, result)

    handler = engines.handler({TYPE: single(on_task)})
    [task] = await handler.add_tasks([make_task(force_store=True)])
    assert (await run_batch(handler)).succeeded == 1
    kept = await engines.stored(task)
    assert kept is not None
    assert kept.status is TaskStatus.EXECUTED
    return kept


# 5.1


@pytest.mark.parametrize(
    "result", [None, 0, "", [], {"a": [1, {"b": "ü\x00"}]}, 2**63, -1.5, True], ids=repr
)
async def test_5_1_the_result_is_kept(engines: Engines, result: Any) -> None:
    kept = await kept_result(engines, result)
    assert kept.execution_result == result
    assert type(kept.execution_result) is type(result)
    assert kept.execution_stats == {}


async def test_5_1_no_result_is_no_result(engines: Engines) -> None:
    assert (await kept_result(engines, UNSET)).execution_result is UNSET


@pytest.mark.parametrize("over", [-1, 0])
async def test_5_1_up_to_the_limit_it_is_kept(engines: Engines, over: int) -> None:
    text = "x" * (LIMIT - 2 + over)
    assert (await kept_result(engines, text)).execution_result == text


@pytest.mark.parametrize(("over", "letter"), [(1, "x"), (10, "x"), (1, "ü")])
async def test_5_1_above_it_it_is_dropped_and_its_size_recorded(
    engines: Engines, over: int, letter: str, caplog: pytest.LogCaptureFixture
) -> None:
    size = LIMIT + over
    text = letter + "x" * (size - 2 - len(letter.encode()))
    kept = await kept_result(engines, text)
    assert kept.execution_result is UNSET
    assert kept.execution_stats["result_dropped"] == size
    assert str(size) in caplog.text


def cycle() -> Any:
    circle: list[Any] = []
    circle.append(circle)
    return circle


@pytest.mark.parametrize(
    "result",
    [cycle(), object(), {1, object()}, math.nan, [math.inf], "\ud800", {"a": lambda: 0}],
    ids=["cycle", "object", "set", "nan", "inf", "surrogate", "function"],
)
async def test_5_1_what_json_cannot_hold_is_dropped_and_the_task_succeeds(
    engines: Engines, result: Any, caplog: pytest.LogCaptureFixture
) -> None:
    kept = await kept_result(engines, result)
    assert kept.execution_result is UNSET
    assert "result_dropped" in kept.execution_stats
    assert "the result is dropped" in caplog.text


async def test_5_1_changing_it_afterwards_changes_nothing(engines: Engines) -> None:
    async def on_task(task: Task[Any], actions: Any) -> None:
        result = {"a": 1}
        actions.success(task, result)
        result["a"] = 2

    handler = engines.handler({TYPE: single(on_task)})
    [task] = await handler.add_tasks([make_task(force_store=True)])
    await run_batch(handler)
    kept = await engines.stored(task)
    assert kept is not None
    assert kept.execution_result == {"a": 1}


# 5.2


async def failed_with(engines: Engines, *errors: Any, meta: Any = None) -> Task[Any]:
    """A stored task after attempts that failed like this: raised, or said with `meta`."""

    async def on_task(task: Task[Any], actions: Any) -> None:
        error = errors[task.retry_count]
        if meta is not None:
            actions.fail(task, error, meta[task.retry_count])
        else:
            raise error

    handler = engines.handler({TYPE: single(on_task, default_retries=len(errors) - 1)})
    [task] = await handler.add_tasks([make_task(force_store=True, retry_after=0)])
    for _ in errors:
        assert (await run_batch(handler)).claimed == 1
    kept = await engines.stored(task)
    assert kept is not None
    assert kept.status is TaskStatus.FAILED
    return kept


async def test_5_2_last_error_and_its_stack(engines: Engines) -> None:
    stats = (await failed_with(engines, ValueError("one"), KeyError("two"))).execution_stats
    assert stats["last_error"] == "'two'"
    assert "on_task" in stats["last_error_stack"]
    assert "failed_at" in stats


async def test_5_2_the_keys_of_meta_are_added_and_earlier_ones_stay(engines: Engines) -> None:
    metas = [{"first": 1, "both": 1}, {"second": 2, "both": 2}]
    stats = (await failed_with(engines, "one", "two", meta=metas)).execution_stats
    assert {k: stats[k] for k in ("first", "second", "both")} == {
        "first": 1,
        "second": 2,
        "both": 2,
    }


async def test_5_2_meta_cannot_overwrite_the_librarys_keys(engines: Engines) -> None:
    meta = {"last_error": "mine", "failed_at": "never", "poison": 9, "result_dropped": 1, "x": 1}
    stats = (await failed_with(engines, "real", meta=[meta])).execution_stats
    assert stats["last_error"] == "real"
    assert stats["failed_at"] != "never"
    assert "poison" not in stats
    assert "result_dropped" not in stats
    assert stats["x"] == 1


@pytest.mark.parametrize("meta", [{"a": object()}, {"a": math.nan}, {1: "b"}, {"a": cycle()}])
async def test_5_2_meta_that_json_cannot_hold_costs_nothing_else(
    engines: Engines, meta: Any
) -> None:
    assert (await failed_with(engines, "no", meta=[meta])).execution_stats["last_error"] == "no"


async def test_5_2_failed_at_only_when_it_is_final(still: Engines) -> None:
    handler = still.handler({TYPE: single(fail, default_retries=1)})
    [task] = await handler.add_tasks([make_task(force_store=True)])
    await run_batch(handler)
    kept = await still.stored(task)
    assert kept is not None
    assert kept.execution_stats == {"last_error": "no"}
    await still.pass_time(2)
    await run_batch(handler)
    kept = await still.stored(task)
    assert kept is not None
    assert kept.execution_stats["failed_at"] == still.clock.now().isoformat()


@pytest.mark.parametrize("text", ["x" * 100_000, "ü" * 100_000, "\ud800" * 9000])
async def test_5_2_error_text_is_cut(engines: Engines, text: str) -> None:
    stats = (await failed_with(engines, RuntimeError(text))).execution_stats
    assert 8000 < len(stats["last_error"].encode()) <= 8192
    assert len(stats["last_error_stack"].encode()) <= 8192


# 5.3


async def test_5_3_delays_grow_and_the_id_stays(still: Engines) -> None:
    diary = Diary()
    handler = still.handler({TYPE: single(fail, default_retries=3)}, diary=diary)
    [task] = await handler.add_tasks([make_task(force_store=True)])
    for delay in (2, 8, 18, None):
        now = still.clock.now()
        assert (await run_batch(handler)).claimed == 1
        told = diary.of("on_task_failed")[-1]
        assert told.task_id == task.id
        assert told.will_retry == (delay is not None)
        if delay is None:
            break
        assert told.next_attempt_at == now + timedelta(seconds=delay)
        await still.pass_time(delay - 0.001)
        assert (await run_batch(handler)).claimed == 0
        await still.pass_time(0.001)
    assert [event.attempt for event in diary.of("on_task_failed")] == [1, 2, 3, 4]
    assert await still.status(task) is TaskStatus.FAILED


@pytest.mark.parametrize(("own", "default", "runs"), [(0, 3, 1), (2, 0, 3), (None, 1, 2)])
async def test_5_3_the_tasks_number_else_the_executors(
    engines: Engines, own: int | None, default: int, runs: int
) -> None:
    diary = Diary()
    handler = engines.handler({TYPE: single(fail, default_retries=default)}, diary=diary)
    await handler.add_tasks([make_task(retries=own, retry_after=0)])
    await handler.drain(PATIENCE)
    assert len(diary.of("on_task_started")) == runs


async def test_5_3_a_retry_policy_replaces_both(still: Engines) -> None:
    seen: list[tuple[int, str]] = []

    def policy(task: Task[Any], error: BaseException) -> float | None:
        seen.append((task.retry_count, str(error)))
        return 5.0 if task.retry_count < 2 else None

    handler = still.handler({TYPE: single(fail, retry_policy=policy)})
    [task] = await handler.add_tasks([make_task(retries=0, force_store=True)])
    for _ in range(3):
        assert (await run_batch(handler)).claimed == 1
        await still.pass_time(5)
    assert seen == [(0, "no"), (1, "no"), (2, "no")]
    assert await still.status(task) is TaskStatus.FAILED


@pytest.mark.parametrize("answer", [math.inf, 1e300, "soon", ValueError("x"), SystemExit(1)])
async def test_5_3_a_retry_policy_that_misbehaves_costs_no_retry(
    engines: Engines, answer: Any
) -> None:
    def policy(task: Task[Any], error: BaseException) -> Any:
        if isinstance(answer, BaseException):
            raise answer
        return answer

    handler = engines.handler({TYPE: single(fail, retry_policy=policy, default_retries=1)})
    [task] = await handler.add_tasks([make_task(force_store=True)])
    assert (await run_batch(handler)).retried == 1
    kept = await engines.stored(task)
    assert kept is not None
    assert kept.retry_count == 1
    assert not kept.status.terminal


async def test_5_3_in_a_multi_executor_each_task_has_its_own_retries(engines: Engines) -> None:
    calls: list[list[tuple[Any, int]]] = []

    async def on_tasks(tasks: Sequence[Task[Any]], actions: Any) -> None:
        calls.append([(task.payload, task.retry_count) for task in tasks])
        for task in tasks:
            actions.fail(task, "no")

    handler = engines.handler({TYPE: multi(on_tasks)})
    await handler.add_tasks([make_task(n, retries=n, retry_after=0) for n in range(3)])
    for _ in range(3):
        await run_batch(handler)
    assert calls == [[(0, 0), (1, 0), (2, 0)], [(1, 1), (2, 1)], [(2, 2)]]


# 5.4, 5.5


@pytest.mark.parametrize("force_store", [False, True])
@pytest.mark.parametrize("store_on_failure", [False, True])
async def test_5_4_a_retry_is_stored_if_the_task_is_or_its_executor_wants_it(
    memory: Engines, force_store: bool, store_on_failure: bool
) -> None:
    executor = single(fail, default_retries=1, store_on_failure=store_on_failure)
    handler = memory.handler({TYPE: executor})
    [task] = await handler.add_tasks([make_task(force_store=force_store)])
    await run_batch(handler)
    expected = TaskStatus.QUEUED if force_store or store_on_failure else None
    assert await memory.status(task) is expected
    await memory.pass_time(2)
    assert await memory.queue.depth(QUEUE) == 1


async def test_5_4_where_the_queue_cannot_keep_time_it_waits_in_the_storage(
    memory: Engines,
) -> None:
    executor = single(fail, default_retries=1, store_on_failure=False)
    handler = memory.handler({TYPE: executor}, parts=memory.meddled(delay=False))
    [task] = await handler.add_tasks([make_task()])
    await run_batch(handler)
    assert await memory.status(task) is TaskStatus.SCHEDULED
    await memory.pass_time(2)
    assert await memory.queue.depth(QUEUE) == 0
    assert await handler.move_mature_tasks() == 1
    assert (await run_batch(handler)).failed == 1


@pytest.mark.parametrize(("force_store", "store_on_failure"), [(True, False), (False, True)])
async def test_5_5_used_up_and_stored_or_wanted_it_is_failed_in_the_storage(
    engines: Engines, force_store: bool, store_on_failure: bool
) -> None:
    diary = Diary()
    executor = single(fail, store_on_failure=store_on_failure)
    handler = engines.handler({TYPE: executor}, diary=diary)
    [task] = await handler.add_tasks([make_task(force_store=force_store)])
    await run_batch(handler)
    assert await engines.status(task) is TaskStatus.FAILED
    assert len(diary.of("on_task_exhausted")) == 1
    assert diary.of("on_tasks_discarded") == []


async def test_5_5_neither_it_is_discarded_counted_and_told(memory: Engines) -> None:
    diary = Diary()
    executor = single(fail, store_on_failure=False)
    handler = memory.handler({TYPE: executor}, diary=diary)
    [task, *_] = await handler.add_tasks([make_task(n) for n in range(3)])
    await run_batch(handler)
    assert await memory.status(task) is None
    assert await memory.is_empty()
    assert len(diary.of("on_task_exhausted")) == 3
    assert sum(event.count for event in diary.of("on_tasks_discarded")) == 3
    assert diary.of("on_tasks_discarded")[-1].last_24_hours == 3


async def test_5_5_discards_are_counted_over_the_last_24_hours(memory: Engines) -> None:
    diary = Diary()
    executor = single(fail, store_on_failure=False)
    handler = memory.handler({TYPE: executor}, diary=diary)
    for hours in (0, 2, 23):  # the first one is 25 hours old at the end
        await memory.pass_time(timedelta(hours=hours))
        await handler.add_tasks([make_task()])
        await run_batch(handler)
    assert [event.last_24_hours for event in diary.of("on_tasks_discarded")] == [1, 2, 2]


async def test_5_5_where_the_storage_is_the_queue_nothing_is_discarded(sql: Engines) -> None:
    handler = sql.handler({TYPE: single(fail, store_on_failure=False)})
    [task] = await handler.add_tasks([make_task()])
    await run_batch(handler)
    assert await sql.status(task) is TaskStatus.FAILED
