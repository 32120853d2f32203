"""Barriers and projections that die, if told to, before or after a call.

A barrier that shares the storage's transactions has no calls of its own but `settle`. One beside it
takes steps, and so has the crash points between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from crashing import Watch
from watched import WatchedStorage

from taskloom.flows import FlowStepResult, step_id
from taskloom.interfaces import BarrierState, FlowBarrier, FlowSettled
from taskloom.outcomes import Settlement
from taskloom.projections import EntityTaskProjection
from taskloom.redis import RedisFlowBarrier
from taskloom.sql import SqlFlowBarrier, SqlProjections
from taskloom.task import Task

__all__ = [
    "BarrierBeside",
    "BarrierOnRedis",
    "Projecting",
    "WatchedBarrier",
    "WatchedProjections",
]


class WatchedBarrier(SqlFlowBarrier):
    """In the transactions of a watched storage, and noted as its own settles are."""

    def __init__(self, storage: WatchedStorage) -> None:
        super().__init__(storage)
        self._watched = storage

    async def settle(self, plan: Settlement) -> FlowSettled:
        settled, since = await self._watched.watch.around("settle", super().settle(plan))
        self._watched.note_settle(plan, settled.refused, since)
        return settled


class InSteps(FlowBarrier):
    """Over a barrier that is not in the handler's storage."""

    watch: Watch

    async def init_barrier(
        self, flow_id: str, total_steps: int, *, join: Task[Any] | None = None
    ) -> None:
        await self.watch.around("open", super().init_barrier(flow_id, total_steps, join=join))

    async def record_steps(
        self, flow_id: str, results: Sequence[FlowStepResult], *, abort: bool = False
    ) -> BarrierState:
        call = super().record_steps(flow_id, results, abort=abort)
        state, _ = await self.watch.around("record", call)
        if state.remaining >= 0:
            for each in await self.get_step_results(flow_id):
                id = step_id(flow_id, each.step_index)
                self.watch.note("count", task=id, result=each.result)
        return state

    async def mark_joined(self, flow_id: str) -> bool:
        return (await self.watch.around("joined", super().mark_joined(flow_id)))[0]


class BarrierBeside(InSteps, SqlFlowBarrier):
    """On a file of its own."""


class BarrierOnRedis(InSteps, RedisFlowBarrier):
    """On the Redis of the tasks, which has no transaction for both."""


class Projecting:
    """`project` for what begins, `project-end` for what has ended."""

    watch: Watch

    async def upsert_projections(self, entries: Sequence[EntityTaskProjection]) -> None:
        ended = any(entry.status in ("executed", "failed") for entry in entries)
        call = super().upsert_projections(entries)
        await self.watch.around("project-end" if ended else "project", call)


class WatchedProjections(Projecting, SqlProjections):
    """On a SQL database."""
