"""The flow keeper: counts steps on a barrier beside the storage, and hands joins over.

A barrier that shares its storage's transactions does all of this in `FlowBarrier.settle`. Here it
takes steps, each safe to repeat: results counted, join added, waiting steps cancelled, join noted.
Whoever finds a join `ready` may hand it over again: its id makes it one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

from taskloom.clock import Clock
from taskloom.flows import (
    FlowStepResult,
    NewFlow,
    join_id,
    join_task,
    join_template,
    step_id,
)
from taskloom.interfaces.flow_barrier import BarrierState, FlowBarrier, FlowNews, FlowRecord
from taskloom.interfaces.task_storage import TaskStorage
from taskloom.outcomes import Ending, Settlement
from taskloom.projections import FLOW_ERRORS
from taskloom.settlement import step_result
from taskloom.task import FlowMeta, Task

__all__ = ["FlowKeeper", "StepEnd", "step_ends"]

_log = logging.getLogger(__name__)

AT_ONCE = 50
"""Flows that are counted side by side."""
SWEEP_AGE = 5.0
"""Seconds that a join may be ready before somebody else hands it over."""
SWEEP_BATCH = 100


class StepEnd(NamedTuple):
    """A task of a flow that has ended: a step with its result, or the sentinel without."""

    task: Task[Any]
    result: FlowStepResult | None


class FlowKeeper:
    """Everything that is done to flows outside the executors that start them."""

    def __init__(
        self,
        barrier: FlowBarrier,
        storage: TaskStorage,
        add: Callable[[Sequence[Task[Any]]], Awaitable[Any]],
        clock: Clock,
        *,
        forgotten_after: float | None,
    ) -> None:
        self.barrier = barrier
        self._storage = storage
        self._add = add
        self._clock = clock
        self._forgotten_after = forgotten_after

    @property
    def integrated(self) -> bool:
        """Whether the barrier counts in the storage's own settle."""
        return self.barrier.storage is self._storage

    async def open(self, flows: Iterable[NewFlow]) -> None:
        """Let flows be counted; before any of their steps exists. Safe to repeat."""
        for flow in flows:
            await self.barrier.init_barrier(flow.flow_id, flow.total_steps, join=flow.join)

    async def count(self, ends: Iterable[StepEnd]) -> list[FlowNews]:
        """Count what has ended, the steps before the sentinels; hand over joins. Safe to repeat.

        Returns the flows that left `open` and whose join was noted by this call.
        """
        flows: dict[str, list[StepEnd]] = {}
        for end in ends:
            meta = end.task.metadata.flow
            if meta is not None and not meta.is_join:
                flows.setdefault(meta.flow_id, []).append(end)
        if not flows:
            return []
        turn = asyncio.Semaphore(AT_ONCE)

        async def one(ends: list[StepEnd]) -> FlowNews | None:
            async with turn:
                return await self._count_flow(ends)

        news = await asyncio.gather(*(one(ends) for ends in flows.values()))
        return [each for each in news if each is not None]

    async def sweep(self) -> list[FlowNews]:
        """Hand over the joins that somebody left behind."""
        before = self._clock.now() - timedelta(seconds=SWEEP_AGE)
        found = await self.barrier.unsent(ready_before=before, limit=SWEEP_BATCH)
        if found:
            _log.warning("%d joins were left by a worker that is gone; handed over", len(found))
        news = [await self._hand_over(record) for record in found]
        return [each for each in news if each is not None]

    async def _count_flow(self, ends: list[StepEnd]) -> FlowNews | None:
        task = ends[0].task
        meta = task.metadata.flow
        assert meta is not None, "a step knows its flow"
        results = [end.result for end in ends if end.result is not None]
        state = await self._record(meta, task, results)
        if state is None or state.joined:
            return None
        if len(results) < len(ends):
            await self.barrier.mark_aborted(meta.flow_id, timed_out=True)
        elif state.remaining > 0:
            return None
        record = await self.barrier.get_flow(meta.flow_id)
        if record is None or record.state != "ready":
            return None
        return await self._hand_over(record)

    async def _record(
        self, meta: FlowMeta, task: Task[Any], results: Sequence[FlowStepResult]
    ) -> BarrierState | None:
        """Count results. None for a flow that ended so long ago that it is forgotten."""
        state = await self._count_steps(meta, results)
        if not state.known:
            if self._forgotten(task):
                return None
            await self._make_up(meta, task)
            state = await self._count_steps(meta, results)
        return state

    async def _count_steps(
        self, meta: FlowMeta, results: Sequence[FlowStepResult]
    ) -> BarrierState:
        abort = meta.failure_policy == "abort" and any(each.status == "fail" for each in results)
        return await self.barrier.record_steps(meta.flow_id, results, abort=abort)

    def _forgotten(self, task: Task[Any]) -> bool:
        """Whether a flow of this age may have ended long ago, and been removed."""
        if self._forgotten_after is None:
            return False
        age = self._clock.now() - task.created_at
        return age > timedelta(seconds=self._forgotten_after)

    async def _make_up(self, meta: FlowMeta, task: Task[Any]) -> None:
        """The barrier has lost this flow: open it again, with what the storage still knows."""
        if await self._storage.get([join_id(meta.flow_id)]):
            return
        _log.error(
            "flow %s is gone from its barrier; it is counted again from the storage, and its join "
            "is told so",
            meta.flow_id,
        )
        join = join_template(task.metadata, self._clock.now(), barrier_lost=True)
        await self.barrier.init_barrier(meta.flow_id, meta.total_steps, join=join)
        ids = [step_id(meta.flow_id, index) for index in range(meta.total_steps)]
        ended = [each for each in await self._storage.get(ids) if each.status.terminal]
        known = [step for each in ended if (step := step_result(each)) is not None]
        if known:
            await self._count_steps(meta, known)

    async def _hand_over(self, record: FlowRecord) -> FlowNews | None:
        flow_id, template = record.flow.flow_id, record.flow.join
        steps = await self.barrier.get_step_results(flow_id)
        end = record.end or "completed"
        join = join_task(template, steps, now=self._clock.now(), end=end)
        await self._add([join])
        cancelled: tuple[str, ...] = ()
        if end != "completed":
            counted = {step.step_index for step in steps}
            rest = set(range(record.flow.total_steps)) - counted
            cancelled = await self._cancel([step_id(flow_id, i) for i in sorted(rest)], end)
        if not await self.barrier.mark_joined(flow_id):
            return None
        return FlowNews(record, join, cancelled)

    async def _cancel(self, ids: list[str], end: str) -> tuple[str, ...]:
        """Cancel steps that have not started."""
        if not ids:
            return ()
        plan = Settlement(cancelled=tuple(ids), reason=FLOW_ERRORS[end])
        left = set(await self._storage.settle(plan))
        return tuple(id for id in ids if id not in left)


def step_ends(endings: Iterable[Ending]) -> list[StepEnd]:
    """The steps and sentinels among endings."""
    return [
        StepEnd(ending.delivery.task, ending.step)
        for ending in endings
        if ending.step is not None or _is_sentinel(ending)
    ]


def _is_sentinel(ending: Ending) -> bool:
    meta = ending.delivery.task.metadata.flow
    return meta is not None and meta.is_timeout and ending.status.terminal
