"""Builds of the library with one guard removed: the rig must notice each of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import cache
from hashlib import sha1
from typing import Any

from sqlalchemy import Update, bindparam, update

from taskloom import handoff, identity
from taskloom.carriers import SteppedCarrier
from taskloom.carrying import Carried, Steps
from taskloom.flow_keeper import FlowKeeper
from taskloom.flows import join_task
from taskloom.interfaces import FlowNews, FlowRecord, FlowSettled
from taskloom.mongodb import claims as document_claims
from taskloom.mongodb import settling as documents
from taskloom.mongodb.rows import Document
from taskloom.mongodb.schema import Collection, Collections
from taskloom.mongodb.transacting import Writing
from taskloom.outcomes import Delivery, Settlement
from taskloom.redis import server
from taskloom.redis.scripts import Script
from taskloom.settlement import Verdict
from taskloom.sql import SqlFlowBarrier, SqlStorage, claims, settling
from taskloom.sql.schema import tasks
from taskloom.task import TaskStatus

__all__ = ["GUARDS", "remove_guard"]


def remove_guard(name: str) -> None:
    """Take the guard `name` out of the library in this process; "" none."""
    if name:
        GUARDS[name]()


def _no_fencing() -> None:
    """A settle is written whatever lease is in force."""

    @cache
    def end() -> Update:
        ends = settling._ENDS.table()
        return settling._ended(ends).where(tasks.c.id == ends.c.id)

    settling._end = end


def _acknowledge_first() -> None:
    """What has ended well is acknowledged before its effects are written."""
    settle = SqlStorage.settle

    async def in_two_steps(self: SqlStorage, plan: Settlement) -> list[str]:
        good = [each for each in plan.endings if each.status is TaskStatus.EXECUTED]
        if not good:
            return await settle(self, plan)
        gone = await self.mark_executed([each.delivery for each in good])
        await asyncio.sleep(0.03)
        lost = {delivery.task.id for delivery in gone}
        for each in good:
            if each.delivery.task.id not in lost:
                await self.update({each.delivery.task.id: {"execution_result": each.result}})
                await self.add(each.children)
        rest = [each for each in plan.endings if each.status is not TaskStatus.EXECUTED]
        return [*lost, *(await settle(self, Settlement(tuple(rest))))]

    SqlStorage.settle = in_two_steps  # type: ignore[method-assign]


def _no_fencing_on_streams() -> None:
    """Whoever ever claimed an entry of a stream may say what becomes of it."""
    fenced = server.script
    guard = "if claims == each[3] then"

    @cache
    def script(name: str) -> Script:
        lua = fenced(name)
        assert guard in lua.text or not name.startswith("queue"), "the guard is gone by itself"
        text = lua.text.replace(guard, "if true then")
        return Script(text, sha1(text.encode(), usedforsecurity=False).hexdigest())

    server.script = script


def _acknowledge_before_storing() -> None:
    """A queue apart from the storage is told first, and the storage and children later."""
    carry_out = SteppedCarrier.carry_out

    async def in_another_order(
        self: SteppedCarrier,
        verdicts: Sequence[Verdict],
        rows: dict[str, Delivery],
        doubtful: set[str],
        steps: Steps,
    ) -> Carried:
        await self._give_up([each for each in verdicts if not each.released], steps)
        await asyncio.sleep(0.03)
        return await carry_out(self, verdicts, rows, doubtful, steps)

    SteppedCarrier.carry_out = in_another_order  # type: ignore[method-assign]


def _no_fencing_of_documents() -> None:
    """A settle is written to a document whatever its epoch is."""

    def held(ids: list[str], epoch: int) -> Document:
        return {"_id": {"$in": ids}}

    def may_end(row: Any, known: Any) -> bool:
        return True

    documents._held = held
    documents._may_end = may_end


def _claim_what_was_found() -> None:
    """What was due when it was looked for is taken, though another one may have been quicker."""
    lease = document_claims._lease

    async def in_any_case(
        tasks: Collection, ids: Sequence[str], which: Document, now: int, until: int
    ) -> list[Document]:
        return await lease(tasks, ids, {}, now, until)

    document_claims._lease = in_any_case


def _end_documents_first() -> None:
    """The endings are written before what follows from them."""
    add = documents.add_what_follows

    async def in_another_order(at: Writing, kept: Collections, plan: Any, gone: set[Any]) -> None:
        await documents.finish(at, kept.tasks, plan, gone, datetime.now(UTC))
        await add(at, kept, plan, gone)

    documents.add_what_follows = in_another_order


def _random_child_ids() -> None:
    """A parent that runs again makes other children."""

    def next_id(self: Any, type: str, queue_id: str, payload: Any) -> str:
        return identity.new_id()

    identity.DerivedIds.next_id = next_id  # type: ignore[method-assign]


def _rescue_by_age() -> None:
    """A lease is as old as its claim, however often it is renewed."""

    async def extend(
        self: SqlStorage, deliveries: Sequence[Delivery], lease: float
    ) -> list[Delivery]:
        return []

    SqlStorage.extend_leases = extend  # type: ignore[method-assign]


def _release_counts() -> None:
    """A task that is given back has one delivery more to its name."""

    @cache
    def release() -> Update:
        keys = claims.KEYS.table()
        return (
            update(tasks)
            .where(
                tasks.c.id == keys.c.id, tasks.c.epoch == keys.c.epoch, claims.still_held(keys.c.id)
            )
            .values(
                status=TaskStatus.SCHEDULED.value,
                epoch=tasks.c.epoch + 1,
                due_at=bindparam("due"),
                updated_at=bindparam("now"),
                started_at=None,
            )
            .returning(tasks.c.id)
        )

    claims._release = release


def _join_as_event() -> None:
    """A join is noted as handed over, then added: whoever dies in between takes it along."""

    async def hand_over(self: FlowKeeper, record: FlowRecord) -> FlowNews | None:
        flow_id = record.flow.flow_id
        if not await self.barrier.mark_joined(flow_id):
            return None
        steps = await self.barrier.get_step_results(flow_id)
        join = join_task(record.flow.join, steps, now=self._clock.now())
        await self._add([join])
        return FlowNews(record, join)

    FlowKeeper._hand_over = hand_over  # type: ignore[method-assign]


def _count_after_settling() -> None:
    """Steps are counted in a transaction of their own, after they were acknowledged."""
    count = SqlFlowBarrier.settle

    async def in_two_steps(self: SqlFlowBarrier, plan: Settlement) -> FlowSettled:
        refused = await self.storage.settle(plan)
        settled = await count(self, plan)
        return FlowSettled(refused, settled.news)

    SqlFlowBarrier.settle = in_two_steps  # type: ignore[method-assign]


def _evict_without_cancelling() -> None:
    """A run that took too long leaves its place, and goes on."""

    def evict(self: Any, entry: Any, duration: float) -> None:
        self._timed_out += 1
        self._drop(entry.task.id)

    handoff.AsyncTaskManager._evict = evict  # type: ignore[method-assign]


GUARDS: dict[str, Callable[[], None]] = {
    "fencing": _no_fencing,
    "acknowledge-last": _acknowledge_first,
    "stream-fencing": _no_fencing_on_streams,
    "acknowledge-after-storing": _acknowledge_before_storing,
    "document-fencing": _no_fencing_of_documents,
    "claim-only-what-is-due": _claim_what_was_found,
    "end-documents-last": _end_documents_first,
    "derived-ids": _random_child_ids,
    "leases": _rescue_by_age,
    "release-not-counted": _release_counts,
    "join-is-a-state": _join_as_event,
    "count-with-settle": _count_after_settling,
    "eviction-cancels": _evict_without_cancelling,
}
