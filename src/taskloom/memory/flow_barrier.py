"""InMemoryFlowBarrier: the flows of one process."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import islice, takewhile
from typing import Any, Literal

from msgspec import Struct
from msgspec.json import Decoder

from taskloom.clock import SYSTEM_CLOCK, Clock
from taskloom.codec import encode
from taskloom.flows import FlowEnd, FlowStepResult, NewFlow
from taskloom.interfaces.flow_barrier import BarrierState, FlowBarrier, FlowRecord
from taskloom.memory.copies import copied_task
from taskloom.task import Task

__all__ = ["InMemoryFlowBarrier"]

_decode_step = Decoder(FlowStepResult).decode


class _Flow(Struct):
    total: int
    join: Task[Any] | None
    started_at: datetime
    steps: dict[int, bytes] = {}
    """What counted, as JSON."""
    failed: int = 0
    state: Literal["open", "ready", "sent"] = "open"
    end: FlowEnd | None = None
    trigger: int | None = None
    ended_at: datetime | None = None
    sent_at: datetime | None = None


class InMemoryFlowBarrier(FlowBarrier):
    """A barrier for tests and for one process. Lost with it; `close` keeps what it knows.

    All state changes happen between two awaits, so each call is atomic.
    """

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._flows: dict[str, _Flow] = {}
        # Flows in the order they came to these states: the front is the oldest.
        self._ready: dict[str, _Flow] = {}
        self._sent: dict[str, _Flow] = {}

    async def init_barrier(
        self, flow_id: str, total_steps: int, *, join: Task[Any] | None = None
    ) -> None:
        if flow_id not in self._flows:
            kept = None if join is None else copied_task(join)
            self._flows[flow_id] = _Flow(total_steps, kept, self._clock.now())

    async def record_steps(
        self, flow_id: str, results: Sequence[FlowStepResult], *, abort: bool = False
    ) -> BarrierState:
        flow = self._flows.get(flow_id)
        if flow is None:
            return BarrierState(-1, known=False)
        bodies = [(result, encode(result)) for result in results]
        for result in results:
            if not 0 <= result.step_index < flow.total:
                raise ValueError(f"flow {flow_id} has no step {result.step_index}")
        if flow.state == "open":
            for result, body in bodies:
                self._count(flow, result, body)
            if abort:
                flow.trigger = next((r.step_index for r in results if r.status == "fail"), None)
                self._end(flow_id, flow, "aborted")
            elif len(flow.steps) == flow.total:
                self._end(flow_id, flow, "completed")
        return _state(flow)

    def _count(self, flow: _Flow, result: FlowStepResult, body: bytes) -> None:
        if result.step_index not in flow.steps:
            flow.steps[result.step_index] = body
            flow.failed += result.status == "fail"

    def _end(self, flow_id: str, flow: _Flow, end: FlowEnd) -> None:
        flow.state, flow.end, flow.ended_at = "ready", end, self._clock.now()
        self._ready[flow_id] = flow

    async def get_step_results(self, flow_id: str) -> list[FlowStepResult]:
        flow = self._flows.get(flow_id)
        return (
            [] if flow is None else [_decode_step(body) for _, body in sorted(flow.steps.items())]
        )

    async def mark_aborted(self, flow_id: str, *, timed_out: bool = False) -> bool:
        flow = self._flows.get(flow_id)
        if flow is None or flow.state != "open":
            return False
        self._end(flow_id, flow, "timed_out" if timed_out else "aborted")
        return True

    async def mark_joined(self, flow_id: str) -> bool:
        flow = self._ready.pop(flow_id, None)
        if flow is None:
            return False
        flow.state, flow.sent_at = "sent", self._clock.now()
        self._sent[flow_id] = flow
        return True

    async def is_complete(self, flow_id: str) -> bool:
        flow = self._flows.get(flow_id)
        return flow is not None and flow.end == "completed"

    async def get_started_at(self, flow_id: str) -> datetime | None:
        flow = self._flows.get(flow_id)
        return None if flow is None else flow.started_at

    async def get_flow(self, flow_id: str) -> FlowRecord | None:
        return self._record(flow_id)

    async def search(self, *, limit: int = 50, after: str | None = None) -> list[FlowRecord]:
        """Flows, the newest first. Nothing when `after` is not known (any more)."""
        newest = sorted(self._flows, key=self._age, reverse=True)
        if after is not None:
            older = self._age(after) if after in self._flows else None
            newest = [id for id in newest if older is not None and self._age(id) < older]
        return self._records(newest, limit)

    async def unsent(self, *, ready_before: datetime, limit: int) -> list[FlowRecord]:
        waits = takewhile(lambda id: _before(self._ready[id].ended_at, ready_before), self._ready)
        return self._records(waits, limit)

    async def prune(self, *, sent_before: datetime, limit: int) -> int:
        over = takewhile(lambda id: _before(self._sent[id].sent_at, sent_before), self._sent)
        gone = list(islice(over, limit))
        for flow_id in gone:
            del self._sent[flow_id], self._flows[flow_id]
        return len(gone)

    def _age(self, flow_id: str) -> tuple[datetime, str]:
        return self._flows[flow_id].started_at, flow_id

    def _records(self, flow_ids: Iterable[str], limit: int) -> list[FlowRecord]:
        found = (self._record(flow_id) for flow_id in flow_ids)
        return list(islice((record for record in found if record is not None), limit))

    def _record(self, flow_id: str) -> FlowRecord | None:
        flow = self._flows.get(flow_id)
        if flow is None or flow.join is None:
            return None
        return FlowRecord(
            NewFlow(flow_id, flow.total, copied_task(flow.join)),
            flow.state,
            flow.end,
            len(flow.steps),
            flow.failed,
            flow.started_at,
            flow.ended_at,
            flow.trigger,
        )


def _before(at: datetime | None, end: datetime) -> bool:
    return at is not None and at < end


def _state(flow: _Flow) -> BarrierState:
    early = flow.end in ("aborted", "timed_out")
    return BarrierState(
        -1 if early else flow.total - len(flow.steps),
        joined=flow.state == "sent",
        aborted=early,
        timed_out=flow.end == "timed_out",
    )
