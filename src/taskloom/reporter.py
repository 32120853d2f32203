"""The reporter: makes events of what the path does, if anyone wants them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime, timedelta
from typing import Any, TypeAlias

import msgspec
from msgspec import UNSET

from taskloom.attempt import Attempt
from taskloom.config import TaskHandlerConfig
from taskloom.errors import TaskFailedError
from taskloom.executors import Executor
from taskloom.failures import failure_of
from taskloom.interfaces.message_queue import MessageQueue
from taskloom.lifecycle import (
    TaskBatchCompleted,
    TaskBatchStarted,
    TaskCancelled,
    TaskCompleted,
    TaskContext,
    TaskExhausted,
    TaskFailed,
    TaskScheduled,
    TaskStarted,
    task_context,
)
from taskloom.listeners import Listeners
from taskloom.outcomes import Outcome, Word
from taskloom.retry import max_retries
from taskloom.settlement import Verdict
from taskloom.task import Task, TaskStatus

__all__ = ["ExecutorOf", "Reporter"]

ExecutorOf: TypeAlias = Callable[[Task[Any]], Executor | None]


class Reporter:
    """Tells the task lifecycle provider; costs nothing for events nobody wants.

    Per task the order is scheduled, started, completed or failed, exhausted. Completed and failed
    are told when they are settled, so what was fenced is never told.
    """

    def __init__(
        self,
        listeners: Listeners,
        worker_id: str,
        config: TaskHandlerConfig,
        queue: MessageQueue | None = None,
    ) -> None:
        self.listeners = listeners
        self._queue = queue
        self.wants_started = listeners.wants("on_task_started")
        self.wants_batches = listeners.wants("on_task_batch_started") or listeners.wants(
            "on_task_batch_completed"
        )
        self.wants_ends = any(
            listeners.wants(name)
            for name in (
                "on_task_completed",
                "on_task_failed",
                "on_task_exhausted",
                "on_task_cancelled",
            )
        )
        self._wants_scheduled = listeners.wants("on_task_scheduled")
        self._unannounced: dict[str, asyncio.Event] = {}
        self._unsettled: dict[str, asyncio.Event] = {}
        self._worker_id = worker_id
        self._payload = config.lifecycle.include_payload
        self._clock = config.clock

    @asynccontextmanager
    async def announcing(
        self, tasks: Iterable[Task[Any]], executor_of: ExecutorOf, also: Iterable[str] = ()
    ) -> AsyncIterator[Callable[[Iterable[Task[Any]]], None]]:
        """Around adding `tasks`: call what it gives with those that were accepted.

        `also`: ids of tasks that may turn out to be added with them.

        They are told as scheduled at the end. Whatever else happens to them meanwhile, on a worker
        of this process that was quicker, is told after that.
        """
        accepted: list[Task[Any]] = []
        if not self._wants_scheduled:
            yield accepted.extend
            await self._published(accepted)
            return
        with _held(self._unannounced, [*(task.id for task in tasks), *also]):
            yield accepted.extend
            await self._published(accepted)
            for task in accepted:
                fields = self._context(task, executor_of(task), worker=False)
                await self.listeners.emit("on_task_scheduled", TaskScheduled(**fields))

    @property
    def wants_accepted(self) -> bool:
        """Whether anyone is told of tasks that were accepted."""
        return self._wants_scheduled or (self._queue is not None and self._queue.tells_published)

    async def _published(self, tasks: Sequence[Task[Any]]) -> None:
        queue = self._queue
        if queue is not None and queue.tells_published:
            # Any other queue tells itself of what is put.
            stored = [task for task in tasks if queue.storage_of(task.queue_id) is not None]
            await queue.tell_published(stored)

    @contextmanager
    def settling(self, verdicts: Iterable[Verdict]) -> Iterator[None]:
        """Around settling: what goes on is told as started again after its end was told."""
        if not (self.wants_ends and self.wants_started):
            yield
            return
        ids = [v.outcome.delivery.task.id for v in verdicts if not v.status.terminal]
        with _held(self._unsettled, ids):
            yield

    async def _in_turn(self, tasks: Iterable[Task[Any]]) -> None:
        """What came before in these tasks' lives has been told."""
        for waiting in (self._unannounced, self._unsettled):
            if waiting:
                for task in tasks:
                    if (told := waiting.get(task.id)) is not None:
                        await told.wait()

    async def cancelled(
        self, tasks: Iterable[Task[Any]], reason: str, executor_of: ExecutorOf
    ) -> None:
        """Waiting tasks were cancelled."""
        for task in tasks:
            fields = self._context(task, executor_of(task), worker=False)
            event = TaskCancelled(**fields, reason=reason)
            await self.listeners.emit("on_task_cancelled", event)

    async def task_started(self, attempt: Attempt, executor: Executor) -> None:
        """A single or parallel executor is about to be called."""
        await self._in_turn((attempt.task,))
        now = self._clock.now()
        event = TaskStarted(
            **self._context(attempt.task, executor),
            started_at=now,
            queued_duration=_waited(attempt.task, now),
        )
        await self.listeners.emit("on_task_started", event)

    async def batch_started(self, tasks: Sequence[Task[Any]], executor: Executor) -> None:
        """A multi executor is about to be called."""
        await self._in_turn(tasks)
        event = TaskBatchStarted(**self._batch(tasks, executor), started_at=self._clock.now())
        await self.listeners.emit("on_task_batch_started", event)

    async def batch_completed(
        self, outcomes: Sequence[Outcome], executor: Executor, started: float
    ) -> None:
        """A multi executor's call ended; `started` is monotonic."""
        duration = self._clock.monotonic() - started
        tasks = [outcome.delivery.task for outcome in outcomes]
        good = [o.delivery.task.id for o in outcomes if o.word is Word.SUCCESS]
        event = TaskBatchCompleted(
            **self._batch(tasks, executor),
            started_at=self._clock.now() - timedelta(seconds=duration),
            succeeded=good,
            failed=[o.delivery.task.id for o in outcomes if o.word is Word.FAILURE],
            batch_duration=duration,
        )
        await self.listeners.emit("on_task_batch_completed", event)

    async def ended(self, verdict: Verdict, executor: Executor | None) -> None:
        """An outcome was settled."""
        outcome = verdict.outcome
        if (announced := self._unannounced.get(outcome.delivery.task.id)) is not None:
            await announced.wait()
        fields = self._context(outcome.delivery.task, executor) | self._timing(outcome)
        if outcome.word is Word.SUCCESS:
            result = UNSET if outcome.result is UNSET else msgspec.json.decode(outcome.result)
            await self.listeners.emit("on_task_completed", TaskCompleted(**fields, result=result))
        elif outcome.word is Word.CANCELLED:
            reason = str((outcome.notes or {}).get("cancelled_reason", ""))
            await self.cancelled([outcome.delivery.task], reason, lambda task: executor)
        elif outcome.word in (Word.FAILURE, Word.POISON):
            error = _error_of(verdict)
            failed = TaskFailed(
                **fields,
                error=error,
                will_retry=verdict.will_retry,
                next_attempt_at=verdict.next_attempt_at,
            )
            await self.listeners.emit("on_task_failed", failed)
            if verdict.status is TaskStatus.FAILED:
                attempts = outcome.delivery.task.retry_count + 1
                exhausted = TaskExhausted(**fields, error=error, total_attempts=attempts)
                await self.listeners.emit("on_task_exhausted", exhausted)

    def _context(
        self, task: Task[Any], executor: Executor | None, *, worker: bool = True
    ) -> dict[str, Any]:
        return task_context(
            task,
            max_retries=max_retries(task, executor),
            worker_id=self._worker_id if worker else None,
            consumer_id=f"{self._worker_id}:{task.queue_id}" if worker else None,
            include_payload=self._payload,
        )

    def _batch(self, tasks: Sequence[Task[Any]], executor: Executor) -> dict[str, Any]:
        first = tasks[0]
        return {
            "task_type": first.type,
            "queue_id": first.queue_id,
            "tasks": [TaskContext(**self._context(task, executor)) for task in tasks],
            "worker_id": self._worker_id,
            "consumer_id": f"{self._worker_id}:{first.queue_id}",
        }

    def _timing(self, outcome: Outcome) -> dict[str, float]:
        total = max(0.0, (self._clock.now() - outcome.delivery.task.created_at).total_seconds())
        ran = max(0.0, outcome.ended - outcome.started) if outcome.started else 0.0
        return {
            "queued_duration": max(0.0, total - ran),
            "processing_duration": ran,
            "total_duration": total,
        }


@contextmanager
def _held(waiting: dict[str, asyncio.Event], ids: Sequence[str]) -> Iterator[None]:
    told = asyncio.Event()
    waiting.update(dict.fromkeys(ids, told))
    try:
        yield
    finally:
        for id in ids:
            if waiting.get(id) is told:
                del waiting[id]
        told.set()


def _waited(task: Task[Any], now: datetime) -> float:
    return max(0.0, (now - task.created_at).total_seconds())


def _error_of(verdict: Verdict) -> BaseException:
    if verdict.outcome.failure is not None:
        return verdict.outcome.failure.error
    stats = verdict.ending.stats if verdict.ending is not None else None
    return failure_of(TaskFailedError((stats or {}).get("last_error", "failed"))).error
