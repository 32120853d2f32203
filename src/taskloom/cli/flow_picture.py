"""One flow at one moment: what its barrier counted, and what its tasks are like."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

from msgspec import UNSET, Struct

from taskloom.app import Loom
from taskloom.cli.words import attempts_of, reason_of, took
from taskloom.flows import FlowStepResult, join_id, step_id, timeout_id
from taskloom.interfaces import FlowBarrier, FlowRecord
from taskloom.task import Task, TaskStatus

__all__ = ["FlowPicture", "FlowReader", "FlowState", "Step", "state_of"]

_AT_ONCE = 500
"""Tasks that are read in one query."""

FlowState: TypeAlias = Literal["running", "completed", "aborted", "timed_out"]


def state_of(record: FlowRecord) -> FlowState:
    """What the steps of a flow have come to; its join may still wait or run."""
    return record.end or "running"


class Step(Struct, frozen=True):
    """A step as it is shown: without its payload."""

    index: int
    id: str
    type: str = ""
    queue_id: str = ""
    status: TaskStatus | None = None
    """None: neither its task nor what it counted as is there (any more)."""
    attempts: int = 0
    seconds: float | None = None
    """Of its last attempt; until now, if it runs."""
    result: Any = UNSET
    reason: str = ""
    """Its last error, or why it never ran."""

    @property
    def final(self) -> bool:
        """Whether it has ended."""
        return self.status is not None and self.status.terminal


class FlowPicture(Struct, frozen=True):
    """A flow, its steps by index, and its join."""

    record: FlowRecord
    steps: list[Step]
    join: Task[Any] | None
    """None before it is handed over, and when it was deleted after it had ended."""
    times_out_at: datetime | None
    """None for a flow without a time-out."""
    seen_at: datetime

    @property
    def over(self) -> bool:
        """Whether the flow and its join have ended."""
        if self.join is None:
            return self.record.state == "sent"
        return self.join.status.terminal

    @property
    def ended_at(self) -> datetime | None:
        """When it was over; None while it is not, or when nobody knows (any more)."""
        return self.join.updated_at if self.join is not None and self.over else None

    def counts(self) -> dict[TaskStatus | None, int]:
        """How many steps there are in each status."""
        return Counter(step.status for step in self.steps)


class FlowReader:
    """Looks at one flow, again and again. A step that was seen to have ended is not read again."""

    def __init__(self, loom: Loom, barrier: FlowBarrier, flow_id: str) -> None:
        self._loom = loom
        self._barrier = barrier
        self._flow_id = flow_id
        self._ended: dict[int, Step] = {}

    async def look(self) -> FlowPicture | None:
        """The flow now; None for one that is not known (any more). Nothing is changed or locked."""
        record = await self._barrier.get_flow(self._flow_id)
        if record is None:
            return None
        now = datetime.now(UTC)
        steps = await self._read_steps(record.flow.total_steps, now)
        known = {task.id: task for task in await self._loom.get_tasks(self._others())}
        join, sentinel = (known.get(id) for id in self._others())
        until = None if sentinel is None else sentinel.execute_at
        return FlowPicture(record, steps, join, until, now)

    def _others(self) -> tuple[str, str]:
        return join_id(self._flow_id), timeout_id(self._flow_id)

    async def _read_steps(self, total: int, now: datetime) -> list[Step]:
        open_ = [index for index in range(total) if index not in self._ended]
        found = dict(self._ended)
        for start in range(0, len(open_), _AT_ONCE):
            ids = {step_id(self._flow_id, i): i for i in open_[start : start + _AT_ONCE]}
            for task in await self._loom.get_tasks(ids):
                found[ids[task.id]] = _step(ids[task.id], task, now)
        if len(found) < total:
            # Deleted after their retention, which may be shorter than the flow lasts.
            results = await self._barrier.get_step_results(self._flow_id)
            found = {**self._counted(results), **found}
        self._ended = {index: step for index, step in found.items() if step.final}
        return [found.get(i) or Step(i, step_id(self._flow_id, i)) for i in range(total)]

    def _counted(self, results: Iterable[FlowStepResult]) -> dict[int, Step]:
        """Steps as they counted, for those whose tasks are gone."""
        return {
            result.step_index: Step(
                result.step_index,
                step_id(self._flow_id, result.step_index),
                status=TaskStatus.EXECUTED if result.status == "success" else TaskStatus.FAILED,
                result=result.result if result.status == "success" else UNSET,
                reason=result.error or "",
            )
            for result in results
        }


def _step(index: int, task: Task[Any], now: datetime) -> Step:
    return Step(
        index,
        task.id,
        task.type,
        task.queue_id,
        task.status,
        attempts_of(task),
        took(task, now),
        task.execution_result,
        reason_of(task),
    )
