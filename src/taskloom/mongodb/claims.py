"""Claims and leases: who may run a task, and until when.

A *key* is a task's id and the epoch of the lease that someone believes to hold; functions on keys
return those that were no longer in force. Times are microseconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeAlias

from msgspec import Struct
from msgspec.structs import force_setattr
from pymongo import UpdateMany, UpdateOne

from taskloom.identity import new_id
from taskloom.mongodb.asking import by_ids, pieces
from taskloom.mongodb.changing import Step, over, write_marked
from taskloom.mongodb.rows import Document, NotATaskError, body_of, decode_task, document
from taskloom.mongodb.schema import EVER, Collection, claimable
from taskloom.mongodb.transacting import Writing
from taskloom.outcomes import Delivery, UnreadableRecord
from taskloom.task import Task, TaskStatus

__all__ = [
    "Key",
    "RowLease",
    "claim",
    "claim_any",
    "extend",
    "next_due",
    "put_back",
    "records",
    "release",
    "take_over",
]

Key: TypeAlias = tuple[str, int]

_HELD = {"status": TaskStatus.PROCESSING.value}
_ENDED = [status.value for status in TaskStatus if status.terminal]


class RowLease(Struct, frozen=True):
    """The receipt of a record that is not a task."""

    id: str
    epoch: int


async def claim(
    tasks: Collection, queue_id: str, limit: int, now: int, until: int
) -> list[Document]:
    """Lease at most `limit` due tasks of a queue until `until`, in due order.

    A task is with one caller only: one update writes a mark to those of the tasks just found that
    are due still, and what has the mark is ours. Others may have been quicker with all of them;
    then there may be more, and it looks again.
    """
    due = {"queue": queue_id, **claimable(now)}
    while limit > 0:
        found = tasks.find(due, {"_id": 1}).sort([("due", 1), ("seq", 1)]).limit(limit)
        ids = [each["_id"] async for each in found]
        taken = await _lease(tasks, ids, due, now, until)
        if taken or not ids:
            return taken
    return []


async def claim_any(tasks: Collection, limit: int, now: int, until: int) -> list[Document]:
    """As `claim`, over all queues: the tasks due first."""
    if limit <= 0:
        return []
    found: list[Document] = []
    for queue_id in await tasks.distinct("queue", claimable(now)):
        due = {"queue": queue_id, **claimable(now)}
        first = tasks.find(due, {"due": 1, "seq": 1}).sort([("due", 1), ("seq", 1)]).limit(limit)
        found += [each async for each in first]
    found.sort(key=lambda each: (each["due"], each["seq"]))
    ids = [each["_id"] for each in found[:limit]]
    return await _lease(tasks, ids, claimable(now), now, until)


async def take_over(
    tasks: Collection, ids: Sequence[str], now: int, until: int
) -> dict[str, Document]:
    """Lease tasks by id until `until`, whoever held them; those that have not ended."""
    alive = {"status": {"$nin": _ENDED}}
    return {each["_id"]: each for each in await _lease(tasks, ids, alive, now, until)}


async def _lease(
    tasks: Collection, ids: Sequence[str], which: Document, now: int, until: int
) -> list[Document]:
    """Lease those of `ids` of which `which` is true still."""
    mark = new_id()
    leased, taken = _leased(mark, now, until), 0
    for piece in pieces(ids):
        answer = await tasks.update_many({"_id": {"$in": piece}, **which}, leased)
        taken += answer.matched_count
    found = await by_ids(Writing(), tasks, ids, mark=mark) if taken else []
    return sorted(found, key=lambda each: (each["was_due"], each["seq"]))


def _leased(mark: str, now: int, until: int) -> list[Document]:
    # One whose lease has lapsed keeps the place it had.
    held = {"$eq": ["$status", TaskStatus.PROCESSING.value]}
    place = {"$cond": [held, {"$ifNull": ["$was_due", "$due"]}, "$due"]}
    return [
        {"$set": {"was_due": {"$ifNull": [place, EVER]}}},
        {
            "$set": {
                **_HELD,
                "due": until,
                "started": now,
                "updated": now,
                "epoch": {"$add": ["$epoch", 1]},
                "deliveries": {"$add": ["$deliveries", 1]},
                "rev": {"$add": ["$rev", 1]},
                "mark": mark,
            }
        },
    ]


def records(taken: Iterable[Document], at: datetime) -> list[Delivery | UnreadableRecord]:
    """What was leased at `at`, as deliveries; bytes that are not the document's task as records."""
    return [_record(each, at) for each in taken]


