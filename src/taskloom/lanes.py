"""The two kinds of lane, side by side: slots for single tasks, calls for batches.

A lane of a single or parallel executor has slots: asyncio tasks that take one delivery after the
other. A lane of a multi executor makes one call at a time with all that waits.
"""

from __future__ import annotations

import asyncio
from typing import Any

from taskloom.actions import Attempt, BatchCall
from taskloom.executors import Executor, MultiTaskExecutor, SingleTaskExecutor
from taskloom.lane import Holder, Job, Lane, LaneObserver, LaneSettings
from taskloom.outcomes import Delivery, Outcome, Word
from taskloom.task import Task

__all__ = [
    "BatchLane",
    "Holder",
    "Job",
    "Lane",
    "LaneObserver",
    "LaneSettings",
    "SlotLane",
    "make_lane",
]

SLICE = 0.005
"""Seconds a slot may keep the event loop to itself while its tasks never wait."""


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
        free = self.executor.slots - len(self._tasks)
        for _ in range(min(free, len(self.waiting))):
            self._spawn()

    async def _work(self) -> None:
        me = asyncio.current_task()
        assert me is not None
        own, waiting, now = self._tasks[me], self.waiting, self._now
        slice_end = now() + SLICE
        while waiting and not me.cancelling():
            job = waiting.popleft()
            delivery, holder = job
            outcome = self._refused(delivery, holder, now())
            if outcome is None:
                own.append(job)
                outcome = await self._run(delivery, me)
                own.clear()
            if me in self._tasks:  # otherwise it was abandoned, and someone else has spoken
                self.finished += 1
                holder.ended(outcome)
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
    return SlotLane(executor, settings)
