"""The kinds of lane, side by side: slots for single tasks, calls for batches.

A lane of a single or parallel executor has slots: asyncio tasks that take one delivery after the
other. With an `AsyncConfig`, a run that takes long leaves its slot. A lane of a multi executor
makes one call at a time with all that waits.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import Any

from taskloom.attempt import Attempt
from taskloom.batch_call import BatchCall
from taskloom.clock import seconds
from taskloom.codec import one_line
from taskloom.errors import TaskTimeoutError
from taskloom.executors import AsyncConfig, Executor, MultiTaskExecutor, SingleTaskExecutor
from taskloom.handoff import AsyncTaskManager
from taskloom.lane import Holder, Job, Lane, LaneObserver, LaneSettings
from taskloom.outcomes import Delivery, Outcome, Word
from taskloom.task import Task

__all__ = [
    "BatchLane",
    "HandoffLane",
    "Holder",
    "Job",
    "Lane",
    "LaneObserver",
    "LaneSettings",
    "SlotLane",
    "make_lane",
]

_log = logging.getLogger(__name__)

SLICE = 0.005
"""Seconds a slot may keep the event loop to itself while its tasks never wait."""
OFFER_AGAIN = 0.25
"""Seconds after which a run that was not taken off its slot is offered again."""


class SlotLane(Lane):
    """The lane of a single or parallel executor."""

    executor: SingleTaskExecutor

    def __init__(self, executor: SingleTaskExecutor, settings: LaneSettings) -> None:
        super().__init__(executor, executor.on_task, settings)
        self._simple = (
            self._timeout is None
            and executor.payload_type is None
            and not settings.observer.wants_started
        )

    def _start_slots(self) -> None:
        free = self.executor.slots - len(self._tasks) + len(self._away)
        for _ in range(min(free, len(self.waiting))):
            self._spawn()

    async def _work(self) -> None:
        me = asyncio.current_task()
        assert me is not None
        own, waiting, away, now = self._tasks[me], self.waiting, self._away, self._now
        slice_end = now() + SLICE
        while waiting and not me.cancelling():
            job = waiting.popleft()
            delivery, holder = job
            outcome = self._refused(delivery, holder, now())
            if outcome is None:
                own.append(job)
                outcome = await self._run(delivery, me)
                own.clear()
            if me not in self._tasks:
                return  # it was abandoned, and someone else has spoken
            holder.ended(outcome)
            if me in away:
                return  # its slot went on without it
            self.finished += 1
            if outcome.ended >= slice_end:
                await asyncio.sleep(0)
                slice_end = now() + SLICE

    async def _run(self, delivery: Delivery, me: asyncio.Task[None]) -> Outcome:
        task, settings = delivery.task, self._settings
        attempt = Attempt(delivery, task, self._now(), settings.run)
        error: BaseException | None = None
        try:
            # Spelled out for the many that need nothing else: a frame less for each.
            rest = self._begin(task, attempt) if self._simple else self._prepared(attempt)
            if rest is not None:
                await rest
        except GeneratorExit:
            raise
        except BaseException as raised:
            error = raised
        ended = self._now()
        if self._stopping and (stopped := self._stopping.get(me)) is not None:
            return self._stopped(attempt, stopped, error, ended)
        return attempt.end(error, ended)

    async def _prepared(self, attempt: Attempt) -> None:
        if self._settings.observer.wants_started:
            await self._settings.observer.task_started(attempt, self.executor)
        await self._call(self._payload(attempt.task), attempt)

    def _stopped(
        self, attempt: Attempt, stopped: Word, error: BaseException | None, ended: float
    ) -> Outcome:
        """How a cancelled run ended: as it said, unless its word counts for nothing."""
        if stopped is not Word.LOST and attempt.word is not None:
            return attempt.end(error, ended)
        attempt.end(error, 0.0)  # closes it: a thread may still speak
        return Outcome(attempt.delivery, stopped, started=attempt.started, ended=ended)


class HandoffLane(SlotLane):
    """A lane whose runs leave their slot once they have taken long.

    Such a run goes on in the asyncio task it is in, and ends as it would have: only its slot goes
    on with the next task, in a new one. Where the manager has no room the run keeps its slot, and
    is offered again.
    """

    def __init__(
        self, executor: SingleTaskExecutor, config: AsyncConfig, settings: LaneSettings
    ) -> None:
        super().__init__(executor, settings)
        self._config = config
        self._after = seconds(config.handoff_timeout, "handoff_timeout")
        self._manager = settings.manager
        self._warned = False
        self._timers: dict[asyncio.Task[None], asyncio.TimerHandle] = {}

    def _begin(self, work: Any, actions: Attempt | BatchCall) -> Awaitable[None] | None:
        rest = super()._begin(work, actions)
        return None if rest is None else self._watched(rest)

    async def _watched(self, rest: Awaitable[None]) -> None:
        """The rest of user code that waits, offered to the manager when it takes long."""
        me = asyncio.current_task()
        assert me is not None
        self._offer_in(self._after, me)
        try:
            await rest
        except asyncio.CancelledError:
            if self._evicted_after(me) is None:
                raise
        finally:
            self._timers.pop(me).cancel()
        after = self._evicted_after(me)
        if after is not None:  # also when user code swallowed the cancellation
            raise TaskTimeoutError(f"cancelled {after:.1f} s after it was handed off")

    def _evicted_after(self, me: asyncio.Task[None]) -> float | None:
        return None if self._manager is None else self._manager.evicted_after(me)

    def _offer_in(self, delay: float, me: asyncio.Task[None], *, again: bool = False) -> None:
        loop = asyncio.get_running_loop()
        self._timers[me] = loop.call_later(delay, self._offer, me, again)

    def _offer(self, me: asyncio.Task[None], again: bool) -> None:
        """Hand the run off if it may be and there is room for it."""
        if me in self._stopping or not self._tasks.get(me):
            return  # it is on its way out
        [(delivery, holder)] = self._tasks[me]
        if self._manager is None:
            self._warn(delivery.task)
        elif self._is_taken(self._manager, delivery.task, me, again):
            self._away.add(me)
            self.finished += 1
            self._start_slots()
            self._settings.on_handed_off(delivery, holder)
        else:
            self._offer_in(OFFER_AGAIN, me, again=True)

    def _is_taken(
        self, manager: AsyncTaskManager, task: Task[Any], me: asyncio.Task[None], again: bool
    ) -> bool:
        most = self._config.max_concurrent_async
        if most is not None and len(self._away) >= most:
            return False
        # The manager counts one refusal of a run, however often it is offered again.
        if again and (not manager.can_accept_task() or manager.is_handed_off(task.id)):
            return False
        return manager.handoff_task(task, me, self._config.max_duration)

    def _warn(self, task: Task[Any]) -> None:
        if not self._warned:
            self._warned = True
            _log.warning(
                "tasks of type %s take longer than their handoff_timeout of %g s and keep their "
                "slots: there is no AsyncTaskManager; pass one as async_task_manager",
                one_line(task.type),
                self._after,
            )


class BatchLane(Lane):
    """The lane of a multi executor: one call at a time."""

    executor: MultiTaskExecutor

    def __init__(self, executor: MultiTaskExecutor, settings: LaneSettings) -> None:
        super().__init__(executor, executor.on_tasks, settings)

    def _start_slots(self) -> None:
        if self.waiting and not self._tasks:
            self._spawn()

    async def _work(self) -> None:
        me = asyncio.current_task()
        assert me is not None
        own = self._tasks[me]
        while self.waiting and not me.cancelling():
            jobs = self._take()
            if jobs:
                own.extend(jobs)
                await self._run(jobs, me)
            await asyncio.sleep(0)

    def _take(self) -> list[Job]:
        jobs: list[Job] = []
        limit, now = self.executor.max_batch or len(self.waiting), self._now()
        while self.waiting and len(jobs) < limit:
            job = self.waiting.popleft()
            refused = self._refused(*job, now)
            if refused is None:
                jobs.append(job)
            else:
                job[1].ended(refused)
        return jobs

    async def _run(self, jobs: list[Job], me: asyncio.Task[None]) -> None:
        started, observer = self._now(), self._settings.observer
        run = self._settings.run
        attempts = [Attempt(delivery, delivery.task, started, run) for delivery, _ in jobs]
        tasks = self._fitting(attempts)
        call = BatchCall(attempts, self._settings.run)
        error: BaseException | None = None
        try:
            if tasks:
                await self._tell_started(attempts, tasks)
                await self._call(tasks, call)
        except GeneratorExit:
            raise
        except BaseException as raised:
            error = raised
        outcomes = self._outcomes(call, error, self._stopping.get(me))
        self._hand_over(jobs, outcomes, me)
        if tasks and observer.wants_batches:
            await observer.batch_completed(outcomes, self.executor, started)

    async def _tell_started(self, attempts: list[Attempt], tasks: list[Task[Any]]) -> None:
        observer = self._settings.observer
        if observer.wants_batches:
            await observer.batch_started(tasks, self.executor)
        if observer.wants_started:
            for attempt in attempts:
                await observer.task_started(attempt, self.executor)

    def _hand_over(self, jobs: list[Job], outcomes: list[Outcome], me: asyncio.Task[None]) -> None:
        if me not in self._tasks:
            return  # it was abandoned, and someone else has spoken
        self._tasks[me].clear()
        self.finished += len(jobs)
        for (_, holder), outcome in zip(jobs, outcomes, strict=True):
            holder.ended(outcome)

    def _fitting(self, attempts: list[Attempt]) -> list[Task[Any]]:
        """The tasks to call with; one whose payload does not fit fails alone."""
        tasks: list[Task[Any]] = []
        for attempt in attempts:
            try:
                tasks.append(self._payload(attempt.task))
            except Exception as error:
                attempt.fail(attempt.task, error)
        return tasks

    def _outcomes(
        self, call: BatchCall, error: BaseException | None, stopped: Word | None
    ) -> list[Outcome]:
        silent = {id for id, attempt in call.attempts.items() if attempt.word is None}
        ended = self._now()
        outcomes = call.end(error, ended)
        if stopped is None:
            return outcomes
        return [
            Outcome(outcome.delivery, stopped, started=outcome.started, ended=ended)
            if stopped is Word.LOST or outcome.delivery.task.id in silent
            else outcome
            for outcome in outcomes
        ]


def make_lane(executor: Executor, settings: LaneSettings) -> Lane:
    """The lane that fits the kind of executor."""
    if isinstance(executor, MultiTaskExecutor):
        return BatchLane(executor, settings)
    if executor.async_config is not None:
        return HandoffLane(executor, executor.async_config, settings)
    return SlotLane(executor, settings)
