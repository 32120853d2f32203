"""RedisFlowBarrier: flows as hashes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal, Self, TypeAlias, cast

from msgspec import Struct
from msgspec.json import Decoder

from taskloom.flows import FlowEnd, FlowStepResult, NewFlow
from taskloom.interfaces import BarrierState, FlowBarrier, FlowRecord
from taskloom.redis.clients import Client
from taskloom.redis.entries import micros
from taskloom.redis.rows import json_text, moment
from taskloom.redis.scripts import pack
from taskloom.redis.server import RedisServer, server_of
from taskloom.task import Task

__all__ = ["RedisFlowBarrier"]

_State: TypeAlias = Literal["open", "ready", "sent"]

_decode_step = Decoder(FlowStepResult).decode
_decode_task = Decoder(Task[Any]).decode


class RedisFlowBarrier(FlowBarrier):
    """A barrier that everyone on this Redis shares; every method is one script.

    All flows share a hash tag. It shares no transaction with a storage: the path writes it between
    the storage and the acknowledgement.
    """

    def __init__(self, source: Client | RedisServer) -> None:
        self.server = server_of(source)

    @classmethod
    def from_url(cls, url: str, *, prefix: str = "taskloom") -> Self:
        """A barrier with connections of its own: see `RedisServer.from_url`."""
        return cls(RedisServer.from_url(url, prefix=prefix))

    async def open(self) -> None:
        await self.server.open(self)

    async def close(self) -> None:
        await self.server.close(self)

    async def init_barrier(
        self, flow_id: str, total_steps: int, *, join: Task[Any] | None = None
    ) -> None:
        """Open a flow; a known one is left as it is."""
        await self._run("flows_open", flow_id, total_steps, "" if join is None else json_text(join))

    async def record_steps(
        self, flow_id: str, results: Sequence[FlowStepResult], *, abort: bool = False
    ) -> BarrierState:
        """Count steps of an open flow; `abort`: then abort it."""
        steps = [(each.step_index, each.status == "fail", json_text(each)) for each in results]
        trigger = next((index for index, failed, _ in steps if failed), "")
        answer = await self._run("flows_count", flow_id, steps, abort, trigger)
        if answer is None:
            return BarrierState(-1, known=False)
        if isinstance(answer, int):
            raise ValueError(f"flow {flow_id} has no step {answer}")
        return _Flow.read(answer).barrier_state()

    async def get_step_results(self, flow_id: str) -> list[FlowStepResult]:
        """What counted, ordered by index."""
        steps = [_decode_step(step) for step in await self._run("flows_steps", flow_id)]
        return sorted(steps, key=lambda step: step.step_index)

    async def mark_aborted(self, flow_id: str, *, timed_out: bool = False) -> bool:
        """End an open flow early. False when it was not open."""
        end = "timed_out" if timed_out else "aborted"
        return bool(await self._run("flows_end", flow_id, end))

    async def mark_joined(self, flow_id: str) -> bool:
        """Note that the join was handed over. True for one caller only."""
        return bool(await self._run("flows_send", flow_id))

    async def is_complete(self, flow_id: str) -> bool:
        flow = await self._get(flow_id)
        return flow is not None and flow.end == "completed"

    async def get_started_at(self, flow_id: str) -> datetime | None:
        flow = await self._get(flow_id)
        return None if flow is None else flow.started_at

    async def get_flow(self, flow_id: str) -> FlowRecord | None:
        flow = await self._get(flow_id)
        return None if flow is None or flow.join is None else flow.record(flow.join)

    async def search(self, *, limit: int = 50, after: str | None = None) -> list[FlowRecord]:
        """Flows, the newest first. Nothing when `after` is not known (any more)."""
        return _records(await self._run("flows_search", limit, after or "") if limit > 0 else [])

    async def unsent(self, *, ready_before: datetime, limit: int) -> list[FlowRecord]:
        """Flows that have been ready since before that time, the oldest first."""
        before = micros(ready_before)
        return _records(await self._run("flows_unsent", before, limit) if limit > 0 else [])

    async def prune(self, *, sent_before: datetime, limit: int) -> int:
        """Forget at most `limit` flows whose join was handed over before a time."""
        return int(await self._run("flows_prune", micros(sent_before), limit))

    async def _get(self, flow_id: str) -> _Flow | None:
        values = await self._run("flows_get", flow_id)
        return None if values is None else _Flow.read(values)

    async def _run(self, script: str, *message: Any) -> Any:
        return await self.server.run(script, [self.server.keys.flows], pack(message))


class _Flow(Struct, frozen=True):
    """What the `read` of `lua/flows.lua` returns."""

    flow_id: str
    total: int
    state: _State
    end: FlowEnd | None
    counted: int
    failed: int
    started_at: datetime
    ended_at: datetime | None
    trigger: int | None
    join: Task[Any] | None

    @classmethod
    def read(cls, values: Sequence[Any]) -> _Flow:
        total, state, end, failed, started, ended, trigger, join, counted, flow_id = values
        return cls(
            flow_id.decode(),
            int(total),
            cast(_State, state.decode()),
            cast(FlowEnd, end.decode()) if end else None,
            counted,
            int(failed),
            moment(started),
            moment(ended) if ended else None,
            int(trigger) if trigger else None,
            _decode_task(join) if join else None,
        )

    def barrier_state(self) -> BarrierState:
        early = self.end in ("aborted", "timed_out")
        return BarrierState(
            -1 if early else self.total - self.counted,
            joined=self.state == "sent",
            aborted=early,
            timed_out=self.end == "timed_out",
        )

    def record(self, join: Task[Any]) -> FlowRecord:
        return FlowRecord(
            NewFlow(self.flow_id, self.total, join),
            self.state,
            self.end,
            self.counted,
            self.failed,
            self.started_at,
            self.ended_at,
            self.trigger,
        )


def _records(found: Sequence[Sequence[Any]]) -> list[FlowRecord]:
    flows = [_Flow.read(values) for values in found]
    return [flow.record(flow.join) for flow in flows if flow.join is not None]
