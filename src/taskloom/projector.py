"""The projector: makes rows of what becomes of tasks on entities, and hands them to the provider.

Making rows is pure. Handing them over never fails and never holds up the work for long: the tasks
go on whatever the provider does.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

import msgspec
from msgspec import UNSET, Raw
from msgspec.structs import force_setattr, replace

from taskloom.calling import call_in_thread, runs_in_thread
from taskloom.clock import Clock
from taskloom.config import TaskHandlerConfig
from taskloom.errors import InvalidTaskError
from taskloom.flows import NewFlow, early_end
from taskloom.group_commit import GroupCommit
from taskloom.interfaces.entity_projections import EntityProjections
from taskloom.interfaces.flow_barrier import FlowNews
from taskloom.interfaces.task_storage import TaskStorage
from taskloom.outcomes import Delivery
from taskloom.projections import (
    FLOW_ERRORS,
    EntityTaskProjection,
    ProjectionStatus,
    build_projection,
    flow_projection,
)
from taskloom.settlement import Verdict, reason_of
from taskloom.task import Task, TaskStatus

__all__ = ["Projector"]

_log = logging.getLogger(__name__)

PROVIDER_LIMIT = 5.0
"""Seconds that the work waits for a provider, and that one call of it may take."""
BACKLOG = 10_000
"""Rows that wait for a provider which is too slow to be waited for; above it new ones are lost."""


class Projector:
    """Rows for `EntityProjections`, by what happens to tasks; free of cost without any.

    Each method that makes rows leaves out tasks without an entity. The join of a flow that has one
    ends the flow: its row is about the flow's entity, under the flow's id.
    """

    def __init__(
        self, projections: EntityProjections | None, config: TaskHandlerConfig, clock: Clock
    ) -> None:
        self.wanted = projections is not None
        """Whether anyone is to be told. If not, every list of rows is empty."""
        self._storage = None if projections is None else projections.storage
        self._provider = None if projections is None else _Provider(projections)
        self._payload = config.projection_include_payload
        self._clock = clock

    def integrated(self, storage: TaskStorage) -> bool:
        """Whether `storage` writes rows itself: those of the endings it settles."""
        return self._storage is storage

    # Rows

    def added(self, tasks: Iterable[Task[Any]]) -> list[EntityTaskProjection]:
        """Rows of new tasks: `scheduled`. Write them before a queue has the tasks."""
        if not self.wanted:
            return []
        return _there(self._row(task, "scheduled") for task in tasks if task.entity is not None)

    def starting(
        self, deliveries: Iterable[Delivery], can_run: Callable[[Task[Any]], bool]
    ) -> list[EntityTaskProjection]:
        """Rows of tasks about to run for the first time: `processing`. None for retries."""
        if not self.wanted:
            return []
        tasks = [d.task for d in deliveries if d.task.entity is not None and not d.task.retry_count]
        now = self._clock.now()
        return _there(
            self._row(task, "processing")
            for task in tasks
            if not (task.expires_at is not None and task.expires_at <= now) and can_run(task)
        )

    def ended(self, verdicts: Iterable[Verdict]) -> list[EntityTaskProjection]:
        """Rows of what ended for good: `executed` or `failed`. None for what goes on."""
        if not self.wanted:
            return []
        return _there(self._verdict(verdict) for verdict in verdicts if _concerns(verdict))

    def flows_started(self, flows: Iterable[NewFlow]) -> list[EntityTaskProjection]:
        """Rows of the entities of new flows: `processing`, under the flow's id."""
        if not self.wanted:
            return []
        now = self._clock.now()
        return _there(flow_projection(flow.join, "processing", now) for flow in flows)

    def flows_ended(self, news: Iterable[FlowNews]) -> list[EntityTaskProjection]:
        """Rows of the entities of flows that were aborted or timed out: `failed`."""
        if not self.wanted:
            return []
        now = self._clock.now()
        return _there(
            flow_projection(each.join, "failed", now, error=FLOW_ERRORS[each.record.end])
            for each in news
            if each.record.end in FLOW_ERRORS
        )

    def found_ended(self, tasks: Iterable[Task[Any]]) -> list[EntityTaskProjection]:
        """The same rows for tasks as a storage has them: cancelled, or ended by a dead worker."""
        if not self.wanted:
            return []
        return _there(
            self._end(task, task.status, task.execution_result, task.execution_stats)
            for task in tasks
            if task.status.terminal
        )

    def attached(self, verdict: Verdict) -> Verdict:
        """`verdict` with its rows in its ending, for a storage that writes them with it.

        Its own, and those of the tasks that are added with it.
        """
        ending = verdict.ending
        if not self.wanted or ending is None or not (ending.children or _concerns(verdict)):
            return verdict
        rows = self.added(ending.children)
        rows += self.ended((verdict,))
        if not rows:
            return verdict
        return replace(verdict, ending=replace(ending, projections=tuple(rows)))

    def _verdict(self, verdict: Verdict) -> EntityTaskProjection | None:
        if verdict.released or not verdict.status.terminal:
            return None
        outcome, ending = verdict.outcome, verdict.ending
        stats = (ending.stats if ending is not None else None) or {}
        if outcome.failure is not None:
            stats = {**stats, "last_error": outcome.failure.message}
        return self._end(outcome.delivery.task, verdict.status, outcome.result, stats)

    def _end(
        self, task: Task[Any], status: TaskStatus, result: Any, stats: dict[str, Any]
    ) -> EntityTaskProjection | None:
        told: ProjectionStatus = "executed" if status is TaskStatus.EXECUTED else "failed"
        error = None if told == "executed" else reason_of(status, stats)
        flow = task.metadata.flow
        if flow is not None and flow.is_join and flow.entity is not None:
            if (early := early_end(task)) in FLOW_ERRORS:  # for good, whatever its join did
                told, error, result = "failed", FLOW_ERRORS[early], UNSET
            return flow_projection(task, told, self._clock.now(), error, result)
        return self._row(task, told, error, result)

    def _row(
        self,
        task: Task[Any],
        status: ProjectionStatus,
        error: str | None = None,
        result: Any = UNSET,
    ) -> EntityTaskProjection | None:
        try:
            row = build_projection(
                task, status, include_payload=self._payload, error=error, result=result
            )
        except InvalidTaskError as reason:
            _log.warning("a task of type %r cannot be projected: %s", task.type, reason)
            return None
        if row is not None:  # a value that nobody else has seen yet
            force_setattr(row, "updated_at", self._clock.now())
        return row

    # Handing them over

    async def write(self, rows: Sequence[EntityTaskProjection]) -> None:
        """Hand rows to the provider. Returns when it has them, after `PROVIDER_LIMIT` seconds at
        the latest, and at once while it is known to be too slow.

        Raises nothing of the provider's: it is logged, once per outage. Safe to repeat.
        """
        if self._provider is not None and rows:
            await self._provider.hand_over(rows)

    async def join(self) -> None:
        """Return when everything handed over has been written or given up."""
        if self._provider is not None:
            await self._provider.join()


