"""The AsyncTaskManager: what it refuses, what it evicts, how it ends; and lanes that hand off."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from taskloom import Task
from taskloom.handoff import AsyncTaskManager, ShutdownResult
from taskloom.testing import ManualClock


def make_task(id: str = "a") -> Task[Any]:
    return Task(type="t", queue_id="q", payload=None, id=id)


class Bench:
    """A clock, and runs that go on until they are told to end."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.gates: dict[str, asyncio.Event] = {}
        self.runs: dict[str, asyncio.Task[None]] = {}

    def manager(self, max_tasks: int = 100, **options: Any) -> AsyncTaskManager:
        return AsyncTaskManager(max_tasks, clock=self.clock, **options)

    def run(self, id: str, *, error: Exception | None = None) -> asyncio.Task[None]:
        gate = self.gates[id] = asyncio.Event()

        async def work() -> None:
            await gate.wait()
            if error is not None:
                raise error

        self.runs[id] = asyncio.create_task(work())
        return self.runs[id]

    def hand_off(self, manager: AsyncTaskManager, *ids: str, **options: Any) -> list[bool]:
        return [manager.handoff_task(make_task(id), self.run(id), **options) for id in ids]

    async def end(self, *ids: str) -> None:
        for id in ids:
            self.gates[id].set()
        await asyncio.wait([self.runs[id] for id in ids])
        await asyncio.sleep(0)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    yield made
    for run in made.runs.values():
        run.cancel()
    await asyncio.gather(*made.runs.values(), return_exceptions=True)
    await asyncio.sleep(0)
    left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    assert [task.get_name() for task in left if "taskloom" in task.get_name()] == []


async def test_a_run_is_tracked_until_it_ends(bench: Bench) -> None:
    manager = bench.manager(4)
    assert bench.hand_off(manager, "a", "b") == [True, True]
    assert manager.is_handed_off("a")
    assert not manager.is_handed_off("c")
    await bench.end("a")
    assert not manager.is_handed_off("a")
    assert manager.is_handed_off("b")
    metrics = manager.get_metrics()
    assert (metrics.active_task_count, metrics.total_handed_off) == (1, 2)
    assert (metrics.total_completed, metrics.utilization_percent) == (1, 25.0)


async def test_one_that_fails_or_is_cancelled_has_ended_too(bench: Bench) -> None:
    manager = bench.manager()
    failing = bench.run("a", error=RuntimeError("no"))
    manager.handoff_task(make_task("a"), failing)
    bench.hand_off(manager, "b")
    bench.runs["b"].cancel()
    await bench.end("a", "b")
    assert isinstance(failing.exception(), RuntimeError)
    assert manager.get_metrics().total_completed == 2
    assert manager.get_metrics().active_task_count == 0


async def test_no_id_a_known_id_one_too_many_and_any_after_shutdown_are_refused(
    bench: Bench,
) -> None:
    manager = bench.manager(2)
    assert not manager.handoff_task(make_task(""), bench.run("none"))
    assert bench.hand_off(manager, "a", "a", "b") == [True, False, True]
    assert not manager.can_accept_task()
    assert bench.hand_off(manager, "c") == [False]
    await bench.end("b")
    assert manager.can_accept_task()
    await manager.shutdown(_already_set())
    assert not manager.can_accept_task()
    assert bench.hand_off(manager, "d") == [False]
    metrics = manager.get_metrics()
    assert (metrics.total_handed_off, metrics.total_rejected) == (2, 4)
    assert not bench.runs["d"].cancelled(), "a refused run is left alone"
    for name in ("none", "a", "d"):
        bench.gates[name].set()


async def test_an_id_can_be_handed_off_again_after_it_has_ended(bench: Bench) -> None:
    manager = bench.manager()
    bench.hand_off(manager, "a")
    await bench.end("a")
    assert bench.hand_off(manager, "a") == [True]


async def test_the_end_of_a_refused_run_does_not_free_the_slot_of_another(bench: Bench) -> None:
    manager = bench.manager()
    bench.hand_off(manager, "a")
    first = bench.gates["a"]
    assert bench.hand_off(manager, "a") == [False]
    await bench.end("a")  # the second run
    assert manager.is_handed_off("a")
    assert manager.get_metrics().total_completed == 0
    first.set()


