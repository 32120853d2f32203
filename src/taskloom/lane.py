"""A lane: what is claimed of one queue and task type, waiting and running."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor as ThreadPool
from contextvars import Context
from typing import Any, NamedTuple, Protocol, TypeAlias

import msgspec

from taskloom.actions import RunSettings
from taskloom.attempt import Attempt
from taskloom.batch_call import BatchCall
from taskloom.calling import begin, call_in_thread, runs_in_thread
from taskloom.clock import Clock
from taskloom.current import running
from taskloom.errors import TaskTimeoutError
from taskloom.executors import Executor
from taskloom.flows import flow_of_step
from taskloom.handoff import AsyncTaskManager
from taskloom.outcomes import Delivery, Outcome, Word
from taskloom.task import Task

__all__ = ["Holder", "Job", "Lane", "LaneObserver", "LaneSettings", "cancelled_step"]


class Holder(Protocol):
    """Whoever claimed a delivery: knows how far its lease can be trusted, and hears the outcome."""

    trusted_until: float

    def ended(self, outcome: Outcome) -> None: ...


Job: TypeAlias = tuple[Delivery, Holder]
"""A delivery in a lane, and who holds it. A plain tuple: one is made for every task."""


def cancelled_step(delivery: Delivery, reason: str) -> Outcome:
    """The outcome of a step that is not to start any more."""
    return Outcome(delivery, Word.CANCELLED, notes={"cancelled_reason": reason})


class LaneObserver(Protocol):
    """Hears when work starts and when a batch call ends: the events' source."""

    wants_started: bool
    wants_batches: bool

    async def task_started(self, attempt: Attempt, executor: Executor) -> None: ...
    async def batch_started(self, tasks: Sequence[Task[Any]], executor: Executor) -> None: ...
    async def batch_completed(
        self, outcomes: Sequence[Outcome], executor: Executor, started: float
    ) -> None: ...


class LaneSettings(NamedTuple):
    """What all lanes of a runner share."""

    run: RunSettings
    clock: Clock
    observer: LaneObserver
    context: Context
    """What user code starts from; each run gets a copy."""
    threads: Callable[[], ThreadPool]
    manager: AsyncTaskManager | None = None
    """Takes runs that are long enough to leave their slot."""
    on_handed_off: Callable[[Delivery, Holder], None] = lambda delivery, holder: None
    """Called when one did: its slot is free."""


