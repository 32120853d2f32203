"""Between tasks and rows."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import force_setattr
from sqlalchemy import BigInteger, Row, Text

from taskloom.codec import decode, encode, encode_checked
from taskloom.errors import InvalidTaskError
from taskloom.sql.dialect import Source, raw_bytes
from taskloom.sql.schema import tasks
from taskloom.task import Task, TaskStatus

__all__ = [
    "SOURCE",
    "TASK_COLUMNS",
    "NotATaskError",
    "TaskRow",
    "decode_task",
    "full_row",
    "full_rows",
    "micros",
    "moment",
    "read_task",
]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

TaskRow = tuple[Any, ...]
"""A task in the order of `SOURCE`."""

SOURCE = Source(
    id=Text(),
    queue_id=Text(),
    type=Text(),
    status=Text(),
    due_at=BigInteger(),
    expires_at=BigInteger(),
    created_at=BigInteger(),
    updated_at=BigInteger(),
    entity_id=Text(),
    entity_type=Text(),
    body=Text(),
    epoch=BigInteger(),
)

_decode_body = msgspec.json.Decoder(Task[Any]).decode

NotATaskError = (msgspec.DecodeError, ValueError, RecursionError)
"""What `decode_task` raises."""


def decode_task(body: bytes, id: str) -> Task[Any]:
    """The task in the body of row `id`: a new value that nobody else holds.

    Raises one of `NotATaskError` when there is none, or another one than the row is about.
    """
    task = _decode_body(body)
    if task.id != id:
        raise ValueError(f"the record of {id} says that its id is {task.id}")
    return task


def micros(at: datetime) -> int:
    """Microseconds since the epoch, exactly."""
    span = at - _EPOCH
    return (span.days * 86_400 + span.seconds) * 1_000_000 + span.microseconds


def moment(at: int) -> datetime:
    """The time that `micros` was given."""
    return _EPOCH + timedelta(microseconds=at)


def full_rows(new: Sequence[Task[Any]]) -> list[TaskRow]:
    """Rows of new tasks. Raises `InvalidTaskError`, naming the field, for one no row can hold."""
    return [full_row(task) for task in new]


def full_row(task: Task[Any], epoch: int = 0, *, due: int | UnsetType | None = UNSET) -> TaskRow:
    """One task as a row; `epoch` is the one it is compared with where an existing row changes.

    `due`: when it may be claimed; UNSET: as its status and `execute_at` say.
    """
    if not task.id:
        raise InvalidTaskError("id: must not be empty; make the task without one to get a new id")
    entity = task.entity
    created = micros(task.created_at)
    return (
        task.id,
        task.queue_id,
        task.type,
        str(task.status),  # a plain text: the driver asks other classes how to bind them
        _due(task, created) if due is UNSET else due,
        None if task.expires_at is None else micros(task.expires_at),
        created,
        _micros(task.updated_at, task, created),
        None if entity is None else entity.id,
        None if entity is None else entity.type,
        _body(task),
        epoch,
    )


def _due(task: Task[Any], created: int) -> int | None:
    if task.status is TaskStatus.SCHEDULED:
        return _micros(task.execute_at, task, created)
    if task.status is TaskStatus.PROCESSING:
        # Under a lease that nobody here has given: it counts as over when it was last touched.
        return _micros(task.updated_at, task, created)
    return None


def _micros(at: datetime, task: Task[Any], created: int) -> int:
    """`micros`; the times of a new task are one and the same object."""
    return created if at is task.created_at else micros(at)


def _body(task: Task[Any]) -> str:
    try:
        return encode(task).decode()
    except (TypeError, ValueError, OverflowError, RecursionError):
        for field in ("payload", "execution_result", "execution_stats", "metadata"):
            encode_checked(getattr(task, field), field)
        raise


_c = tasks.c
_TEXTS = (_c.id, _c.queue_id, _c.type, _c.status, _c.body, _c.stats, _c.result)
TASK_COLUMNS = (
    *(raw_bytes(column).label(column.name) for column in _TEXTS),
    _c.due_at,
    _c.updated_at,
    _c.started_at,
    _c.epoch,
)
"""What `read_task` reads; texts as bytes."""

_STATUSES = {status.value.encode(): status for status in TaskStatus}


def read_task(row: Row[Any]) -> Task[Any]:
    """The task of a row of `TASK_COLUMNS`.

    Never raises: where the body cannot be read, a task without payload stands for it, with
    `execution_stats["unreadable"]` giving the reason.
    """
    try:
        task = decode_task(row.body, _text(row.id))
        if row.stats is not None:
            force_setattr(task, "execution_stats", decode(row.stats))
        force_setattr(task, "execution_result", _result(row, task))
    except NotATaskError as error:
        task = _stand_in(row, "set aside" if row.body == b"" else str(error))
    # Straight into a value that nobody else has seen: a copy would cost as much as decoding it.
    force_setattr(task, "status", _STATUSES.get(row.status, TaskStatus.FAILED))
    force_setattr(task, "updated_at", moment(row.updated_at))
    if row.started_at is not None:
        force_setattr(task, "processing_started_at", moment(row.started_at))
    return task


def _result(row: Row[Any], task: Task[Any]) -> Any:
    return task.execution_result if row.result is None else decode(row.result)


def _stand_in(row: Row[Any], reason: str) -> Task[Any]:
    at = moment(row.updated_at)
    return Task(
        type=_text(row.type),
        queue_id=_text(row.queue_id),
        payload=None,
        id=_text(row.id),
        execute_at=at,
        created_at=at,
        updated_at=at,
        execution_stats={"unreadable": reason},
    )


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")
