"""FAULTS F5: whatever user code raises is a failed attempt, never the worker's end."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Callable
from typing import Any

import pytest

from harness import QUEUE, TYPE, Diary, Engines, Runs, make_task, multi, parallel, serving, single
from taskloom import Executor, Task, TaskStatus

# What is looked at here comes to pass in the worker, the same on every engine.
pytestmark = pytest.mark.on("memory", "sqlite")


class Odd(BaseException):
    """An exception that `except Exception` does not see."""


def _recurse() -> None:
    _recurse()


def _raising(error: BaseException) -> Callable[[], None]:
    def body() -> None:
        raise error

    return body


BODIES: dict[str, Callable[[], Callable[[], None]]] = {
    "SystemExit": lambda: _raising(SystemExit(3)),
    "KeyboardInterrupt": lambda: _raising(KeyboardInterrupt()),
    "CancelledError": lambda: _raising(asyncio.CancelledError()),
    "future CancelledError": lambda: _raising(concurrent.futures.CancelledError()),
    "GeneratorExit": lambda: _raising(GeneratorExit()),
    "StopIteration": lambda: _raising(StopIteration(1)),
    "StopAsyncIteration": lambda: _raising(StopAsyncIteration()),
    "TimeoutError": lambda: _raising(TimeoutError("theirs")),
    "MemoryError": lambda: _raising(MemoryError()),
    "RecursionError": lambda: _recurse,
    "BaseException": lambda: _raising(Odd("odd")),
    "ExceptionGroup": lambda: _raising(BaseExceptionGroup("g", [Odd(), SystemExit()])),
}


def _async(body: Callable[[], None]) -> Callable[..., Any]:
    async def on_task(task: Any, actions: Any) -> None:
        await asyncio.sleep(0)
        body()

    return on_task


def _plain(body: Callable[[], None]) -> Callable[..., Any]:
    def on_task(task: Any, actions: Any) -> None:
        body()

    return on_task


EXECUTORS: dict[str, Callable[[Callable[[], None]], Executor]] = {
    "single": lambda body: single(_async(body)),
    "parallel": lambda body: parallel(_async(body)),
    "multi": lambda body: multi(_async(body)),
    "single with a timeout": lambda body: single(_async(body), timeout=60),
    "single def": lambda body: single(_plain(body)),
    "multi def": lambda body: multi(_plain(body)),
}


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("body", BODIES)
async def test_f5_is_a_failed_attempt_and_the_worker_lives(
    memory: Engines, executor: str, body: str
) -> None:
    runs, diary = Runs(), Diary()
    executors = {"bad": EXECUTORS[executor](BODIES[body]()), TYPE: single(runs)}
    handler = memory.handler(executors, diary=diary)
    (task,) = await handler.add_tasks([make_task(type="bad")])
    async with serving(handler):
        (failed,) = await diary.told("on_task_failed")
        await handler.add_tasks([make_task("the worker lives")])
        await runs.finished.reach(1)
    assert not failed.will_retry
    found = await memory.stored(task)
    assert found is not None
    assert found.status is TaskStatus.FAILED
    assert found.execution_stats["last_error"]


@pytest.mark.parametrize("body", BODIES)
async def test_f5_it_is_retried_like_any_failure(engines: Engines, body: str) -> None:
    attempts: list[int] = []

    async def flaky(task: Task[Any], actions: Any) -> None:
        attempts.append(task.retry_count)
        if not task.retry_count:
            BODIES[body]()()
        actions.success(task)

    handler = engines.handler({TYPE: single(flaky)})
    await handler.add_tasks([make_task(retries=1, retry_after=0)])
    async with asyncio.timeout(10):
        assert (await handler.process_batch(QUEUE)).retried == 1
        assert (await handler.process_batch(QUEUE)).succeeded == 1
    assert attempts == [0, 1]


async def test_f5_one_bad_task_does_not_fail_its_claim(engines: Engines) -> None:
    async def picky(task: Task[Any], actions: Any) -> None:
        if task.payload == 3:
            raise KeyboardInterrupt
        actions.success(task)

    handler = engines.handler({TYPE: parallel(picky)})
    await handler.add_tasks([make_task(n) for n in range(8)])
    summary = await handler.process_batch(QUEUE)
    assert (summary.succeeded, summary.failed) == (7, 1)


async def test_f5_a_cancelled_error_of_user_code_during_stop_is_a_failure(
    engines: Engines,
) -> None:
    gate = asyncio.Event()
    runs, diary = Runs(), Diary()

    async def work(task: Task[Any], actions: Any) -> None:
        runs.note(task)
        await gate.wait()
        raise asyncio.CancelledError

    handler = engines.handler({TYPE: single(work)}, diary=diary)
    (task,) = await handler.add_tasks([make_task()])
    async with serving(handler) as stop:
        await runs.reach(1)
        stop.set()
        gate.set()
    assert await engines.status(task) is TaskStatus.FAILED
