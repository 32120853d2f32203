"""SqlFlowBarrier: flows beside the tasks of a SqlStorage, in its transactions."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Self

from taskloom.clock import SYSTEM_CLOCK, Clock
from taskloom.codec import encode
from taskloom.flows import FlowStepResult
from taskloom.interfaces import BarrierState, FlowBarrier, FlowRecord, FlowSettled, TaskStorage
from taskloom.outcomes import Settlement
from taskloom.sql import flow_settling, flows, settling
from taskloom.sql.flow_settling import Prepared
from taskloom.sql.flows import Flow
from taskloom.sql.rows import micros, moment
from taskloom.sql.storage import SqlStorage
from taskloom.task import Task

__all__ = ["SqlFlowBarrier"]

_MANY = 1_000
"""Tasks from which making rows of them moves to a thread: about 5 ms of the event loop."""


class SqlFlowBarrier(FlowBarrier):
    """Flows in the database of `storage`; every method is one transaction.

    storage = SqlStorage.from_url("sqlite:///tasks.db")
    async with SqlFlowBarrier(storage) as barrier:
        await barrier.settle(Settlement(added=tuple(tasks), flows=(flow,)))
    """

    def __init__(self, storage: SqlStorage) -> None:
        self.storage: SqlStorage = storage
        self._database = storage.database

    @classmethod
    def from_url(cls, url: str, *, clock: Clock = SYSTEM_CLOCK) -> Self:
        """A barrier that makes its own storage: see `SqlDatabase.from_url`."""
        return cls(SqlStorage.from_url(url, clock=clock))

    async def open(self) -> None:
        await self._database.open(self)

    async def upgrade(self) -> None:
        await self._database.upgrade()

    async def close(self) -> None:
        await self._database.close(self)

    def within(self, storage: TaskStorage) -> SqlFlowBarrier:
        assert isinstance(storage, SqlStorage)
        return SqlFlowBarrier(storage)

    async def init_barrier(
        self, flow_id: str, total_steps: int, *, join: Task[Any] | None = None
    ) -> None:
        body = None if join is None else encode(join).decode()
        now = self._database.now_micros()
        await self._database.write(flows.open_flows, [(flow_id, total_steps, body)], now)

    async def record_steps(
        self, flow_id: str, results: Sequence[FlowStepResult], *, abort: bool = False
    ) -> BarrierState:
        """Count steps; what it costs does not depend on how many have counted before."""
        rows = [flows.step_row(flow_id, result) for result in results]
        now = self._database.now_micros()
        return await self._database.write(flows.record, flow_id, rows, abort, now)

    async def get_step_results(self, flow_id: str) -> list[FlowStepResult]:
        return (await self._database.read(flows.read_steps, [flow_id]))[flow_id]

    async def mark_aborted(self, flow_id: str, *, timed_out: bool = False) -> bool:
        now = self._database.now_micros()
        return await self._database.write(flows.end_early, flow_id, timed_out, now)

    async def mark_joined(self, flow_id: str) -> bool:
        return await self._database.write(flows.mark_sent, flow_id, self._database.now_micros())

    async def is_complete(self, flow_id: str) -> bool:
        flow = await self._database.read(flows.fetch, flow_id)
        return flow is not None and flow.end == "completed"

    async def get_started_at(self, flow_id: str) -> datetime | None:
        flow = await self._database.read(flows.fetch, flow_id)
        return None if flow is None else moment(flow.started_at)

    async def get_flow(self, flow_id: str) -> FlowRecord | None:
        flow = await self._database.read(flows.fetch, flow_id)
        return next(iter(_records([] if flow is None else [flow])), None)

    async def search(self, *, limit: int = 50, after: str | None = None) -> list[FlowRecord]:
        """Flows, the newest first. Nothing when `after` is not known (any more)."""
        return _records(await self._database.read(flows.search, limit, after))

    async def unsent(self, *, ready_before: datetime, limit: int) -> list[FlowRecord]:
        return _records(await self._database.read(flows.unsent, micros(ready_before), limit))

    async def prune(self, *, sent_before: datetime, limit: int) -> int:
        return await self._database.write(flows.prune, micros(sent_before), limit)

    async def settle(self, plan: Settlement) -> FlowSettled:
        """`plan`, its flows and its steps in one transaction.

        A repeated settle writes nothing and has no news. A `ready` flow among `plan.flows` is
        handed over, too. Cancelling it leaves it written whole or not at all.
        """
        now = self._database.now()
        size = len(plan.endings) + len(plan.added) + sum(len(e.children) for e in plan.endings)
        if size > _MANY:
            rows = await asyncio.to_thread(flow_settling.prepare, plan, now)
        else:
            rows = flow_settling.prepare(plan, now)
        try:
            settled = await self._settle(rows, micros(now), settling.settle)
        except settling.LeaseLostError:
            settled = await self._settle(rows, micros(now), settling.settle_what_is_ours)
        queues = {each.join.queue_id for each in settled.news}
        self._database.wakeups.notify(queues | _claimable_queues(rows))
        return settled

    async def _settle(
        self, rows: Prepared, now: int, settle_part: settling.SettlePart
    ) -> FlowSettled:
        return await self._database.write(flow_settling.settle, rows, now, settle_part)


def _records(found: Iterable[Flow]) -> list[FlowRecord]:
    """The flows whose join is known."""
    joins = ((flow, flow.join()) for flow in found)
    return [flow.record(join) for flow, join in joins if join is not None]


def _claimable_queues(prepared: Prepared) -> set[str]:
    """The queues of rows that may be claimed once they are written."""
    queues: set[str] = set()
    for _, part in prepared.parts:
        for rows in (part.nexts, part.free_rows, part.added, part.revived, *part.children.values()):
            queues.update(row[1] for row in rows if row[4] is not None)
    return queues
