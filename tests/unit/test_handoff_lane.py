"""Lanes that hand off: what counts as a slot, and what reaches a run that has left its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from taskloom import ParallelTaskExecutor, Task, TaskQueuesManager, TaskRunner, TaskTimeoutError
from taskloom.executors import AsyncConfig
from taskloom.handoff import AsyncTaskManager
from taskloom.lanes import HandoffLane, Lane
from taskloom.memory import InMemoryCache, InMemoryQueue
from taskloom.outcomes import Delivery, Outcome, Word
from taskloom.testing import ManualClock

PATIENCE = 5.0
SOON = AsyncConfig(handoff_timeout=0.01)


class Holder:
    """Hears the outcomes, by task id."""

    trusted_until = float("inf")

    def __init__(self) -> None:
        self.outcomes: dict[str, Outcome] = {}
        self.news = asyncio.Event()

    def ended(self, outcome: Outcome) -> None:
        assert outcome.delivery.task.id not in self.outcomes, "one outcome each"
        self.outcomes[outcome.delivery.task.id] = outcome
        self.news.set()

    async def reach(self, *ids: str) -> list[Word]:
        async with asyncio.timeout(PATIENCE):
            while not self.outcomes.keys() >= set(ids):
                self.news.clear()
                await self.news.wait()
        return [self.outcomes[id].word for id in ids]


class Bench:
    """A lane with so many slots, whose tasks wait for their gates."""

    def __init__(self, slots: int = 1, max_tasks: int = 100, config: AsyncConfig = SOON) -> None:
        self.clock = ManualClock()
        self.manager = AsyncTaskManager(max_tasks, default_max_duration=1, clock=self.clock)
        self.holder = Holder()
        self.started: asyncio.Queue[str] = asyncio.Queue()
        self.handed_off: asyncio.Queue[str] = asyncio.Queue()
        self.since: dict[str, float] = {}
        """When each run began."""
        self.gates: dict[str, asyncio.Event] = {}
        self.reactions: dict[str, str] = {}
        """Those that swallow a cancellation, and what they do then: go on, succeed, or return."""
        executor = ParallelTaskExecutor(
            self.on_task, chunk_size=slots, store_on_failure=False, async_config=config
        )
        queues = TaskQueuesManager(InMemoryQueue())
        queues.register("q", "t", executor)
        self.runner = TaskRunner(queues, InMemoryCache(), async_task_manager=self.manager)
        self.runner.handoff_listeners.append(
            lambda delivery, holder: self.handed_off.put_nowait(delivery.task.id)
        )
        lane = self.runner.lane("q", "t")
        assert isinstance(lane, HandoffLane)
        self.lane: Lane = lane

    async def on_task(self, task: Task[Any], actions: Any) -> None:
        gate = self.gates.setdefault(task.id, asyncio.Event())
        self.since[task.id] = time.monotonic()
        self.started.put_nowait(task.id)
        try:
            await gate.wait()
        except asyncio.CancelledError:
            reaction = self.reactions.get(task.id)
            if reaction is None:
                raise
            if reaction == "return":
                return
            if reaction == "go on":
                await gate.wait()
        actions.success(task)

    def feed(self, *ids: str) -> list[Delivery]:
        made = [Delivery(Task(type="t", queue_id="q", payload=None, id=id), None) for id in ids]
        self.lane.feed([(delivery, self.holder) for delivery in made])
        return made

    async def lasted(self) -> str:
        """The next one that is handed off, which has run for `handoff_timeout` of 0.2 s."""
        id = await self.next(self.handed_off)
        assert time.monotonic() - self.since[id] > 0.19
        return id

    async def next(self, queue: asyncio.Queue[str]) -> str:
        async with asyncio.timeout(PATIENCE):
            return await queue.get()

    def end(self, *ids: str) -> None:
        for id in ids:
            self.gates.setdefault(id, asyncio.Event()).set()


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    yield made
    made.end(*made.gates)
    async with asyncio.timeout(PATIENCE):
        await made.lane.wait_idle()
    assert made.manager.get_metrics().active_task_count == 0


async def test_what_was_handed_off_runs_and_holds_no_slot(bench: Bench) -> None:
    bench.feed("a", "b")
    assert await bench.next(bench.handed_off) == "a"
    assert await bench.next(bench.handed_off) == "b"
    lane = bench.lane
    assert (lane.running, lane.in_hand, lane.finished) == (2, 0, 2)
    assert sorted(lane.running_ids()) == ["a", "b"]
    assert bench.runner.handed_off_ids() == {"a", "b"}
    bench.end("a", "b")
    assert await bench.holder.reach("a", "b") == [Word.SUCCESS, Word.SUCCESS]
    await lane.wait_idle()
    assert (lane.running, lane.in_hand, lane.finished) == (0, 0, 2)
    assert bench.runner.handed_off_ids() == set()


async def test_the_end_of_a_handed_off_run_frees_no_second_slot(bench: Bench) -> None:
    bench.feed("a")
    await bench.next(bench.handed_off)
    await bench.manager.shutdown(_already_set())  # no room any more
    bench.feed("b", "c")
    assert [await bench.next(bench.started) for _ in range(2)] == ["a", "b"]
    bench.end("a")
    await bench.holder.reach("a")
    for _ in range(10):
        await asyncio.sleep(0)
    assert bench.started.empty(), "the slot is with b"
    bench.end("b", "c")
    await bench.holder.reach("b", "c")


async def test_a_run_that_ends_at_once_is_offered_to_nobody() -> None:
    bench = Bench(config=AsyncConfig(handoff_timeout=0))
    bench.end("a", "b")  # their gates are open: they never wait
    bench.feed("a", "b")
    await bench.holder.reach("a", "b")
    await bench.lane.wait_idle()
    assert bench.manager.get_metrics().total_handed_off == 0


@pytest.mark.parametrize("word", [Word.RELEASED, Word.LOST])
async def test_withdrawing_reaches_what_was_handed_off(bench: Bench, word: Word) -> None:
    [first, _] = bench.feed("a", "b")
    await bench.next(bench.handed_off)
    bench.runner.withdraw([first], word)
    assert await bench.holder.reach("a") == [word]
    bench.end("b")
    assert await bench.holder.reach("b") == [Word.SUCCESS]


async def test_a_stop_releases_what_was_handed_off_and_does_not_react(bench: Bench) -> None:
    bench.reactions["a"] = "go on"
    bench.feed("a", "b")
    for _ in range(2):
        await bench.next(bench.handed_off)
    await bench.runner.stop(["q"], 0.0, asyncio.Event())
    assert await bench.holder.reach("a", "b") == [Word.RELEASED, Word.RELEASED]
    assert bench.lane.in_hand == 0
    bench.end("a")  # it succeeds now, and nobody hears of it


async def test_one_that_is_being_stopped_is_not_handed_off() -> None:
    bench = await _just_started(handoff_timeout=0.1)
    await bench.runner.stop(["q"], 0.0, asyncio.Event())  # it gets a second to react
    assert await bench.holder.reach("a") == [Word.RELEASED]
    assert bench.handed_off.empty()
    bench.end("a")


async def _just_started(handoff_timeout: float) -> Bench:
    """A lane in which "a" runs, which goes on when it is stopped, and was not yet handed off."""
    while True:
        bench = Bench(config=AsyncConfig(handoff_timeout=handoff_timeout))
        bench.reactions["a"] = "go on"
        bench.feed("a")
        await bench.next(bench.started)
        if time.monotonic() - bench.since["a"] < handoff_timeout:
            return bench
        bench.end("a")  # the machine stood still for so long
        await bench.holder.reach("a")
        await bench.lane.wait_idle()


async def test_the_time_of_one_run_is_not_counted_for_the_next() -> None:
    bench = Bench(config=AsyncConfig(handoff_timeout=0.2))
    bench.feed("a", "b")
    await bench.next(bench.started)
    await asyncio.sleep(0.1)  # the time of the lane's event loop is what is looked at
    bench.end("a")
    while await bench.lasted() != "b":  # it was "a" where the machine stood still meanwhile
        pass
    bench.end("b")
    await bench.holder.reach("a", "b")
    await bench.lane.wait_idle()


# Evicted


async def _evict(bench: Bench, id: str) -> Outcome:
    bench.feed(id)
    await bench.next(bench.handed_off)
    await bench.clock.advance(5)
    await bench.holder.reach(id)
    return bench.holder.outcomes[id]


async def test_one_that_was_evicted_fails_with_a_timeout(bench: Bench) -> None:
    outcome = await _evict(bench, "a")
    assert outcome.word is Word.FAILURE
    assert outcome.failure is not None
    assert isinstance(outcome.failure.error, TaskTimeoutError)
    assert outcome.failure.message == "cancelled 5.0 s after it was handed off"


async def test_also_when_it_swallows_its_cancellation_and_says_nothing(bench: Bench) -> None:
    bench.reactions["a"] = "return"
    outcome = await _evict(bench, "a")
    assert outcome.failure is not None
    assert isinstance(outcome.failure.error, TaskTimeoutError)


async def test_what_it_says_when_it_is_cancelled_counts(bench: Bench) -> None:
    bench.reactions["a"] = "succeed"
    outcome = await _evict(bench, "a")
    assert outcome.word is Word.SUCCESS
    assert bench.manager.get_metrics().total_timed_out == 1


async def test_one_that_lost_its_lease_is_lost_though_it_was_evicted_too(bench: Bench) -> None:
    bench.reactions["a"] = "go on"
    [delivery] = bench.feed("a")
    await bench.next(bench.handed_off)
    await bench.clock.advance(5)
    assert bench.manager.get_metrics().total_timed_out == 1
    bench.runner.withdraw([delivery], Word.LOST)
    bench.end("a")
    assert await bench.holder.reach("a") == [Word.LOST]


async def test_an_evicted_run_counts_against_its_types_bound_until_it_has_ended() -> None:
    bench = Bench(config=AsyncConfig(handoff_timeout=0.01, max_concurrent_async=1))
    bench.reactions["a"] = "go on"
    bench.feed("a", "b")
    await bench.next(bench.handed_off)
    await bench.clock.advance(5)
    assert not bench.manager.is_handed_off("a")
    assert bench.runner.handed_off_ids() == {"a"}
    bench.end("a")
    assert await bench.next(bench.handed_off) == "b"
    bench.end("b")
    await bench.holder.reach("a", "b")
    await bench.lane.wait_idle()


def _already_set() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event
