"""Between tasks and documents.

A document has `_id`, `queue`, `type`, `status`, `created`, `updated`, `body` (the task as JSON
bytes: whatever its keys are, MongoDB never sees them), `epoch`, `deliveries`, `seq` (the order in
which those come that are due at one time), and where there is one `due`, `was_due`, `started`,
`expires`, `entity`, `stats`, `result`. `rev` grows with each write, `mark` names the last of those
that must know what they wrote. Times are microseconds since 1970: MongoDB's own have milliseconds.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

import msgspec
from bson.int64 import Int64
from msgspec import UNSET, UnsetType
from msgspec.structs import force_setattr

from taskloom.codec import decode, encode, encode_checked
from taskloom.errors import InvalidTaskError
from taskloom.mongodb.joins import fitting
from taskloom.task import EntityRef, Task, TaskStatus

__all__ = [
    "Document",
    "NotATaskError",
    "body_of",
    "decode_task",
    "document",
    "documents",
    "entity_name",
    "kept_always",
    "micros",
    "moment",
    "read_task",
]

Document: TypeAlias = dict[str, Any]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MOST = 15 * 1024 * 1024
"""Bytes of a body: the 16 MB that a document may have, less what is beside it."""

_decode_body = msgspec.json.Decoder(Task[Any]).decode

NotATaskError = (msgspec.DecodeError, ValueError, RecursionError)
"""What `decode_task` raises."""


def micros(at: datetime) -> Int64:
    """Microseconds since the epoch, exactly; small ones take 64 bits as well."""
    span = at - _EPOCH
    return Int64((span.days * 86_400 + span.seconds) * 1_000_000 + span.microseconds)


def moment(at: int) -> datetime:
    """The time that `micros` was given."""
    return _EPOCH + timedelta(microseconds=at)


def documents(tasks: Sequence[Task[Any]]) -> list[Document]:
    """New tasks. Raises `InvalidTaskError`, naming the field, for one no document can hold."""
    return [document(task) for task in tasks]


_last_seq = 0


def _next_seq() -> int:
    """Later than any before in this process, and by the clock than those of others."""
    global _last_seq
    _last_seq = max(_last_seq + 1, time.time_ns())
    return _last_seq


def document(task: Task[Any], *, due: int | UnsetType | None = UNSET) -> Document:
    """One task as a new document.

    `due`: when it may be claimed; UNSET: as its status and `execute_at` say.
    """
    if not task.id:
        raise InvalidTaskError("id: must not be empty; make the task without one to get a new id")
    optional = {
        "due": _due(task) if due is UNSET else due,
        "expires": None if task.expires_at is None else micros(task.expires_at),
        "entity": None if task.entity is None else entity_name(task.entity),
    }
    return {
        "_id": task.id,
        "queue": task.queue_id,
        "type": task.type,
        "status": task.status.value,
        "created": micros(task.created_at),
        "updated": micros(task.updated_at),
        "body": _body(task),
        "epoch": 0,
        "deliveries": 0,
        "rev": 0,
        "seq": _next_seq(),
        **{name: value for name, value in optional.items() if value is not None},
    }


def kept_always(old: Document) -> Document:
    """What stays of a document whatever is put in its place."""
    return {name: old[name] for name in ("created", "seq") if name in old}


def entity_name(entity: EntityRef) -> str:
    """One text for both parts; neither holds a control character."""
    return f"{entity.type}\x1f{entity.id}"


def _due(task: Task[Any]) -> int | None:
    if task.status is TaskStatus.SCHEDULED:
        return micros(task.execute_at)
    if task.status is TaskStatus.PROCESSING:
        # Under a lease that nobody here has given: it counts as over when it was last touched.
        return micros(task.updated_at)
    return None


def _body(task: Task[Any]) -> bytes:
    try:
        body = encode(task)
    except (TypeError, ValueError, OverflowError, RecursionError):
        for field in _FIELDS:
            encode_checked(getattr(task, field), field)
        raise
    if len(body) > _MOST:
        join = fitting(task, len(body) - _MOST)
        if join is not None and len(body := encode(join)) <= _MOST:
            return body
        field, size = max(_sizes(task).items(), key=lambda each: each[1])
        raise InvalidTaskError(
            f"{field}: {size:,} bytes as JSON, in a task of {len(body):,}; a document of MongoDB "
            "holds 16 MB. Store large data elsewhere and pass a reference to it"
        )
    return body


_FIELDS = ("payload", "execution_result", "execution_stats", "metadata")


def _sizes(task: Task[Any]) -> dict[str, int]:
    given = {name: getattr(task, name) for name in _FIELDS}
    return {name: len(encode(value)) for name, value in given.items() if value is not UNSET}


def decode_task(body: bytes, id: str) -> Task[Any]:
    """The task in the body of document `id`: a new value that nobody else holds.

    Raises one of `NotATaskError` when there is none, or another one than the document is about.
    """
    task = _decode_body(body)
    if task.id != id:
        raise ValueError(f"the record of {id} says that its id is {task.id}")
    return task


def body_of(found: Mapping[str, Any]) -> bytes:
    """The bytes of a document's body, whatever somebody has made of it."""
    body = found.get("body", b"")
    if isinstance(body, bytes):
        return body
    return (body if isinstance(body, str) else repr(body)).encode("utf-8", "backslashreplace")


def read_task(found: Mapping[str, Any]) -> Task[Any]:
    """The task of a document.

    Never raises: where the body cannot be read, a task without payload stands for it, with
    `execution_stats["unreadable"]` giving the reason.
    """
    body = body_of(found)
    try:
        task = decode_task(body, found["_id"])
        if "stats" in found:
            force_setattr(task, "execution_stats", decode(found["stats"]))
        if "result" in found:
            force_setattr(task, "execution_result", decode(found["result"]))
    except NotATaskError as error:
        task = _stand_in(found, str(error) if body else "set aside")
    # Straight into a value that nobody else has seen: a copy would cost as much as decoding it.
    force_setattr(task, "status", _STATUSES.get(found["status"], TaskStatus.FAILED))
    force_setattr(task, "updated_at", moment(found["updated"]))
    if "started" in found:
        force_setattr(task, "processing_started_at", moment(found["started"]))
    return task


_STATUSES = {status.value: status for status in TaskStatus}


def _stand_in(found: Mapping[str, Any], reason: str) -> Task[Any]:
    at = moment(found["updated"])
    return Task(
        type=found["type"],
        queue_id=found["queue"],
        payload=None,
        id=found["_id"],
        execute_at=at,
        created_at=at,
        updated_at=at,
        execution_stats={"unreadable": reason},
    )
