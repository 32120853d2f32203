"""MongoDBFlowBarrier: flows beside the tasks of a MongoDBStorage, in its transactions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Self

from taskloom.clock import SYSTEM_CLOCK, Clock
from taskloom.flows import FlowStepResult
from taskloom.interfaces import BarrierState, FlowBarrier, FlowRecord, FlowSettled
from taskloom.mongodb import flow_settling, flows
from taskloom.mongodb.apart import settle_apart
from taskloom.mongodb.changing import insert_new
from taskloom.mongodb.flows import Flow, Said
from taskloom.mongodb.rows import micros, moment
from taskloom.mongodb.schema import Collections
from taskloom.mongodb.storage import MongoDBStorage, prepared
from taskloom.mongodb.transacting import Writing
from taskloom.outcomes import Settlement
from taskloom.task import Task

__all__ = ["MongoDBFlowBarrier"]


class MongoDBFlowBarrier(FlowBarrier):
    """Flows in the database of `storage`; every method is one transaction where there are any.

    Without them each flow is still counted in one atomic step.

    storage = MongoDBStorage.from_url("mongodb://localhost:27017/tasks")
    async with MongoDBFlowBarrier(storage) as barrier:
        await barrier.settle(Settlement(added=tuple(tasks), flows=(flow,)))
    """

    def __init__(self, storage: MongoDBStorage) -> None:
        self.storage: MongoDBStorage = storage
        self._database = storage.database

    @property
    def _kept(self) -> Collections:
        return self._database.collections

    @classmethod
    def from_url(cls, url: str, *, clock: Clock = SYSTEM_CLOCK) -> Self:
        """A barrier that makes its own storage: see `MongoDBDatabase.from_url`."""
        return cls(MongoDBStorage.from_url(url, clock=clock))

    async def open(self) -> None:
        await self._database.open(self)

    async def upgrade(self) -> None:
        await self._database.upgrade()

    async def close(self) -> None:
        await self._database.close(self)

    async def init_barrier(
        self, flow_id: str, total_steps: int, *, join: Task[Any] | None = None
    ) -> None:
        new = flows.new_document(flow_id, total_steps, join, self._database.now_micros())
        await self._database.write_at_once(lambda at: insert_new(at, self._kept.flows, [new]))

    async def record_steps(
        self, flow_id: str, results: Sequence[FlowStepResult], *, abort: bool = False
    ) -> BarrierState:
        """Count steps: their results first, then all of them by one update of the flow."""
        trigger = next((step.step_index for step in results if step.status == "fail"), None)
        said = Said(list(results), aborts=abort, trigger=trigger)
        now = self._database.now_micros()
        return await self._database.write_at_once(
            lambda at: flows.record(at, self._kept, flow_id, said, now)
        )

    async def get_step_results(self, flow_id: str) -> list[FlowStepResult]:
        with self._database.calling():
            return (await flows.read_steps(Writing(), self._kept, [flow_id]))[flow_id]

    async def mark_aborted(self, flow_id: str, *, timed_out: bool = False) -> bool:
        now = self._database.now_micros()
        with self._database.calling():
            return await flows.end_early(Writing(), self._kept, flow_id, timed_out, now)

    async def mark_joined(self, flow_id: str) -> bool:
        now = self._database.now_micros()
        with self._database.calling():
            return await flows.mark_sent(Writing(), self._kept.flows, flow_id, now)

    async def is_complete(self, flow_id: str) -> bool:
        flow = await self._get(flow_id)
        return flow is not None and flow.end == "completed"

    async def get_started_at(self, flow_id: str) -> datetime | None:
        flow = await self._get(flow_id)
        return None if flow is None else moment(flow.started_at)

    async def get_flow(self, flow_id: str) -> FlowRecord | None:
        flow = await self._get(flow_id)
        return next(iter(_records([] if flow is None else [flow])), None)

    async def search(self, *, limit: int = 50, after: str | None = None) -> list[FlowRecord]:
        """Flows, the newest first. Nothing when `after` is not known (any more)."""
        with self._database.calling():
            return _records(await flows.search(self._kept.flows, limit, after))

    async def unsent(self, *, ready_before: datetime, limit: int) -> list[FlowRecord]:
        with self._database.calling():
            return _records(await flows.unsent(self._kept.flows, micros(ready_before), limit))

    async def prune(self, *, sent_before: datetime, limit: int) -> int:
        before = micros(sent_before)
        return await self._database.write_at_once(
            lambda at: flows.prune(at, self._kept, before, limit)
        )

    async def settle(self, plan: Settlement) -> FlowSettled:
        """`plan`, its flows and its steps: in one transaction, or each step before the endings.

        Where somebody else holds a record of it, each ending with what follows is by itself.

        A repeated settle writes nothing and has no news. A `ready` flow among `plan.flows` is
        handed over, too.
        """
        answers = await settle_apart(plan, self._settle)
        refused = [id for each in answers for id in each.refused]
        return FlowSettled(refused, [news for each in answers for news in each.news])

    async def _settle(self, plan: Settlement, attempts: int | None) -> FlowSettled:
        now = self._database.now()
        rows = await prepared(plan, now)
        settled = await self._database.write(
            lambda at: flow_settling.settle(at, self._kept, plan, rows, now), attempts=attempts
        )
        joins = {each.join.queue_id for each in settled.news}
        waiting = {row["queue"] for row in rows.waiting() if "due" in row}
        self._database.wakeups.notify(joins | waiting)
        return settled

    async def _get(self, flow_id: str) -> Flow | None:
        with self._database.calling():
            return (await flows.fetch(Writing(), self._kept.flows, [flow_id])).get(flow_id)


def _records(found: Iterable[Flow]) -> list[FlowRecord]:
    """The flows whose join is known."""
    joins = ((flow, flow.join()) for flow in found)
    return [flow.record(join) for flow, join in joins if join is not None]
