"""Lanes: slots, batches, what is given up and what is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from datetime import timedelta
from typing import Any

import pytest

from taskloom import MultiTaskExecutor, ParallelTaskExecutor, SingleTaskExecutor, Task
from taskloom.actions import RunSettings
from taskloom.lane import Job, Lane, LaneSettings
from taskloom.lanes import make_lane
from taskloom.outcomes import Delivery, Outcome, Word
from taskloom.testing import ManualClock


class Holder:
    """Hears the outcomes."""

    def __init__(self) -> None:
        self.trusted_until = float("inf")
        self.outcomes: list[Outcome] = []
        self._news = asyncio.Event()

    def ended(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        self._news.set()

    async def reach(self, count: int) -> list[Outcome]:
        async with asyncio.timeout(5):
            while len(self.outcomes) < count:
                self._news.clear()
                await self._news.wait()
        return self.outcomes

    @property
    def words(self) -> dict[str, Word]:
        return {outcome.delivery.task.id: outcome.word for outcome in self.outcomes}


class Observer:
    """Wants to hear of nothing unless told otherwise; can be slow."""

    wants_started = False
    wants_batches = False

    def __init__(self) -> None:
        self.completed = asyncio.Event()

    async def task_started(self, attempt: Any, executor: Any) -> None: ...

    async def batch_started(self, tasks: Any, executor: Any) -> None: ...

    async def batch_completed(self, outcomes: Any, executor: Any, started: float) -> None:
        self.completed.set()
        await asyncio.sleep(0)


class Bench:
    def __init__(self, threads: ThreadPoolExecutor) -> None:
        self.clock = ManualClock()
        self.holder = Holder()
        self.observer = Observer()
        self.started: asyncio.Queue[Any] = asyncio.Queue()
        self.gate = asyncio.Event()
        run = RunSettings(
            worker_id="w",
            max_children=10,
            max_depth=5,
            admit=lambda task: task,
            now=self.clock.now,
            has_barrier=False,
        )
        self.settings = LaneSettings(
            run, self.clock, self.observer, copy_context(), lambda: threads
        )

    def jobs(self, *ids: str, **fields: Any) -> list[Job]:
        tasks = [Task(type="t", queue_id="q", payload=None, id=id, **fields) for id in ids]
        return [(Delivery(task, None), self.holder) for task in tasks]

    async def on_task(self, task: Task[Any], actions: Any) -> None:
        self.started.put_nowait(task.id)
        await self.gate.wait()
        actions.success(task)

    async def on_tasks(self, tasks: Sequence[Task[Any]], actions: Any) -> None:
        self.started.put_nowait([task.id for task in tasks])
        await self.gate.wait()
        for task in tasks:
            actions.success(task)

    def single(self, function: Callable[..., Any] | None = None) -> Lane:
        return make_lane(
            SingleTaskExecutor(function or self.on_task, store_on_failure=False), self.settings
        )

    def parallel(self, slots: int, **options: Any) -> Lane:
        executor = ParallelTaskExecutor(
            self.on_task, chunk_size=slots, store_on_failure=False, **options
        )
        return make_lane(executor, self.settings)

    def multi(self, function: Callable[..., Any] | None = None, **options: Any) -> Lane:
        executor = MultiTaskExecutor(function or self.on_tasks, store_on_failure=False, **options)
        return make_lane(executor, self.settings)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    threads = ThreadPoolExecutor(4)
    made = Bench(threads)
    yield made
    made.gate.set()
    threads.shutdown()


async def test_a_single_lane_runs_one_after_the_other_in_order(bench: Bench) -> None:
    lane = bench.single()
    lane.feed(bench.jobs("a", "b", "c"))
    assert await bench.started.get() == "a"
    assert bench.started.empty()
    assert (lane.running, lane.in_hand) == (1, 3)
    bench.gate.set()
    await bench.holder.reach(3)
    assert [bench.started.get_nowait() for _ in range(2)] == ["b", "c"]
    await lane.wait_idle()
    assert (lane.in_hand, lane.finished) == (0, 3)


async def test_a_parallel_lane_refills_a_slot_as_soon_as_it_is_free(bench: Bench) -> None:
    gates = {id: asyncio.Event() for id in "abc"}

    async def on_task(task: Task[Any], actions: Any) -> None:
        bench.started.put_nowait(task.id)
        await gates[task.id].wait()
        actions.success(task)

    lane = make_lane(
        ParallelTaskExecutor(on_task, chunk_size=2, store_on_failure=False), bench.settings
    )
    lane.feed(bench.jobs("a", "b", "c"))
    assert {await bench.started.get(), await bench.started.get()} == {"a", "b"}
    gates["b"].set()
    assert await bench.started.get() == "c"
    assert lane.running == 2
    gates["a"].set()
    gates["c"].set()
    await bench.holder.reach(3)


async def test_a_multi_lane_takes_all_that_waits_up_to_max_batch(bench: Bench) -> None:
    lane = bench.multi(max_batch=2)
    bench.gate.set()
    lane.feed(bench.jobs("a", "b", "c"))
    await bench.holder.reach(3)
    assert [bench.started.get_nowait() for _ in range(2)] == [["a", "b"], ["c"]]


async def test_shed_gives_up_the_last_ones_and_keeps_the_order(bench: Bench) -> None:
    lane = bench.single()
    lane.feed(bench.jobs("a", "b", "c", "d"))
    await bench.started.get()
    assert [job[0].task.id for job in lane.shed(1)] == ["c", "d"]
    assert lane.shed(1) == []
    bench.gate.set()
    await lane.wait_idle()
    assert bench.holder.words == {"a": Word.SUCCESS, "b": Word.SUCCESS}


@pytest.mark.parametrize("word", [Word.RELEASED, Word.LOST])
async def test_withdraw_ends_what_waits_and_cancels_what_runs(bench: Bench, word: Word) -> None:
    lane = bench.single()
    jobs = bench.jobs("a", "b", "c")
    lane.feed(jobs)
    await bench.started.get()
    lane.withdraw({jobs[0][0], jobs[1][0]}, word)
    assert await bench.started.get() == "c"
    bench.gate.set()
    await bench.holder.reach(3)
    assert bench.holder.words == {"a": word, "b": word, "c": Word.SUCCESS}


async def test_one_that_spoke_before_it_was_cancelled_keeps_its_word(bench: Bench) -> None:
    async def on_task(task: Task[Any], actions: Any) -> None:
        actions.success(task)
        bench.started.put_nowait(task.id)
        await bench.gate.wait()

    lane = bench.single(on_task)
    lane.feed(bench.jobs("a"))
    await bench.started.get()
    lane.cancel_running()
    await bench.holder.reach(1)
    assert bench.holder.words == {"a": Word.SUCCESS}


async def test_one_that_spoke_but_lost_its_lease_is_lost(bench: Bench) -> None:
    async def on_task(task: Task[Any], actions: Any) -> None:
        actions.success(task)
        bench.started.put_nowait(task.id)
        await bench.gate.wait()

    lane = bench.single(on_task)
    jobs = bench.jobs("a")
    lane.feed(jobs)
    await bench.started.get()
    lane.withdraw({jobs[0][0]}, Word.LOST)
    await bench.holder.reach(1)
    assert bench.holder.words == {"a": Word.LOST}


async def test_what_does_not_react_to_cancelling_can_be_abandoned(bench: Bench) -> None:
    async def stubborn(task: Task[Any], actions: Any) -> None:
        bench.started.put_nowait(task.id)
        while not bench.gate.is_set():
            try:
                await bench.gate.wait()
            except asyncio.CancelledError:
                bench.started.put_nowait("cancelled")
        actions.success(task)
        bench.started.put_nowait("end")

    lane = bench.single(stubborn)
    lane.feed(bench.jobs("a"))
    await bench.started.get()
    lane.cancel_running()
    assert await bench.started.get() == "cancelled"
    assert [job[0].task.id for job in lane.abandon()] == ["a"]
    bench.gate.set()
    assert await bench.started.get() == "end"
    await asyncio.sleep(0)
    assert bench.holder.outcomes == []  # whoever abandoned it has spoken already


async def test_what_expired_or_is_no_longer_trusted_does_not_start(bench: Bench) -> None:
    lane = bench.single()
    late = bench.jobs("late", expires_at=bench.clock.now())
    doubtful = bench.jobs("doubtful")
    lane.feed(late)
    await bench.holder.reach(1)
    bench.holder.trusted_until = bench.clock.monotonic() - 1
    lane.feed(doubtful)
    await bench.holder.reach(2)
    assert bench.holder.words == {"late": Word.EXPIRED, "doubtful": Word.RELEASED}
    assert bench.started.empty()


async def test_a_batch_leaves_out_what_expired(bench: Bench) -> None:
    lane = bench.multi()
    bench.gate.set()
    soon = bench.clock.now() + timedelta(seconds=1)
    jobs = bench.jobs("a", expires_at=bench.clock.now()) + bench.jobs("b", expires_at=soon)
    lane.feed(jobs)
    await bench.holder.reach(2)
    assert bench.started.get_nowait() == ["b"]
    assert bench.holder.words == {"a": Word.EXPIRED, "b": Word.SUCCESS}


async def test_a_cancelled_batch_keeps_the_words_that_were_spoken(bench: Bench) -> None:
    async def on_tasks(tasks: Sequence[Task[Any]], actions: Any) -> None:
        actions.success(tasks[0])
        bench.started.put_nowait(None)
        await bench.gate.wait()

    lane = bench.multi(on_tasks)
    lane.feed(bench.jobs("a", "b"))
    await bench.started.get()
    lane.cancel_running()
    await bench.holder.reach(2)
    assert bench.holder.words == {"a": Word.SUCCESS, "b": Word.RELEASED}


async def test_no_outcome_of_a_batch_is_lost_when_its_executor_cancels_itself(
    bench: Bench,
) -> None:
    """The cancellation comes when the next await does: here, while the event is being told."""

    async def on_tasks(tasks: Sequence[Task[Any]], actions: Any) -> None:
        for task in tasks:
            actions.success(task)
        me = asyncio.current_task()
        assert me is not None
        me.cancel()

    bench.observer.wants_batches = True
    lane = bench.multi(on_tasks)
    lane.feed(bench.jobs("a", "b"))
    await bench.holder.reach(2)
    assert bench.holder.words == {"a": Word.SUCCESS, "b": Word.SUCCESS}


async def test_no_outcome_of_a_batch_is_lost_when_it_is_cancelled_while_its_event_is_told(
    bench: Bench,
) -> None:
    bench.observer.wants_batches = True
    lane = bench.multi()
    bench.gate.set()
    lane.feed(bench.jobs("a"))
    await bench.observer.completed.wait()
    lane.cancel_running()
    await bench.holder.reach(1)
    assert bench.holder.words == {"a": Word.SUCCESS}


async def test_a_payload_that_does_not_fit_fails_its_task_alone(bench: Bench) -> None:
    lane = bench.multi(payload_type=int)
    bench.gate.set()
    good = [
        (Delivery(Task(type="t", queue_id="q", payload=payload, id=id), None), bench.holder)
        for id, payload in (("a", 1), ("b", "x"), ("c", 2))
    ]
    lane.feed(good)
    await bench.holder.reach(3)
    assert bench.started.get_nowait() == ["a", "c"]
    assert bench.holder.words == {"a": Word.SUCCESS, "b": Word.FAILURE, "c": Word.SUCCESS}
