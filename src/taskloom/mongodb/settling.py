"""Settling: what follows from runs.

In a transaction all of it or nothing. Without one, step by step: what follows from an ending
(children by their derived ids, rows of projections, flows) comes before the ending itself, which is
the acknowledgement. Who dies between leaves a task that runs again and makes the same once more.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, TypeAlias

from msgspec import UNSET, Struct
from msgspec.structs import replace
from pymongo import UpdateMany, UpdateOne

from taskloom.codec import encode
from taskloom.identity import new_id
from taskloom.mongodb import changing, projections
from taskloom.mongodb.asking import by_ids, pieces
from taskloom.mongodb.changing import Step, insert_new, over, rewrite, write_marked
from taskloom.mongodb.claims import Key
from taskloom.mongodb.rows import Document, document, documents, kept_always, micros
from taskloom.mongodb.schema import Collection, Collections
from taskloom.mongodb.transacting import Writing
from taskloom.outcomes import Ending, Settlement
from taskloom.projections import EntityTaskProjection
from taskloom.task import Task, TaskStatus

__all__ = [
    "Written",
    "add_what_follows",
    "begin",
    "change_waiting",
    "finish",
    "mark_executed",
    "prepare",
    "settle",
]

_PROCESSING = TaskStatus.PROCESSING.value
_Said: TypeAlias = tuple[int, str, bytes | None, bytes | None]
"""An ending but for its id: epoch, status, stats and result."""


class EndRow(Struct, frozen=True):
    """One ending."""

    id: str
    epoch: int
    """Under which it is written; -1 where no lease of ours fences it."""
    status: str
    stats: bytes | None
    result: bytes | None
    whole: Document | None
    """The task as it goes on; where nothing fences it, as it stands if there is none yet."""
    goes_on: bool
    children: list[Document]
    projections: Sequence[EntityTaskProjection]

    @property
    def key(self) -> Key:
        return self.id, self.epoch


class Written(Struct, frozen=True):
    """A settlement as documents, made before the first is written."""

    ends: list[EndRow]
    fenced: bool
    added: list[Document]
    cancelled: Sequence[str]
    reason: str
    revived: list[Document]
    unqueued: Sequence[str]

    @property
    def is_simple(self) -> bool:
        """Whether it is nothing but endings from which nothing follows: each stands for itself."""
        others = self.added or self.cancelled or self.revived or self.unqueued
        return self.fenced and not others and not any(_follows(row) for row in self.ends)

    def waiting(self) -> Iterable[Document]:
        """Documents that may be due once they are written."""
        yield from (*self.added, *self.revived)
        for row in self.ends:
            yield from row.children
            if row.whole is not None:
                yield row.whole


def prepare(plan: Settlement, now: datetime) -> Written:
    """`plan` as documents. Raises `InvalidTaskError` for a task that none can hold."""
    return Written(
        ends=[_end_row(ending, plan.fenced, now) for ending in plan.endings],
        fenced=plan.fenced,
        added=documents(plan.added),
        cancelled=plan.cancelled,
        reason=plan.reason,
        revived=documents([replace(task, updated_at=now) for task in plan.revived]),
        unqueued=plan.unqueued,
    )


def _end_row(ending: Ending, fenced: bool, now: datetime) -> EndRow:
    goes_on = not ending.status.terminal
    return EndRow(
        id=ending.delivery.task.id,
        epoch=ending.delivery.receipt if fenced else -1,
        status=ending.status.value,
        stats=None if ending.stats is None else encode(ending.stats),
        result=None if ending.result is UNSET else encode(ending.result),
        whole=document(_as_ended(ending, fenced, now)) if goes_on or not fenced else None,
        goes_on=goes_on,
        children=documents(ending.children),
        projections=ending.projections,
    )


def _as_ended(ending: Ending, fenced: bool, now: datetime) -> Task[Any]:
    """The whole task as an ending leaves it."""
    before = ending.delivery.task
    task = ending.next or before
    stats = ending.stats
    if stats is None:  # as it was: under a lease, what stood in the document that we hold
        stats = before.execution_stats if fenced else task.execution_stats
    return replace(
        task,
        status=ending.status,
        created_at=before.created_at,
        updated_at=now,
        execution_stats=stats,
        execution_result=ending.result,
    )


def _follows(row: EndRow) -> bool:
    return bool(row.children or row.projections)


async def settle(at: Writing, kept: Collections, plan: Written, now: datetime) -> list[str]:
    """Write `plan`. Returns the ids for which nothing was written."""
    alone = plan.is_simple and at.session is None
    gone = set[Key]() if alone else await begin(at, kept.tasks, plan, now)
    await add_what_follows(at, kept, plan, gone)
    refused = await change_waiting(at, kept.tasks, plan, now)
    return await finish(at, kept.tasks, plan, gone, now) + refused


async def begin(at: Writing, tasks: Collection, plan: Written, now: datetime) -> set[Key]:
    """The endings that are not to be written, before anything is.

    In a transaction the others are written here: from then on a renewal of their leases waits for
    it. Later, each one that came between would undo it all, again and again.
    """
    if at.session is not None:
        return await _end(at, tasks, plan.ends, plan, now)
    return await _lost(at, tasks, plan.ends)


async def finish(
    at: Writing, tasks: Collection, plan: Written, gone: set[Key], now: datetime
) -> list[str]:
    """Write the endings that are not `gone`, if that is not done; the ids of those not written."""
    if at.session is None:
        rows = [row for row in plan.ends if row.key not in gone]
        gone = gone | await _end(at, tasks, rows, plan, now)
    return [row.id for row in plan.ends if row.key in gone]


async def _lost(at: Writing, tasks: Collection, rows: Sequence[EndRow]) -> set[Key]:
    """The endings that are not to be written: their lease is gone, or they had ended otherwise.

    One that was settled so before, by a call whose answer got lost, is not among them.
    """
    only = {"epoch": 1, "status": 1}
    found = await by_ids(at, tasks, [row.id for row in rows], only)
    known = {each["_id"]: (each["epoch"], each["status"]) for each in found}
    return {row.key for row in rows if not _may_end(row, known.get(row.id))}


def _may_end(row: EndRow, known: tuple[int, str] | None) -> bool:
    if row.epoch >= 0:
        return known in ((row.epoch, _PROCESSING), (row.epoch, row.status))
    return known is None or known[1] == row.status or not TaskStatus(known[1]).terminal


async def add_what_follows(at: Writing, kept: Collections, plan: Written, gone: set[Key]) -> None:
    """Children and rows of projections of endings that are not gone, and what is added anyhow."""
    going = [row for row in plan.ends if row.key not in gone]
    new = [child for row in going for child in row.children]
    await insert_new(at, kept.tasks, new + plan.added)
    told = [entry for row in going for entry in row.projections]
    if told:
        await projections.upsert(at, kept.projections, told)


async def change_waiting(at: Writing, tasks: Collection, plan: Written, now: datetime) -> list[str]:
    """Cancel, revive and unqueue; the ids of which that could not be said."""
    refused = await changing.cancel(at, tasks, plan.cancelled, plan.reason, now)
    refused += await changing.revive(at, tasks, plan.revived)
    return refused + await changing.unqueue(at, tasks, plan.unqueued, now)


async def _end(
    at: Writing, tasks: Collection, rows: Sequence[EndRow], plan: Written, now: datetime
) -> set[Key]:
    """Write endings; those that were not written, and had not been before."""
    if plan.fenced:
        unwritten = await _end_held(at, tasks, rows, micros(now))
    else:
        unwritten = await _end_free(at, tasks, rows, micros(now))
    return await _lost(at, tasks, unwritten) if unwritten else set()


async def _end_held(
    at: Writing, tasks: Collection, rows: Sequence[EndRow], now: int
) -> list[EndRow]:
    mark = new_id()
    steps: list[Step] = []
    alike: dict[_Said, list[str]] = {}
    for row in rows:
        if row.whole is None:
            said = (row.epoch, row.status, row.stats, row.result)
            alike.setdefault(said, []).append(row.id)
        else:
            again = over(row.whole, mark, epoch=row.epoch)
            steps.append(UpdateOne(_held([row.id], row.epoch), again))
    for (epoch, status, stats, result), ids in alike.items():
        ended = _ended(status, stats, result, now, mark)
        steps += [UpdateMany(_held(piece, epoch), ended) for piece in pieces(ids)]
    done = await write_marked(at, tasks, steps, [row.id for row in rows], mark)
    return [] if done is None else [row for row in rows if row.key not in done]


def _held(ids: list[str], epoch: int) -> Document:
    which = ids[0] if len(ids) == 1 else {"$in": ids}
    return {"_id": which, "epoch": epoch, "status": _PROCESSING}


def _ended(status: str, stats: bytes | None, result: bytes | None, now: int, mark: str) -> Document:
    values = {"status": status, "updated": now, "mark": mark, "stats": stats, "result": result}
    absent = {"due": ""} if result is not None else {"due": "", "result": ""}
    return {
        "$set": {name: value for name, value in values.items() if value is not None},
        "$unset": absent,
        "$inc": {"rev": 1},
    }


async def _end_free(
    at: Writing, tasks: Collection, rows: Sequence[EndRow], now: int
) -> list[EndRow]:
    by_id = {row.id: row for row in rows}

    def ended(id: str, old: Document | None) -> Document | None:
        row = by_id[id]
        assert row.whole is not None, "nothing fences it"
        if old is None:
            return row.whole
        if TaskStatus(old["status"]).terminal:
            return None
        epoch = old["epoch"] + 1
        if row.goes_on:
            return {**row.whole, **kept_always(old), "epoch": epoch}
        changes = {"status": row.status, "updated": now, "epoch": epoch}
        changes |= {} if row.stats is None else {"stats": row.stats}
        changes |= {} if row.result is None else {"result": row.result}
        left = {name: value for name, value in old.items() if name not in ("due", "result")}
        return {**left, **changes}

    written = await rewrite(at, tasks, list(by_id), ended)
    return [row for row in rows if row.id not in written]


async def mark_executed(tasks: Collection, keys: Sequence[Key], now: datetime) -> list[Key]:
    """End what is still ours as executed; the keys that are not ours."""
    executed = TaskStatus.EXECUTED.value
    rows = [EndRow(id, epoch, executed, None, None, None, False, [], ()) for id, epoch in keys]
    return [row.key for row in await _end_held(Writing(), tasks, rows, micros(now))]