class _Provider:
    """The user's provider: called with many rows, one call at a time, in the order they came."""

    def __init__(self, projections: EntityProjections) -> None:
        self._upsert = projections.upsert_projections
        self._blocks = runs_in_thread(self._upsert)
        self._name = type(projections).__name__
        self._calls: GroupCommit[EntityTaskProjection, None] = GroupCommit(self._call)
        self._waiting = 0
        self._slow = False
        """The last call took too long: nobody waits for the next one."""
        self._failing = False
        self._lost = 0
        self._thread: ThreadPoolExecutor | None = None
        self._late: asyncio.Task[BaseException | None] | None = None

    async def hand_over(self, rows: Sequence[EntityTaskProjection]) -> None:
        if self._slow and self._waiting + len(rows) > BACKLOG:
            self._lost += len(rows)
            return
        self._waiting += len(rows)
        if self._slow:
            self._calls.add(rows)
            return
        try:
            async with asyncio.timeout(PROVIDER_LIMIT):
                await self._calls(rows)
        except TimeoutError:
            self._slow = True

    async def join(self) -> None:
        await self._calls.join()
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)
            self._thread = None

    async def _call(self, rows: list[EntityTaskProjection]) -> list[None]:
        self._waiting -= len(rows)
        error = await self._in_time([_plain(row) for row in rows])
        self._slow = isinstance(error, _TooSlowError)
        self._tell(error, len(rows))
        return [None] * len(rows)

    async def _in_time(self, rows: list[EntityTaskProjection]) -> BaseException | None:
        """What went wrong with one call. One that ignores its cancellation bars the next ones."""
        if self._late is not None:
            await asyncio.wait([self._late], timeout=PROVIDER_LIMIT)
            if not self._late.done():
                return _TooSlowError("its last call has still not ended")
            self._late = None
        # A task of its own: a callee that swallows its cancellation must not hold us up.
        call = asyncio.create_task(self._provide(rows), name="taskloom-projections")
        try:
            await asyncio.wait([call], timeout=PROVIDER_LIMIT)
            if call.done():
                return call.result()
        finally:
            if not call.done():
                call.cancel()
        self._late = call
        return _TooSlowError(f"no answer within {PROVIDER_LIMIT:g} s")

    async def _provide(self, rows: list[EntityTaskProjection]) -> BaseException | None:
        try:
            if self._blocks:
                await call_in_thread(copy_context(), self._upsert, self._threads(), rows)
            else:
                await self._upsert(rows)
        except GeneratorExit:
            raise
        except BaseException as error:  # SystemExit would end the loop if it got out of a task
            return error
        return None

    def _threads(self) -> ThreadPoolExecutor:
        # One: a call that hangs holds up the next one, and threads do not pile up.
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="taskloom-projections")
        return self._thread

    def _tell(self, error: BaseException | None, rows: int) -> None:
        if error is not None:
            self._lost += rows
        if error is not None and not self._failing:
            _log.error(
                "%s failed on %d rows of entity projections; the tasks go on without",
                self._name,
                rows,
                exc_info=error,
            )
        elif error is None and self._failing:
            _log.warning("%s works again; %d rows were lost", self._name, self._lost)
            self._lost = 0
        self._failing = error is not None


class _TooSlowError(TimeoutError):
    """The provider did not answer in time."""


def _concerns(verdict: Verdict) -> bool:
    """Whether there may be a row of its task: most have neither an entity nor a flow."""
    task = verdict.outcome.delivery.task
    return task.entity is not None or task.metadata.flow is not None


def _there(rows: Iterable[EntityTaskProjection | None]) -> list[EntityTaskProjection]:
    return [row for row in rows if row is not None]


def _plain(row: EntityTaskProjection) -> EntityTaskProjection:
    """`row` for someone who does not know that results are kept encoded."""
    if isinstance(row.result, Raw):
        return replace(row, result=msgspec.json.decode(row.result))
    return row
