"""The barrier and the projections of memory behind a nemesis, as the other engines are."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from msgspec import convert

from simulation.nemesis import Life, Nemesis
from taskloom import (
    EntityTaskProjection,
    FlowLifecycleProvider,
    FlowStepResult,
    StorageUnavailableError,
    Task,
)
from taskloom.attempt import Attempt
from taskloom.codec import to_builtins
from taskloom.current import running
from taskloom.interfaces import BarrierState, EntityProjections, FlowBarrier, FlowRecord
from taskloom.memory import InMemoryFlowBarrier, InMemoryProjections

__all__ = ["SimulatedBarrier", "SimulatedProjections", "ToldOfFlows"]


class SimulatedBarrier(FlowBarrier):
    """One process's way to a barrier, which is beside every storage."""

    def __init__(self, inner: InMemoryFlowBarrier, nemesis: Nemesis, life: Life) -> None:
        self._inner = inner
        self._nemesis = nemesis
        self._life = life

    async def _call(self, name: str, flow_id: str, act: Any, nothing: Any) -> Any:
        return await self._nemesis.around(
            self._life, f"barrier.{name}", (flow_id,), act, nothing, StorageUnavailableError
        )

    async def init_barrier(
        self, flow_id: str, total_steps: int, *, join: Task[Any] | None = None
    ) -> None:
        async def act() -> None:
            new = flow_id not in self._inner._flows
            await self._inner.init_barrier(flow_id, total_steps, join=join)
            if new:
                about = {"total": total_steps, "join": join, "by": _starter()}
                self._life.saw("flow.open", flow_id, **about)

        await self._call("open", flow_id, act, None)

    async def record_steps(
        self, flow_id: str, results: Sequence[FlowStepResult], *, abort: bool = False
    ) -> BarrierState:
        async def act() -> BarrierState:
            state = await self._inner.record_steps(flow_id, results, abort=abort)
            if state.known:
                plain = tuple(convert(to_builtins(result), FlowStepResult) for result in results)
                self._life.saw("flow.steps", flow_id, results=plain, abort=abort)
            return state

        answer: BarrierState = await self._call("record", flow_id, act, BarrierState(1))
        return answer

    async def get_step_results(self, flow_id: str) -> list[FlowStepResult]:
        act = lambda: self._inner.get_step_results(flow_id)  # noqa: E731
        answer: list[FlowStepResult] = await self._call("results", flow_id, act, [])
        return answer

    async def mark_aborted(self, flow_id: str, *, timed_out: bool = False) -> bool:
        async def act() -> bool:
            done = await self._inner.mark_aborted(flow_id, timed_out=timed_out)
            if done:
                self._life.saw("flow.early", flow_id, timed_out=timed_out)
            return done

        answer: bool = await self._call("early", flow_id, act, False)
        return answer

    async def mark_joined(self, flow_id: str) -> bool:
        async def act() -> bool:
            done = await self._inner.mark_joined(flow_id)
            if done:
                self._life.saw("flow.joined", flow_id)
            return done

        answer: bool = await self._call("joined", flow_id, act, False)
        return answer

    async def is_complete(self, flow_id: str) -> bool:
        act = lambda: self._inner.is_complete(flow_id)  # noqa: E731
        answer: bool = await self._call("complete", flow_id, act, False)
        return answer

    async def get_started_at(self, flow_id: str) -> datetime | None:
        act = lambda: self._inner.get_started_at(flow_id)  # noqa: E731
        answer: datetime | None = await self._call("started", flow_id, act, None)
        return answer

    async def get_flow(self, flow_id: str) -> FlowRecord | None:
        act = lambda: self._inner.get_flow(flow_id)  # noqa: E731
        answer: FlowRecord | None = await self._call("get", flow_id, act, None)
        return answer

    async def search(self, *, limit: int = 50, after: str | None = None) -> list[FlowRecord]:
        act = lambda: self._inner.search(limit=limit, after=after)  # noqa: E731
        answer: list[FlowRecord] = await self._call("search", "", act, [])
        return answer

    async def unsent(self, *, ready_before: datetime, limit: int) -> list[FlowRecord]:
        act = lambda: self._inner.unsent(ready_before=ready_before, limit=limit)  # noqa: E731
        answer: list[FlowRecord] = await self._call("unsent", "", act, [])
        return answer

    async def prune(self, *, sent_before: datetime, limit: int) -> int:
        act = lambda: self._inner.prune(sent_before=sent_before, limit=limit)  # noqa: E731
        answer: int = await self._call("prune", "", act, 0)
        return answer


def _starter() -> str:
    """The task whose executor is starting a flow at once; empty when it settles, or outside."""
    attempt = running.get()
    return attempt.task.id if isinstance(attempt, Attempt) else ""


class SimulatedProjections(EntityProjections):
    """One process's way to projections; notes each row that changed its status."""

    def __init__(self, inner: InMemoryProjections, nemesis: Nemesis, life: Life) -> None:
        self._inner = inner
        self._nemesis = nemesis
        self._life = life

    async def upsert_projections(self, entries: Sequence[EntityTaskProjection]) -> None:
        async def act() -> None:
            for entry in entries:  # one after the other: each step is to be seen
                before = self._status(entry.task_id)
                await self._inner.upsert_projections([entry])
                after = self._status(entry.task_id)
                self._life.saw("project", entry.task_id, old=before, new=after, asked=entry.status)

        await self._nemesis.around(
            self._life,
            "project",
            [entry.task_id for entry in entries],
            act,
            None,
            StorageUnavailableError,
        )

    def _status(self, id: str) -> str:
        row = self._inner._rows.get(id)
        return "" if row is None else row.status


class ToldOfFlows(FlowLifecycleProvider):
    """Notes how flows are said to have ended."""

    def __init__(self, life: Life) -> None:
        self._life = life

    def on_flow_completed(self, event: Any) -> None:
        self._life.note("flow.told", event.flow_id, end="completed")

    def on_flow_aborted(self, event: Any) -> None:
        self._life.note("flow.told", event.flow_id, end="aborted")

    def on_flow_timed_out(self, event: Any) -> None:
        self._life.note("flow.told", event.flow_id, end="timed_out")
