"""Writing documents under what was just read of them, and knowing afterwards which were written.

Each write sets a `mark` that nobody else has: where fewer documents were written than asked for,
those with the mark are the ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Collection as Sized
from datetime import datetime
from typing import Any, TypeAlias

from msgspec import UNSET, convert
from msgspec.structs import replace
from pymongo import InsertOne, ReplaceOne, UpdateMany, UpdateOne
from pymongo.errors import BulkWriteError

from taskloom.codec import to_builtins
from taskloom.identity import new_id
from taskloom.mongodb.asking import by_ids
from taskloom.mongodb.faults import is_known
from taskloom.mongodb.rows import Document, document, kept_always, read_task
from taskloom.mongodb.schema import Collection
from taskloom.mongodb.transacting import Writing
from taskloom.task import Task, TaskStatus

__all__ = [
    "Step",
    "cancel",
    "changed_document",
    "insert_new",
    "over",
    "revive",
    "rewrite",
    "unqueue",
    "update_fields",
    "upsert",
    "write_marked",
]

Step: TypeAlias = "InsertOne[Document] | ReplaceOne[Document] | UpdateMany | UpdateOne"
Thought: TypeAlias = Callable[[str, Document | None], Document | None]
"""The document that is to stand for an id, by the one that stands there; None: it stays."""

_WAITING = (TaskStatus.SCHEDULED, TaskStatus.QUEUED)
_OPTIONAL = ("due", "was_due", "started", "expires", "entity", "stats", "result")


async def insert_new(at: Writing, kept: Collection, new: Sequence[Document]) -> set[str]:
    """Insert documents; one whose `_id` is there is left as it is. The ids that were new."""
    by_id: dict[str, Document] = {}
    for each in new:
        by_id.setdefault(each["_id"], each)
    if not by_id:
        return set()
    if at.careful:
        return await _insert_unknown(at, kept, by_id)
    try:
        await kept.insert_many(by_id.values(), ordered=False, session=at.session)
    except BulkWriteError as error:
        # In a transaction it is over with the first one that is known.
        if at.session is not None or not is_known(error):
            raise
        failed = {each["index"] for each in error.details["writeErrors"]}
        return {id for index, id in enumerate(by_id) if index not in failed}
    return set(by_id)


async def _insert_unknown(at: Writing, kept: Collection, by_id: Mapping[str, Document]) -> set[str]:
    steps = [
        UpdateOne(
            {"_id": id},
            {"$setOnInsert": {name: value for name, value in new.items() if name != "_id"}},
            upsert=True,
        )
        for id, new in by_id.items()
    ]
    answer = await kept.bulk_write(steps, ordered=False, session=at.session)
    return set((answer.upserted_ids or {}).values())


def over(new: Document, mark: str, *, epoch: int) -> Document:
    """The update that puts a new document in place of one, whose making is not undone."""
    fixed = ("_id", "created", "seq", "rev", "epoch")
    values = {name: value for name, value in new.items() if name not in fixed}
    return {
        "$set": {**values, "epoch": epoch, "mark": mark},
        # Whatever these could say otherwise stands in the new body.
        "$unset": {name: "" for name in _OPTIONAL if name not in new},
        "$inc": {"rev": 1},
    }


async def write_marked(
    at: Writing,
    kept: Collection,
    steps: Sequence[Step],
    ids: Sized[str],
    mark: str,
) -> set[tuple[str, int]] | None:
    """Carry out `steps`, which write `mark` to documents: to as many as there are `ids`, or fewer.

    Returns None when it was as many, else the ids that were written, with their epochs.
    """
    if not steps:
        return None
    try:
        answer = await kept.bulk_write(steps, ordered=False, session=at.session)
        written = answer.matched_count + answer.inserted_count
    except BulkWriteError as error:
        if at.session is not None or not is_known(error):
            raise
        written = 0
    if written == len(ids):
        return None
    found = await by_ids(at, kept, ids, {"epoch": 1}, mark=mark)
    return {(each["_id"], each.get("epoch", 0)) for each in found}


async def rewrite(at: Writing, kept: Collection, ids: Sequence[str], think: Thought) -> set[str]:
    """Put `think(id, document)` in place of documents; again where one has changed meanwhile.

    Returns the ids that were written.
    """
    left, written = list(dict.fromkeys(ids)), set[str]()
    while left:
        mark = new_id()
        found = {each["_id"]: each for each in await by_ids(at, kept, left)}
        thought = {id: think(id, found.get(id)) for id in left}
        wanted = {id: new for id, new in thought.items() if new is not None}
        steps = [_placed(found.get(id), {**new, "mark": mark}) for id, new in wanted.items()]
        done = await write_marked(at, kept, steps, wanted, mark)
        now = set(wanted) if done is None else {id for id, _ in done}
        written |= now
        left = [id for id in wanted if id not in now]
    return written


def _placed(old: Document | None, new: Document) -> Step:
    if old is None:
        return InsertOne({**new, "rev": 0})
    rev = old.get("rev", 0)
    return ReplaceOne({"_id": old["_id"], "rev": rev}, {**new, "rev": rev + 1})


def changed_document(old: Document, task: Task[Any]) -> Document:
    """`task` in place of the document it was read from.

    Another status ends the lease on it; anything else leaves it.
    """
    was = read_task(old)
    moves = task.status is not was.status
    # A lease stays, and a delay beyond `execute_at`.
    stays = task.status is TaskStatus.PROCESSING or task.execute_at == was.execute_at
    new = document(task, due=old.get("due") if not moves and stays else UNSET)
    if not moves and "was_due" in old:
        new["was_due"] = old["was_due"]
    return {
        **new,
        **kept_always(old),
        "epoch": old["epoch"] + moves,
        "deliveries": old["deliveries"],
    }


async def _change(
    at: Writing,
    kept: Collection,
    ids: Sequence[str],
    think: Callable[[Task[Any]], Task[Any] | None],
) -> set[str]:
    """Put `think(task)` in place of tasks; the ids that changed."""

    def placed(id: str, old: Document | None) -> Document | None:
        task = None if old is None else _readable(old)
        new = None if task is None else think(task)
        return None if old is None or new is None else changed_document(old, new)

    return await rewrite(at, kept, ids, placed)


def _readable(old: Document) -> Task[Any] | None:
    """The task, unless its bytes are none: there is nothing to change then."""
    task = read_task(old)
    return None if "unreadable" in task.execution_stats else task


async def cancel(
    at: Writing, kept: Collection, ids: Sequence[str], reason: str, now: datetime
) -> list[str]:
    """End tasks that wait; the ids that do not."""

    def cancelled(task: Task[Any]) -> Task[Any] | None:
        if task.status not in _WAITING:
            return None
        stats = {**task.execution_stats, "cancelled_reason": reason}
        return replace(task, status=TaskStatus.CANCELLED, updated_at=now, execution_stats=stats)

    return _missing(ids, await _change(at, kept, ids, cancelled))


async def unqueue(at: Writing, kept: Collection, ids: Sequence[str], now: datetime) -> list[str]:
    """Let queued tasks wait here again; the ids that are not queued."""

    def waiting(task: Task[Any]) -> Task[Any] | None:
        if task.status is not TaskStatus.QUEUED:
            return None
        return replace(task, status=TaskStatus.SCHEDULED, updated_at=now)

    return _missing(ids, await _change(at, kept, ids, waiting))


async def revive(at: Writing, kept: Collection, rows: Sequence[Document]) -> list[str]:
    """Put documents in place of tasks that have ended; the ids of those that have not."""
    given = {row["_id"]: row for row in rows}

    def alive(id: str, old: Document | None) -> Document | None:
        if old is None or not old["body"] or not TaskStatus(old["status"]).terminal:
            return None
        return {**given[id], **kept_always(old), "epoch": old["epoch"] + 1}

    return _missing(list(given), await rewrite(at, kept, list(given), alive))


def _missing(ids: Sequence[str], done: set[str]) -> list[str]:
    return [id for id in ids if id not in done]


_FIELDS = frozenset(Task.__struct_fields__) - {"id"}


async def update_fields(
    at: Writing, kept: Collection, fields: Mapping[str, Mapping[str, Any]], now: datetime
) -> None:
    """Set fields of tasks by id. Raises `ValueError` for a field that tasks do not have."""
    unknown = {name for given in fields.values() for name in given} - _FIELDS
    if unknown:
        raise ValueError(f"tasks have no such field to set: {', '.join(sorted(unknown))}")

    def changed(task: Task[Any]) -> Task[Any]:
        given = {"updated_at": now, **fields[task.id]}
        values = {name: value for name, value in given.items() if value is not UNSET}
        left = {name: value for name, value in to_builtins(task).items() if name not in given}
        return convert({**left, **to_builtins(values)}, Task[Any])

    await _change(at, kept, list(fields), changed)


_UPSERTED = (
    *("status", "execute_at", "expires_at", "updated_at", "processing_started_at"),
    *("execution_stats", "execution_result", "retry_count"),
)


async def upsert(at: Writing, kept: Collection, new: Sequence[Task[Any]]) -> None:
    """Keep tasks; of known ones only status, times, stats, result and retry_count change."""
    given = {task.id: task for task in new}
    rows = {task.id: document(task) for task in given.values()}

    def merged(id: str, old: Document | None) -> Document | None:
        if old is None:
            return rows[id]
        task = _readable(old)
        if task is None:
            return None
        changes = {name: getattr(given[id], name) for name in _UPSERTED}
        return changed_document(old, replace(task, **changes))

    await rewrite(at, kept, list(given), merged)
