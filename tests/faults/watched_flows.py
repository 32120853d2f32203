"""Barriers and projections that die, if told to, before or after a call.

A barrier that shares the storage's transactions has no calls of its own but `settle`. One on a
file beside it takes steps, and so has the crash points between them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from recorder import Recorder
from watched import CrashPoint, WatchedStorage

from taskloom.flows import FlowStepResult, step_id
from taskloom.interfaces import BarrierState, FlowSettled
from taskloom.outcomes import Settlement
from taskloom.projections import EntityTaskProjection
from taskloom.sql import SqlFlowBarrier, SqlProjections, SqlStorage
from taskloom.task import Task

__all__ = ["BarrierBeside", "WatchedBarrier", "WatchedProjections"]

T = TypeVar("T")


class WatchedBarrier(SqlFlowBarrier):
    """In the transactions of a watched storage, and noted as its own settles are."""

    def __init__(self, storage: WatchedStorage) -> None:
        super().__init__(storage)
        self._watched = storage

    async def settle(self, plan: Settlement) -> FlowSettled:
        settled, since = await self._watched.call("settle", super().settle(plan))
        self._watched.note_settle(plan, settled.refused, since)
        return settled


class BarrierBeside(SqlFlowBarrier):
    """On a file of its own, which is not the handler's storage."""

    def __init__(self, storage: SqlStorage, recorder: Recorder, crash: CrashPoint) -> None:
        super().__init__(storage)
        self._recorder = recorder
        self._crash = crash

    async def _around(self, name: str, call: Callable[[], Awaitable[T]]) -> T:
        self._crash.here(f"{name}.before")
        answer = await call()
        self._crash.here(f"{name}.after")
        return answer

    async def init_barrier(
        self, flow_id: str, total_steps: int, *, join: Task[Any] | None = None
    ) -> None:
        inner = super().init_barrier
        await self._around("open", lambda: inner(flow_id, total_steps, join=join))

    async def record_steps(
        self, flow_id: str, results: Sequence[FlowStepResult], *, abort: bool = False
    ) -> BarrierState:
        inner = super().record_steps
        state = await self._around("record", lambda: inner(flow_id, results, abort=abort))
        if state.remaining >= 0:
            for each in await self.get_step_results(flow_id):
                id = step_id(flow_id, each.step_index)
                self._recorder.write("count", task=id, result=each.result)
        return state

    async def mark_joined(self, flow_id: str) -> bool:
        inner = super().mark_joined
        return await self._around("joined", lambda: inner(flow_id))


class WatchedProjections(SqlProjections):
    """`project` for what begins, `project-end` for what has ended."""

    def __init__(self, storage: SqlStorage, crash: CrashPoint) -> None:
        super().__init__(storage)
        self._crash = crash

    async def upsert_projections(self, entries: Sequence[EntityTaskProjection]) -> None:
        ended = any(entry.status in ("executed", "failed") for entry in entries)
        name = "project-end" if ended else "project"
        self._crash.here(f"{name}.before")
        await super().upsert_projections(entries)
        self._crash.here(f"{name}.after")