async def test_without_room_at_all_everything_is_refused(bench: Bench) -> None:
    manager = bench.manager(0)
    assert bench.hand_off(manager, "a") == [False]
    assert manager.get_metrics().utilization_percent == 0.0


async def test_the_age_of_the_oldest_and_the_counters(bench: Bench) -> None:
    manager = bench.manager()
    assert manager.get_metrics().oldest_task_age == 0.0
    bench.hand_off(manager, "a")
    await bench.clock.advance(3)
    bench.hand_off(manager, "b")
    await bench.clock.advance(1)
    assert manager.get_metrics().oldest_task_age == 4.0
    await bench.end("a")
    assert manager.get_metrics().oldest_task_age == 1.0
    manager.reset_counters()
    metrics = manager.get_metrics()
    assert (metrics.total_handed_off, metrics.total_completed, metrics.active_task_count) == (
        0,
        0,
        1,
    )
    assert metrics.max_tasks == 100


# The sweep


async def test_a_run_longer_than_its_maximum_is_cancelled_and_told(bench: Bench) -> None:
    told: list[tuple[str, Task[Any], float]] = []
    manager = bench.manager(
        default_max_duration=12, on_task_timeout=lambda *about: told.append(about)
    )
    bench.hand_off(manager, "a")
    await bench.clock.advance(14.9)
    assert manager.is_handed_off("a")
    assert not bench.runs["a"].done()
    await bench.clock.advance(0.1)  # the third sweep
    assert bench.runs["a"].cancelled()
    assert not manager.is_handed_off("a")
    metrics = manager.get_metrics()
    assert (metrics.total_timed_out, metrics.total_completed) == (1, 0)
    [(id, task, duration)] = told
    assert (id, task.id, duration) == ("a", "a", 15.0)


async def test_a_timeout_of_its_own_comes_before_the_default(bench: Bench) -> None:
    manager = bench.manager(default_max_duration=1)
    bench.hand_off(manager, "long", timeout=100)
    bench.hand_off(manager, "short", timeout=0)
    await bench.clock.advance(5)
    assert bench.runs["short"].cancelled()
    assert not bench.runs["long"].done()
    await bench.clock.advance(100)
    assert bench.runs["long"].cancelled()


async def test_whoever_runs_it_can_ask_why_it_was_cancelled(bench: Bench) -> None:
    manager = bench.manager(default_max_duration=1)
    seen: list[float | None] = []

    async def work() -> None:
        me = asyncio.current_task()
        assert me is not None
        try:
            await asyncio.Event().wait()
        finally:
            seen.append(manager.evicted_after(me))

    run = bench.runs["a"] = asyncio.create_task(work())
    await asyncio.sleep(0)
    assert manager.evicted_after(run) is None
    manager.handoff_task(make_task(), run)
    await bench.clock.advance(5)
    assert seen == [5.0]
    assert manager.evicted_after(run) is None, "it has ended: forgotten"


async def test_an_evicted_run_leaves_its_slot_before_it_has_ended(bench: Bench) -> None:
    manager = bench.manager(1, default_max_duration=1)
    gate = asyncio.Event()

    async def stubborn() -> None:
        try:
            await gate.wait()
        except asyncio.CancelledError:
            await gate.wait()

    run = bench.runs["a"] = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    manager.handoff_task(make_task(), run)
    await bench.clock.advance(5)
    assert not run.done()
    assert manager.can_accept_task()
    assert manager.evicted_after(run) == 5.0
    gate.set()
    await run
    await asyncio.sleep(0)
    assert manager.get_metrics().total_completed == 0


