"""The flow reporter: makes events of what happens to flows, and follows up what they cancelled."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from taskloom.errors import UnavailableError
from taskloom.flow_events import FlowAborted, FlowCompleted, FlowStarted, FlowTimedOut
from taskloom.flows import NewFlow
from taskloom.interfaces.flow_barrier import FlowNews
from taskloom.interfaces.task_storage import TaskStorage
from taskloom.listeners import Listeners
from taskloom.projections import FLOW_ERRORS
from taskloom.projector import Projector
from taskloom.reporter import ExecutorOf, Reporter
from taskloom.task import FlowMeta, Task

__all__ = ["FlowReporter"]

_log = logging.getLogger(__name__)


class FlowReporter:
    """Tells the flow lifecycle provider; costs nothing where nobody listens."""

    def __init__(
        self,
        listeners: Listeners,
        reporter: Reporter,
        projector: Projector,
        storage: TaskStorage,
        executor_of: ExecutorOf,
        worker_id: str,
        cancel_steps: Callable[[Mapping[str, str]], None],
    ) -> None:
        self._cancel_steps = cancel_steps
        self._listeners = listeners
        self._reporter = reporter
        self._projector = projector
        self._storage = storage
        self._executor_of = executor_of
        self._worker_id = worker_id

    async def started(
        self,
        flow: NewFlow,
        steps: Iterable[Task[Any]],
        *,
        starter: Task[Any] | None = None,
    ) -> None:
        """A flow was accepted; `starter` is the task that started it, if one did."""
        if not self._listeners.wants("on_flow_started"):
            return
        consumer = None if starter is None else f"{self._worker_id}:{starter.queue_id}"
        types = [task.type for task in steps if _is_step_of(task, flow)]
        event = FlowStarted(
            **self._context(flow.join),
            consumer_id=consumer,
            started_at=flow.join.created_at,
            step_types=list(dict.fromkeys(types)),
        )
        await self._listeners.emit("on_flow_started", event)

    async def found_ended(self, news: Sequence[FlowNews]) -> None:
        """Joins were handed over outside a settle of runs, which would have written the rows."""
        await self._projector.write(self._projector.flows_ended(news))
        await self.ended(news)

    async def ended(self, news: Sequence[FlowNews]) -> None:
        """Joins were handed over."""
        ended = {each.record.flow.flow_id: each.record.end for each in news}
        if early := {id: FLOW_ERRORS[end] for id, end in ended.items() if end in FLOW_ERRORS}:
            self._cancel_steps(early)  # of this worker; others run what they hold, to no effect
        for each in news:
            await self._ended(each)
        if any(each.cancelled for each in news):
            await self._cancelled(news)

    async def _ended(self, news: FlowNews) -> None:
        record = news.record
        fields = self._context(record.flow.join)
        ended_at = record.ended_at or record.started_at
        duration = max(0.0, (ended_at - record.started_at).total_seconds())
        match record.end:
            case "aborted":
                await self._listeners.emit(
                    "on_flow_aborted",
                    FlowAborted(
                        **fields,
                        flow_duration=duration,
                        steps_completed=record.counted,
                        trigger_step_index=record.trigger,
                    ),
                )
            case "timed_out":
                await self._listeners.emit(
                    "on_flow_timed_out",
                    FlowTimedOut(**fields, flow_duration=duration, steps_completed=record.counted),
                )
            case _:
                await self._listeners.emit(
                    "on_flow_completed",
                    FlowCompleted(
                        **fields,
                        flow_duration=duration,
                        steps_succeeded=record.counted - record.failed,
                        steps_failed=record.failed,
                    ),
                )

    async def _cancelled(self, news: Iterable[FlowNews]) -> None:
        """Steps that will not run any more: told, and projected, like any cancelled task."""
        if not (self._projector.wanted or self._listeners.wants("on_task_cancelled")):
            return
        for each in news:
            if each.cancelled:
                try:
                    tasks = await self._storage.get(each.cancelled)
                except UnavailableError as error:
                    flow_id = each.record.flow.flow_id
                    _log.warning("cancelled steps of flow %s are not told of: %s", flow_id, error)
                    continue
                await self._projector.write(self._projector.found_ended(tasks))
                reason = FLOW_ERRORS.get(each.record.end, "flow ended")
                await self._reporter.cancelled(tasks, reason, self._executor_of)

    def _context(self, join: Task[Any]) -> dict[str, Any]:
        meta = join.metadata.flow
        assert meta is not None, "a join knows its flow"
        return _fields(meta) | {"worker_id": self._worker_id}


def _fields(meta: FlowMeta) -> dict[str, Any]:
    return {
        "flow_id": meta.flow_id,
        "total_steps": meta.total_steps,
        "join": meta.join,
        "failure_policy": meta.failure_policy,
        "entity": meta.entity,
    }


def _is_step_of(task: Task[Any], flow: NewFlow) -> bool:
    meta = task.metadata.flow
    return meta is not None and meta.flow_id == flow.flow_id and not meta.is_timeout
