"""SPEC 1.3, FAULTS D8, D13: what executors add, options, and log contexts that make no sense."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from harness import QUEUE, TYPE, Diary, Engines, Runs, make_task, multi, parallel, single
from taskloom import (
    MultiTaskExecutor,
    NestingError,
    ParallelTaskExecutor,
    SingleTaskExecutor,
    Task,
    TaskHandlerConfig,
    TaskMetadata,
    TaskStatus,
)

NAIVE = datetime(2030, 1, 1)


def _nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth - 1):
        value = [value]
    return value


def _cycle() -> Any:
    value: dict[str, Any] = {}
    value["me"] = value
    return value


# What an executor adds

BAD_CHILDREN: dict[str, Callable[[], Task[Any]]] = {
    "nan": lambda: make_task(float("nan")),
    "cycle": lambda: make_task(_cycle()),
    "10^5 levels": lambda: make_task(_nested(100_000)),
    "object": lambda: make_task(object()),
    "naive": lambda: make_task(execute_at=NAIVE),
    "emptied id": lambda: make_task().replace(id=""),
}


@pytest.mark.parametrize("why", BAD_CHILDREN)
@pytest.mark.parametrize("through", ["actions", "handler"])
async def test_1_3_a_bad_child_fails_its_parent_alone_and_no_child_is_added(
    engines: Engines, through: str, why: str
) -> None:
    async def parent(task: Task[Any], actions: Any) -> None:
        if task.payload == "bad":
            children = [make_task("fine"), BAD_CHILDREN[why]()]
            if through == "actions":
                actions.add_tasks(children)
            else:
                await handler.add_tasks(children)
        actions.success(task)

    runs = Runs()
    handler = engines.handler({"parent": parallel(parent), TYPE: single(runs)})
    await handler.add_tasks([make_task(p, type="parent") for p in ("bad", "good", "good")])
    summary = await handler.process_batch(QUEUE)
    assert (summary.succeeded, summary.failed) == (2, 1)
    await handler.drain(10)
    assert runs == []


async def test_1_3_a_bad_child_in_a_multi_executor_adds_none_of_its_call(engines: Engines) -> None:
    async def parents(tasks: list[Task[Any]], actions: Any) -> None:
        for task in tasks:
            actions.add_tasks([make_task("fine"), make_task(float("nan"))])
            actions.success(task)

    runs = Runs()
    handler = engines.handler({"parent": multi(parents), TYPE: single(runs)})
    await handler.add_tasks([make_task(type="parent")])
    assert (await handler.process_batch(QUEUE)).failed == 1
    await handler.drain(10)
    assert runs == []


# D8


@pytest.mark.parametrize("through", ["actions", "handler"])
async def test_d8_a_task_that_adds_itself_without_end_is_stopped_by_its_depth(
    engines: Engines, through: str
) -> None:
    ran: list[int] = []

    async def endless(task: Task[Any], actions: Any) -> None:
        ran.append(task.payload)
        child = make_task(task.payload + 1)
        if through == "actions":
            actions.add_tasks([child])
        else:
            await handler.add_tasks([child])
        actions.success(task)

    diary = Diary()
    handler = engines.handler({TYPE: single(endless)}, diary=diary)
    await handler.add_tasks([make_task(0)])
    await handler.drain(40)
    assert ran == list(range(65))  # the first and 64 levels below it
    (failed,) = diary.of("on_task_failed")
    assert isinstance(failed.error, NestingError)


async def test_d8_the_depth_holds_in_multi_executors_with_a_parent(engines: Engines) -> None:
    calls: list[int] = []

    async def endless(tasks: list[Task[Any]], actions: Any) -> None:
        calls.append(len(tasks))
        for task in tasks:
            actions.add_tasks([make_task(len(calls))], parent=task)
            actions.success(task)

    diary = Diary()
    handler = engines.handler({TYPE: multi(endless)}, diary=diary, max_depth=5)
    await handler.add_tasks([make_task(0)])
    await handler.drain(10)
    assert len(calls) == 6
    assert isinstance(diary.of("on_task_failed")[0].error, NestingError)


async def test_d8_a_task_that_adds_itself_twice_is_bounded(engines: Engines) -> None:
    ran: list[int] = []

    async def twice(task: Task[Any], actions: Any) -> None:
        ran.append(1)
        actions.add_tasks([make_task(0), make_task(1)])
        actions.success(task)

    handler = engines.handler({TYPE: parallel(twice)}, max_depth=4)
    await handler.add_tasks([make_task(0)])
    await handler.drain(40)
    assert len(ran) == 2**5 - 1


# Executors and configuration


@pytest.mark.parametrize("value", [-1, 0, float("nan"), "3", timedelta(seconds=-1)], ids=str)
@pytest.mark.parametrize("kind", [SingleTaskExecutor, MultiTaskExecutor])
def test_1_3_an_executors_timeout_that_makes_no_sense_is_refused(kind: Any, value: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="timeout"):
        kind(Runs(), store_on_failure=True, timeout=value)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("default_retries", -1),
        ("default_retries", 1.5),
        ("store_on_failure", "yes"),
        ("retry_policy", 3),
        ("get_partition_key", "key"),
        ("chunk_size", 0),
        ("chunk_size", True),
    ],
)
def test_1_3_options_of_executors_are_checked(option: str, value: Any) -> None:
    options = {"store_on_failure": True, "chunk_size": 1, option: value}
    with pytest.raises((ValueError, TypeError), match=option):
        ParallelTaskExecutor(Runs(), **options)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("lease", 0),
        ("lease", -1),
        ("storage_horizon", float("nan")),
        ("mature_interval", 0),
        ("max_deliveries", 0),
        ("max_children", -1),
        ("shutdown_grace_period", "soon"),
    ],
)
def test_1_3_options_of_handlers_are_checked(option: str, value: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=option):
        TaskHandlerConfig(**{option: value})


# D13


async def test_d13_log_context_keys_of_the_log_record_do_no_harm(
    engines: Engines, caplog: pytest.LogCaptureFixture
) -> None:
    async def work(task: Task[Any], actions: Any) -> None:
        actions.log.info("hello")
        actions.success(task)

    context = {"name": "n", "message": "m", "args": "a", "exc_info": "e", "levelname": "l"}
    caplog.set_level(logging.INFO)
    handler = engines.handler({TYPE: single(work)})
    await handler.add_tasks([make_task(metadata=TaskMetadata(log_context=context))])
    assert (await handler.process_batch(QUEUE)).succeeded == 1
    (record,) = [each for each in caplog.records if each.getMessage() == "hello"]
    assert record.log_context.items() >= context.items()  # type: ignore[attr-defined]


async def test_d13_a_callback_that_raises_changes_nothing(
    engines: Engines, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Diary):
        def on_task_started(self, event: Any) -> None:
            raise KeyError("broken callback")

    diary = Broken()
    handler = engines.handler({TYPE: single(Runs())}, diary=diary)
    (task,) = await handler.add_tasks([make_task(force_store=True)])
    assert (await handler.process_batch(QUEUE)).succeeded == 1
    assert await engines.status(task) is TaskStatus.EXECUTED
    assert "on_task_started" in caplog.text
    await asyncio.sleep(0)
