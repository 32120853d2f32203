"""SPEC 4.9, FAULTS F5 and D5: whatever user code raises, in whatever shape it comes."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Generator, Sequence
from typing import Any

import pytest

from harness import PATIENCE, QUEUE, TYPE, Diary, Engines, Runs, make_task, multi, parallel, single
from taskloom import BatchSummary, Task, TaskHandler, TaskStatus, log_context

# What is looked at here comes to pass in the worker, the same on every engine.
pytestmark = pytest.mark.on("memory", "sqlite")


class Odd(BaseException):
    """Neither an Exception nor anything Python knows."""


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("cannot be said")

    __repr__ = __str__


def deep(depth: int = 0) -> int:
    return deep(depth + 1) + 1


def out_of_memory() -> None:
    bytearray(2**62)


def raising(error: BaseException) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


ACTS: dict[str, Callable[[], Any]] = {
    "SystemExit": raising(SystemExit(3)),
    "KeyboardInterrupt": raising(KeyboardInterrupt()),
    "CancelledError": raising(asyncio.CancelledError()),
    "RecursionError": deep,
    "MemoryError": out_of_memory,
    "GeneratorExit": raising(GeneratorExit()),
    "StopIteration": lambda: next(iter(())),
    "StopAsyncIteration": raising(StopAsyncIteration()),
    "Odd": raising(Odd("odd")),
    "group": raising(BaseExceptionGroup("both", [SystemExit(1), ValueError("x")])),
    "unspeakable": raising(Unspeakable()),
}


async def run_batch(handler: TaskHandler, limit: int = 10) -> BatchSummary:
    async with asyncio.timeout(PATIENCE):
        return await handler.process_batch(QUEUE, limit)


def bad_first(act: Callable[[], Any], shape: str) -> Any:
    """An executor that succeeds but for the payload "bad", where it acts."""

    async def on_task(task: Task[Any], actions: Any) -> None:
        if task.payload == "bad":
            act()
        actions.success(task)

    async def after_waiting(task: Task[Any], actions: Any) -> None:
        await asyncio.sleep(0)
        await on_task(task, actions)

    def plain(task: Task[Any], actions: Any) -> None:
        if task.payload == "bad":
            act()
        actions.success(task)

    shapes = {"async": on_task, "waiting": after_waiting, "plain": plain}
    return single(shapes[shape])


@pytest.mark.parametrize("shape", ["async", "waiting", "plain"])
@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS.keys())
async def test_4_9_whatever_is_raised_fails_that_task_alone(
    engines: Engines, act: Callable[[], Any], shape: str
) -> None:
    handler = engines.handler({TYPE: bad_first(act, shape)})
    bad, good = await handler.add_tasks([make_task(p, force_store=True) for p in ("bad", "good")])
    summary = await run_batch(handler)
    assert (summary.failed, summary.succeeded) == (1, 1)
    kept = await engines.stored(bad)
    assert kept is not None
    assert kept.status is TaskStatus.FAILED
    assert kept.execution_stats["last_error"]
    assert await engines.status(good) is TaskStatus.EXECUTED


@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS.keys())
async def test_4_9_in_a_multi_executor_it_fails_those_without_a_word(
    engines: Engines, act: Callable[[], Any]
) -> None:
    async def on_tasks(tasks: Sequence[Task[Any]], actions: Any) -> None:
        actions.success(tasks[0])
        if tasks[0].payload == "bad":
            act()
        actions.success(tasks[1])

    handler = engines.handler({TYPE: multi(on_tasks, max_batch=2)})
    await handler.add_tasks([make_task(payload) for payload in ("bad", "bad", "good", "good")])
    summary = await run_batch(handler)
    assert (summary.succeeded, summary.failed) == (3, 1)


@pytest.mark.parametrize("awaits", [False, True])
@pytest.mark.parametrize("speaks", [False, True])
@pytest.mark.parametrize("kind", ["single", "timed", "multi"])
async def test_4_9_a_task_that_cancels_its_own_asyncio_task(
    engines: Engines, kind: str, awaits: bool, speaks: bool
) -> None:
    async def work(given: Any, actions: Any) -> None:
        task = given if isinstance(given, Task) else given[0]
        if speaks or task.payload == "good":
            actions.success(task)
        if task.payload == "bad":
            me = asyncio.current_task()
            assert me is not None
            me.cancel()
            if awaits:
                await asyncio.sleep(0)

    executors = {
        "single": single(work),
        "timed": single(work, timeout=60),
        "multi": multi(work, max_batch=1),
    }
    handler = engines.handler({TYPE: executors[kind]}, diary=Diary())
    await handler.add_tasks([make_task(payload) for payload in ("bad", "good")])
    summary = await run_batch(handler)
    assert (summary.succeeded, summary.failed) == ((2, 0) if speaks else (1, 1))
    assert (await run_batch(handler)).claimed == 0


async def test_4_9_a_cancelled_helper_is_a_failure_and_no_shutdown(engines: Engines) -> None:
    async def on_task(task: Task[Any], actions: Any) -> None:
        helper = asyncio.create_task(asyncio.Event().wait())
        helper.cancel()
        await helper

    diary = Diary()
    handler = engines.handler({TYPE: single(on_task)}, diary=diary)
    await handler.add_tasks([make_task()])
    assert (await run_batch(handler)).failed == 1
    assert isinstance(diary.of("on_task_failed")[0].error, asyncio.CancelledError)


async def too_long() -> None:
    async with asyncio.timeout(0.001):
        await asyncio.Event().wait()


async def one_fails() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.to_thread(int, "x"))
        group.create_task(asyncio.Event().wait())


async def test_4_9_the_tools_of_asyncio_work_inside(engines: Engines) -> None:
    async def on_task(task: Task[Any], actions: Any) -> None:
        with pytest.raises(TimeoutError):
            await too_long()
        async with asyncio.TaskGroup() as group:
            one = group.create_task(asyncio.to_thread(log_context))
            two = group.create_task(asyncio.wait_for(asyncio.sleep(0, "two"), 5))
        with pytest.raises(ExceptionGroup):
            await one_fails()
        actions.success(task, [one.result()["task_id"], two.result()])

    handler = engines.handler({TYPE: single(on_task, timeout=30)})
    [task] = await handler.add_tasks([make_task(force_store=True)])
    assert (await run_batch(handler)).succeeded == 1
    kept = await engines.stored(task)
    assert kept is not None
    assert kept.execution_result == [task.id, "two"]


async def test_4_9_one_bad_task_never_fails_its_batch(engines: Engines) -> None:
    async def on_task(task: Task[Any], actions: Any) -> None:
        if task.payload == 7:
            raise SystemExit(1)
        actions.success(task)

    handler = engines.handler({TYPE: parallel(on_task)})
    await handler.add_tasks([make_task(n) for n in range(20)])
    summary = await run_batch(handler, 20)
    assert (summary.succeeded, summary.failed) == (19, 1)


# Shapes of executors


async def work(task: Task[Any], actions: Any) -> None:
    await asyncio.sleep(0)
    actions.success(task, log_context()["task_id"])


def plain(task: Task[Any], actions: Any) -> None:
    actions.success(task, log_context()["task_id"])


class AsyncCall:
    async def __call__(self, task: Task[Any], actions: Any) -> None:
        await work(task, actions)


class PlainCall:
    def __call__(self, task: Task[Any], actions: Any) -> None:
        plain(task, actions)


class Later:
    """Something to await that is no coroutine."""

    def __init__(self, task: Task[Any], actions: Any) -> None:
        self.args = (task, actions)

    def __await__(self) -> Generator[Any, Any, None]:
        return work(*self.args).__await__()


class Logged:
    """A decorator that is a class."""

    def __init__(self, func: Callable[..., Any]) -> None:
        self.func = func

    def __call__(self, *args: Any) -> Any:
        return Later(*args)


@functools.wraps(work)
def wrapped(*args: Any) -> Any:
    return work(*args)


class Methods:
    async def on_task(self, task: Task[Any], actions: Any) -> None:
        await work(task, actions)

    @staticmethod
    def plainly(task: Task[Any], actions: Any) -> None:
        plain(task, actions)


def with_extra(extra: int, task: Task[Any], actions: Any) -> None:
    plain(task, actions)


async def with_extra_async(extra: int, task: Task[Any], actions: Any) -> None:
    await work(task, actions)


SHAPES: dict[str, Callable[..., Any]] = {
    "async": work,
    "plain": plain,
    "async partial": functools.partial(with_extra_async, 1),
    "partial": functools.partial(with_extra, 1),
    "partial of partial": functools.partial(functools.partial(with_extra_async), 1),
    "async callable": AsyncCall(),
    "callable": PlainCall(),
    "partial of async callable": functools.partial(AsyncCall()),
    "wrapped": wrapped,
    "lambda": lambda task, actions: work(task, actions),
    "method": Methods().on_task,
    "static": Methods.plainly,
    "awaitable": Later,
    "decorator class": Logged(work),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
async def test_4_8_every_shape_of_callable_runs_in_its_context(
    engines: Engines, shape: Callable[..., Any]
) -> None:
    handler = engines.handler({TYPE: single(shape)})
    [task] = await handler.add_tasks([make_task(force_store=True)])
    summary = await run_batch(handler)
    kept = await engines.stored(task)
    assert kept is not None
    assert (summary.succeeded, kept.execution_result) == (1, task.id), kept.execution_stats


async def test_2_9_too_many_children_fail_the_attempt_although_it_swallows_the_error(
    engines: Engines,
) -> None:
    child = make_task("child", type="other", force_store=True)

    async def on_task(task: Task[Any], actions: Any) -> None:
        actions.add_tasks([child])
        try:
            actions.add_tasks([make_task(n, type="other") for n in range(3)])
        except Exception:
            actions.success(task)

    handler = engines.handler({TYPE: single(on_task), "other": single(Runs())}, max_children=3)
    [task] = await handler.add_tasks([make_task(force_store=True)])
    assert (await run_batch(handler)).failed == 1
    kept = await engines.stored(task)
    assert kept is not None
    assert "max_children is 3" in kept.execution_stats["last_error"]
    assert await engines.stored(child) is None
    assert await engines.queue.depth(QUEUE) == 0


async def test_2_9_too_many_children_of_a_batch_fail_all_of_it_although_it_swallows_the_error(
    engines: Engines,
) -> None:
    child = make_task("child", type="other", force_store=True)

    async def on_tasks(tasks: Sequence[Task[Any]], actions: Any) -> None:
        actions.add_tasks([child])
        try:
            actions.add_tasks([make_task(n, type="other") for n in range(9)])
        except Exception:
            for task in tasks:
                actions.success(task)

    handler = engines.handler({TYPE: multi(on_tasks), "other": single(Runs())}, max_children=3)
    await handler.add_tasks([make_task(n) for n in range(2)])
    assert (await run_batch(handler)).failed == 2
    assert await engines.stored(child) is None
    assert await engines.queue.depth(QUEUE) == 0