def _record(found: Mapping[str, Any], at: datetime) -> Delivery | UnreadableRecord:
    body, epoch, count = body_of(found), found["epoch"], found["deliveries"]
    try:
        task = decode_task(body, found["_id"])
    except NotATaskError as error:
        lease = RowLease(found["_id"], epoch)
        return UnreadableRecord(body, str(error), lease, count, found["queue"])
    # Straight into a value that nobody else has seen: a copy would cost as much as decoding it.
    force_setattr(task, "status", TaskStatus.PROCESSING)
    force_setattr(task, "processing_started_at", at)
    force_setattr(task, "updated_at", at)
    return Delivery(task, epoch, count)


async def next_due(tasks: Collection, queue_id: str) -> int | None:
    """When the queue's first task may be claimed; None if there is none."""
    waiting = {"queue": queue_id, **claimable()}
    first = await tasks.find_one(waiting, {"due": 1}, sort=[("due", 1), ("seq", 1)])
    return None if first is None else int(first["due"])


async def extend(tasks: Collection, keys: Sequence[Key], until: int) -> list[Key]:
    """Move the end of the leases."""
    return await _change(tasks, keys, {"$set": {"due": until}, "$inc": {"rev": 1}}, 0)


async def release(tasks: Collection, keys: Sequence[Key], due: int, now: int) -> list[Key]:
    """Give tasks back as they were, to be claimed from `due` on; that delivery does not count."""
    back = {
        "$set": {"status": TaskStatus.SCHEDULED.value, "due": due, "updated": now},
        "$unset": {"started": ""},
        "$inc": {"rev": 1, "epoch": 1, "deliveries": -1},
    }
    return await _change(tasks, keys, back, 1)


async def _change(
    tasks: Collection, keys: Sequence[Key], change: Document, raised: int
) -> list[Key]:
    """One change to all that are held under their keys, which raises epochs by `raised`."""
    mark = new_id()
    marked = {**change, "$set": {**change["$set"], "mark": mark}}
    by_epoch: dict[int, list[str]] = {}
    for id, epoch in dict.fromkeys(keys):
        by_epoch.setdefault(epoch, []).append(id)
    steps: list[Step] = [
        UpdateMany({"_id": {"$in": piece}, "epoch": epoch, **_HELD}, marked)
        for epoch, ids in by_epoch.items()
        for piece in pieces(ids)
    ]
    done = await write_marked(Writing(), tasks, steps, _ids(keys), mark)
    if done is None:
        return []
    return [(id, epoch) for id, epoch in keys if (id, epoch + raised) not in done]


async def put_back(tasks: Collection, keys: Sequence[Key], again: Sequence[Task[Any]]) -> list[Key]:
    """Give tasks back as `again` says: a retry, which starts again at no delivery."""
    mark = new_id()
    steps: list[Step] = [
        UpdateOne(
            {"_id": id, "epoch": epoch, **_HELD},
            over(document(task), mark, epoch=epoch + 1),
        )
        for (id, epoch), task in zip(keys, again, strict=True)
    ]
    done = await write_marked(Writing(), tasks, steps, _ids(keys), mark)
    if done is None:
        return []
    return [(id, epoch) for id, epoch in keys if (id, epoch + 1) not in done]


def _ids(keys: Sequence[Key]) -> list[str]:
    """One for each key: two of one id cannot both be in force."""
    return [id for id, _ in dict.fromkeys(keys)]