@pytest.mark.parametrize("kind", ["sync", "async", "exit"])
async def test_an_error_of_the_callback_is_logged_and_the_sweep_goes_on(
    bench: Bench, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    def callback(id: str, task: Any, duration: float) -> None:
        raise SystemExit(1) if kind == "exit" else RuntimeError("no")

    async def async_callback(id: str, task: Any, duration: float) -> None:
        callback(id, task, duration)

    manager = bench.manager(
        default_max_duration=1,
        on_task_timeout=async_callback if kind == "async" else callback,
    )
    bench.hand_off(manager, "a", "b")
    bench.hand_off(manager, "c", timeout=7)
    await bench.clock.advance(5)
    await bench.clock.advance(5)
    assert all(bench.runs[id].cancelled() for id in "abc")
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 3
    assert "on_task_timeout failed for task a" in errors[0].getMessage()


async def test_a_slow_callback_does_not_hold_up_the_sweep(bench: Bench) -> None:
    asked: list[str] = []

    async def slow(id: str, task: Any, duration: float) -> None:
        asked.append(id)
        await bench.clock.sleep(1000)

    manager = bench.manager(default_max_duration=1, on_task_timeout=slow)
    bench.hand_off(manager, "a")
    bench.hand_off(manager, "b", timeout=7)
    await bench.clock.advance(10)
    assert asked == ["a", "b"]
    await bench.clock.advance(1000)


async def test_no_timer_runs_while_nothing_is_tracked(bench: Bench) -> None:
    manager = bench.manager()
    assert _sweeps() == 0
    bench.hand_off(manager, "a")
    assert _sweeps() == 1
    await bench.end("a")
    await asyncio.sleep(0)
    assert _sweeps() == 0
    bench.hand_off(manager, "b")
    assert _sweeps() == 1


async def test_a_sweep_interval_of_0_evicts_nothing(bench: Bench) -> None:
    manager = bench.manager(sweep_interval=0, default_max_duration=1)
    bench.hand_off(manager, "a")
    await bench.clock.advance(1000)
    assert manager.is_handed_off("a")


# Shutdown


async def test_shutdown_of_an_idle_manager_returns_at_once(bench: Bench) -> None:
    assert await bench.manager().shutdown() == ShutdownResult(0, [])


async def test_shutdown_waits_for_all_of_it(bench: Bench) -> None:
    manager = bench.manager()
    bench.hand_off(manager, "a", "b")
    ending = asyncio.create_task(manager.shutdown())
    await bench.end("a")
    assert not ending.done()
    await bench.end("b")
    assert await ending == ShutdownResult(2, [])


async def test_shutdown_gives_up_after_its_grace_and_cancels_nothing(bench: Bench) -> None:
    manager = bench.manager(shutdown_grace_period=8, default_max_duration=1)
    bench.hand_off(manager, "a", "b", "c")
    ending = asyncio.create_task(manager.shutdown())
    await bench.clock.advance(7.9)
    await bench.end("b")
    assert not ending.done()
    await bench.clock.advance(0.1)
    assert await ending == ShutdownResult(1, ["a", "c"])
    assert not bench.runs["a"].done(), "neither swept nor cancelled"


async def test_abort_ends_the_grace(bench: Bench) -> None:
    manager, abort = bench.manager(), asyncio.Event()
    bench.hand_off(manager, "a")
    ending = asyncio.create_task(manager.shutdown(abort))
    await asyncio.sleep(0)
    assert not ending.done()
    abort.set()
    assert await ending == ShutdownResult(0, ["a"])


async def test_what_ends_after_the_grace_is_still_counted(bench: Bench) -> None:
    manager = bench.manager()
    bench.hand_off(manager, "a")
    assert await manager.shutdown(_already_set()) == ShutdownResult(0, ["a"])
    await bench.end("a")
    assert manager.get_metrics().total_completed == 1
    assert await manager.shutdown() == ShutdownResult(0, [])


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"max_tasks": -1}, "max_tasks"),
        ({"max_tasks": True}, "max_tasks"),
        ({"sweep_interval": -1}, "sweep_interval"),
        ({"default_max_duration": -1}, "default_max_duration"),
        ({"shutdown_grace_period": float("nan")}, "shutdown_grace_period"),
        ({"on_task_timeout": 3}, "on_task_timeout"),
    ],
)
def test_options_that_make_no_sense_are_named(options: dict[str, Any], error: str) -> None:
    with pytest.raises((TypeError, ValueError), match=error):
        AsyncTaskManager(**options)


def _already_set() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


def _sweeps() -> int:
    return sum(task.get_name() == "taskloom-handoff-sweep" for task in asyncio.all_tasks())
