"""SPEC 4.7, 4.8, and of 3.4 what concerns work in hand: time-outs, threads, being cancelled."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest

from harness import (
    PATIENCE,
    QUEUE,
    TYPE,
    Diary,
    Engines,
    Notes,
    Runs,
    make_task,
    multi,
    parallel,
    serving,
    single,
    until,
)
from taskloom import BatchSummary, Task, TaskHandler, TaskStatus, TaskTimeoutError, log_context

# What is looked at here comes to pass in the worker, the same on every engine.
pytestmark = pytest.mark.on("memory", "sqlite")

SHORT = 0.02
"""Seconds until an executor's time-out, which is what these tests wait for."""


async def run_batch(handler: TaskHandler, limit: int = 10) -> BatchSummary:
    async with asyncio.timeout(PATIENCE):
        return await handler.process_batch(QUEUE, limit)


class Threaded:
    """A plain `def` executor that hangs in its thread until `go`; then it says success."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.go = threading.Event()
        self.started: Notes[Task[Any]] = Notes()
        self.ended = asyncio.Event()
        self.contexts: list[dict[str, str]] = []
        self.threads: set[int] = set()

    def __call__(self, task: Task[Any], actions: Any) -> None:
        self.threads.add(threading.get_ident())
        self.loop.call_soon_threadsafe(self.started.note, task)
        self.go.wait(PATIENCE)
        self.contexts.append(log_context())
        actions.success(task, "late")
        self.loop.call_soon_threadsafe(self.ended.set)


@pytest.fixture
async def threaded() -> AsyncIterator[Threaded]:
    made = Threaded()
    yield made
    made.go.set()


# 4.7


async def hang(given: Any, actions: Any) -> None:
    await asyncio.Event().wait()


async def swallow(given: Any, actions: Any) -> None:
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        return


@pytest.mark.parametrize("function", [hang, swallow], ids=["hangs", "swallows"])
@pytest.mark.parametrize("kind", [single, parallel, multi])
async def test_4_7_past_its_timeout_cancelled_and_failed_with_a_timeout_error(
    engines: Engines, kind: Any, function: Callable[..., Any]
) -> None:
    diary = Diary()
    handler = engines.handler({TYPE: kind(function, timeout=SHORT)}, diary=diary)
    [task] = await handler.add_tasks([make_task(force_store=True)])
    assert (await run_batch(handler)).failed == 1
    assert await engines.status(task) is TaskStatus.FAILED
    [failed] = diary.of("on_task_failed")
    assert isinstance(failed.error, TaskTimeoutError)


async def test_4_7_a_timeout_is_retried_like_any_failure(engines: Engines) -> None:
    async def on_task(task: Task[Any], actions: Any) -> None:
        if task.retry_count == 0:
            await asyncio.Event().wait()
        actions.success(task)

    handler = engines.handler({TYPE: single(on_task, timeout=SHORT, default_retries=1)})
    await handler.add_tasks([make_task(retry_after=0)])
    assert (await run_batch(handler)).retried == 1
    assert (await run_batch(handler)).succeeded == 1


async def test_4_7_a_word_before_the_timeout_counts(engines: Engines) -> None:
    async def on_task(task: Task[Any], actions: Any) -> None:
        actions.success(task)
        await asyncio.Event().wait()

    handler = engines.handler({TYPE: single(on_task, timeout=SHORT)})
    await handler.add_tasks([make_task()])
    assert (await run_batch(handler)).succeeded == 1


async def test_4_7_of_a_multi_executor_only_what_has_no_word_fails(engines: Engines) -> None:
    async def on_tasks(tasks: Sequence[Task[Any]], actions: Any) -> None:
        actions.success(tasks[0])
        await asyncio.Event().wait()

    handler = engines.handler({TYPE: multi(on_tasks, timeout=SHORT)})
    await handler.add_tasks([make_task(n) for n in range(3)])
    summary = await run_batch(handler)
    assert (summary.succeeded, summary.failed) == (1, 2)


async def test_4_7_the_users_own_timeout_stays_what_it_is(engines: Engines) -> None:
    async def on_task(task: Task[Any], actions: Any) -> None:
        async with asyncio.timeout(0.001):
            await asyncio.Event().wait()

    diary = Diary()
    handler = engines.handler({TYPE: single(on_task, timeout=60)}, diary=diary)
    await handler.add_tasks([make_task()])
    await run_batch(handler)
    [failed] = diary.of("on_task_failed")
    assert isinstance(failed.error, TimeoutError)
    assert not isinstance(failed.error, TaskTimeoutError)


async def test_4_7_the_next_task_has_its_whole_time(engines: Engines) -> None:
    async def on_task(task: Task[Any], actions: Any) -> None:
        if task.payload == "slow":
            await asyncio.Event().wait()
        actions.success(task)

    handler = engines.handler({TYPE: single(on_task, timeout=SHORT)})
    await handler.add_tasks([make_task("slow"), make_task("quick"), make_task("quick")])
    summary = await run_batch(handler)
    assert (summary.failed, summary.succeeded) == (1, 2)


# 4.8


@pytest.mark.parametrize("kind", [single, multi])
async def test_4_8_a_plain_def_runs_in_a_thread_and_does_not_block_the_loop(
    engines: Engines, kind: Any
) -> None:
    loop, go, entered = asyncio.get_running_loop(), threading.Event(), asyncio.Event()

    def work(given: Any, actions: Any) -> None:
        loop.call_soon_threadsafe(entered.set)
        assert go.wait(PATIENCE)
        actions.success(given if isinstance(given, Task) else given[0])

    handler = engines.handler({TYPE: kind(work)})
    await handler.add_tasks([make_task()])
    running = asyncio.create_task(run_batch(handler))
    await until(entered)  # the loop turns while the thread waits
    go.set()
    assert (await running).succeeded == 1


async def test_4_8_the_log_context_is_there_in_the_thread(
    engines: Engines, threaded: Threaded
) -> None:
    threaded.go.set()
    handler = engines.handler({TYPE: single(threaded)})
    [task] = await handler.add_tasks([make_task()])
    assert (await run_batch(handler)).succeeded == 1
    assert threaded.contexts[0]["task_id"] == task.id
    assert threading.get_ident() not in threaded.threads


async def test_4_8_a_thread_that_was_cancelled_speaks_in_vain_and_that_is_logged(
    engines: Engines, threaded: Threaded, caplog: pytest.LogCaptureFixture
) -> None:
    handler = engines.handler({TYPE: single(threaded, timeout=SHORT)})
    [task] = await handler.add_tasks([make_task(force_store=True)])
    assert (await run_batch(handler)).failed == 1
    threaded.go.set()
    await until(threaded.ended)
    assert f"task {task.id} said success after its end" in caplog.text
    kept = await engines.stored(task)
    assert kept is not None
    assert kept.status is TaskStatus.FAILED
    assert "timeout" in kept.execution_stats["last_error"]


async def test_4_8_a_thread_that_hangs_does_not_hold_up_its_lane(
    engines: Engines, threaded: Threaded
) -> None:
    handler = engines.handler({TYPE: single(threaded, timeout=SHORT)})
    await handler.add_tasks([make_task(n) for n in range(3)])
    assert (await run_batch(handler)).failed == 3
    await threaded.started.reach(3)


# 3.4: what runs when the worker stops


async def in_its_grace() -> None:
    """Wait until a worker that was told to stop claims no more and waits for what runs."""
    claiming = [task for task in asyncio.all_tasks() if task.get_name() == f"taskloom-{QUEUE}"]
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*claiming, return_exceptions=True)
    for _ in range(20):  # turns of the loop until it waits
        await asyncio.sleep(0)


async def test_3_4_what_runs_gets_its_grace_and_is_settled(engines: Engines) -> None:
    gate = asyncio.Event()
    runs = Runs(gate)
    handler = engines.handler({TYPE: single(runs)}, shutdown_grace_period=PATIENCE)
    [running, waiting] = await handler.add_tasks([make_task(n, force_store=True) for n in (1, 2)])
    async with serving(handler) as stop:
        await runs.reach(1)
        stop.set()
        await in_its_grace()
        assert runs.finished == []
        gate.set()
    assert await engines.status(running) is TaskStatus.EXECUTED
    assert runs.payloads == [1]
    [delivery] = await engines.queue.claim(QUEUE, 10, lease=60)
    assert (delivery.task.id, delivery.delivery_count) == (waiting.id, 1)


@pytest.mark.parametrize("end", ["grace over", "cancelled", "cancelled in its grace"])
async def test_3_4_what_is_left_is_cancelled_and_runs_elsewhere_at_once(
    engines: Engines, end: str
) -> None:
    runs, cancelled = Runs(asyncio.Event()), asyncio.Event()

    async def on_task(task: Task[Any], actions: Any) -> None:
        try:
            await runs(task, actions)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    grace = 0.0 if end == "grace over" else 3600.0
    handler = engines.handler({TYPE: single(on_task)}, shutdown_grace_period=grace)
    [task] = await handler.add_tasks([make_task(force_store=True)])
    stop = asyncio.Event()
    work = asyncio.create_task(handler.serve(stop=stop))
    await runs.reach(1)
    if end != "cancelled":
        stop.set()
        await asyncio.sleep(0)
    if end != "grace over":
        work.cancel()
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(work, return_exceptions=True)
    assert work.cancelled() == (end != "grace over")
    assert cancelled.is_set()
    [delivery] = await engines.queue.claim(QUEUE, 10, lease=60)
    assert (delivery.task.id, delivery.delivery_count) == (task.id, 1)


async def test_3_4_a_thread_that_hangs_does_not_hold_up_the_end(
    engines: Engines, threaded: Threaded, caplog: pytest.LogCaptureFixture
) -> None:
    handler = engines.handler({TYPE: single(threaded)}, shutdown_grace_period=0)
    [task] = await handler.add_tasks([make_task()])
    async with serving(handler):
        await threaded.started.reach(1)
    await handler.close()
    [delivery] = await engines.queue.claim(QUEUE, 10, lease=60)
    assert delivery.task.id == task.id
    threaded.go.set()
    await until(threaded.ended)
    assert "after its end; ignored" in caplog.text


async def test_3_4_one_that_ignores_being_cancelled_does_not_hold_up_the_end(
    engines: Engines,
) -> None:
    started, let_go, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def stubborn(task: Task[Any], actions: Any) -> None:
        started.set()
        while not let_go.is_set():
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                continue
        actions.success(task)
        ended.set()

    handler = engines.handler({TYPE: single(stubborn)}, shutdown_grace_period=0)
    [task] = await handler.add_tasks([make_task(force_store=True)])
    async with serving(handler):
        await until(started)
    [delivery] = await engines.queue.claim(QUEUE, 10, lease=60)
    assert delivery.task.id == task.id
    let_go.set()
    await until(ended)
    await handler.close()
    assert await engines.status(task) is not TaskStatus.EXECUTED
    assert await engines.queue.extend([delivery], 60) == []  # still the other one's