class Lane(ABC):
    """Deliveries of one type: those that wait, those that run, and how fast they go."""

    def __init__(
        self, executor: Executor, function: Callable[..., Any], settings: LaneSettings
    ) -> None:
        self.executor = executor
        self.waiting: deque[Job] = deque()
        self.finished = 0
        """How many runs have left their slot, ever: ended, or handed off."""
        self._settings = settings
        self._now = settings.clock.monotonic
        self._timeout = executor.time_limit
        self._function = function
        self._threaded = runs_in_thread(function)
        self._tasks: dict[asyncio.Task[None], list[Job]] = {}
        self._stopping: dict[asyncio.Task[None], Word] = {}
        self._away: set[asyncio.Task[None]] = set()
        """Those of `_tasks` whose run was handed off: they hold no slot, and end with that run."""

    @property
    def running(self) -> int:
        """How many deliveries are with the executor now."""
        return sum(len(jobs) for jobs in self._tasks.values())

    def running_ids(self) -> Iterator[str]:
        """The tasks that are with the executor now."""
        for jobs in self._tasks.values():
            for delivery, _ in jobs:
                yield delivery.task.id

    def handed_off_ids(self) -> Iterator[str]:
        """Those of the running tasks that were handed off."""
        for task in self._away:
            for delivery, _ in self._tasks[task]:
                yield delivery.task.id

    @property
    def in_hand(self) -> int:
        """How many deliveries the lane holds, waiting and in slots: not those handed off."""
        away = sum(len(self._tasks[task]) for task in self._away)
        return len(self.waiting) + self.running - away

    def feed(self, jobs: Iterable[Job]) -> None:
        """Take deliveries; they run in this order as slots get free."""
        self.waiting.extend(jobs)
        self._start_slots()

    def shed(self, keep: int) -> list[Job]:
        """Give up the last of the waiting deliveries, so that `keep` go on waiting."""
        count = max(0, len(self.waiting) - keep)
        return [self.waiting.pop() for _ in range(count)][::-1]

    def cancel_steps(self, flows: Mapping[str, str]) -> None:
        """End waiting steps of these flows as CANCELLED; each flow's id comes with the reason."""
        steps = [job for job in self.waiting if flow_of_step(job[0].task) in flows]
        if not steps:
            return
        kept = [job for job in self.waiting if flow_of_step(job[0].task) not in flows]
        self.waiting.clear()  # in place: slots hold on to it
        self.waiting.extend(kept)
        for delivery, holder in steps:
            holder.ended(cancelled_step(delivery, flows[flow_of_step(delivery.task) or ""]))

    def withdraw(self, deliveries: set[Delivery], word: Word) -> None:
        """Let go of deliveries: waiting ones end as `word`, running ones are cancelled."""
        gone = [job for job in self.waiting if job[0] in deliveries]
        if gone:
            kept = [job for job in self.waiting if job[0] not in deliveries]
            self.waiting.clear()  # in place: slots hold on to it
            self.waiting.extend(kept)
        for delivery, holder in gone:
            holder.ended(Outcome(delivery, word))
        for task, jobs in self._tasks.items():
            if jobs and all(delivery in deliveries for delivery, _ in jobs):
                self._cancel(task, word)

    def cancel_running(self) -> None:
        """Cancel what runs; it ends as RELEASED unless it has said something already."""
        for task, jobs in self._tasks.items():
            if jobs:
                self._cancel(task, Word.RELEASED)

    def abandon(self) -> list[Job]:
        """Give up on what does not react to being cancelled."""
        jobs = [job for held in self._tasks.values() for job in held]
        self._tasks = {}
        self._away.clear()  # in place: slots hold on to it
        return jobs

    async def wait_idle(self) -> None:
        """Return when nothing waits and nothing runs."""
        while self._tasks:
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)

    def _cancel(self, task: asyncio.Task[None], word: Word) -> None:
        if task not in self._stopping:
            self._stopping[task] = word
            task.cancel()

    @abstractmethod
    def _start_slots(self) -> None:
        """Start what can run of `waiting`."""

    def _spawn(self) -> None:
        task = asyncio.create_task(self._work(), context=self._settings.context.copy())
        self._tasks[task] = []
        task.add_done_callback(self._slot_ended)

    def _slot_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)
        self._stopping.pop(task, None)
        self._away.discard(task)
        self._start_slots()
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error  # a fault of ours: loud, by the loop's exception handler

    @abstractmethod
    async def _work(self) -> None:
        """Run what waits until nothing does; the life of one asyncio task."""

    async def _call(self, work: Any, actions: Attempt | BatchCall) -> None:
        """User code, in a context of its own, within the executor's time."""
        if self._timeout is None:
            rest = self._begin(work, actions)
            if rest is not None:
                await rest
            return
        limit = asyncio.timeout(self._timeout)
        try:
            async with limit:
                rest = self._begin(work, actions)
                if rest is not None:
                    await rest
        except TimeoutError:
            if not limit.expired():
                raise  # the user's own
        if limit.expired():  # also when user code swallowed the cancellation
            raise TaskTimeoutError(f"cancelled after its timeout of {self._timeout:g} s")

    def _begin(self, work: Any, actions: Attempt | BatchCall) -> Awaitable[None] | None:
        """User code up to where it first waits; None: it is done already."""
        context = self._settings.context.copy()
        context.run(running.set, actions)
        if self._threaded:
            threads = self._settings.threads()
            return call_in_thread(context, self._function, threads, work, actions)
        return begin(context, self._function, work, actions)

    def _payload(self, task: Task[Any]) -> Task[Any]:
        wanted = self.executor.payload_type
        if wanted is None:
            return task
        return msgspec.structs.replace(task, payload=msgspec.convert(task.payload, wanted))

    def _refused(self, delivery: Delivery, holder: Holder, now: float) -> Outcome | None:
        """Why a delivery must not start: it expired, or its lease can no longer be trusted."""
        if holder.trusted_until < now:
            return Outcome(delivery, Word.RELEASED)
        expires_at = delivery.task.expires_at
        if expires_at is not None and expires_at <= self._settings.clock.now():
            return Outcome(delivery, Word.EXPIRED)
        return None
