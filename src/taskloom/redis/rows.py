"""Between tasks and the hashes that hold them; the fields are described in `lua/tasks.lua`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

import msgspec
from msgspec import UNSET, Struct
from msgspec.structs import force_setattr

from taskloom.codec import decode, encode, encode_checked
from taskloom.errors import InvalidTaskError
from taskloom.outcomes import Delivery
from taskloom.redis.entries import micros
from taskloom.task import EntityRef, Task, TaskStatus

__all__ = [
    "Row",
    "StoredTask",
    "entity_name",
    "json_text",
    "moment",
    "named_rows",
    "read_row",
    "row_of",
]

Row: TypeAlias = dict[str, "str | int"]
"""The fields of a new hash."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_decode_task = msgspec.json.Decoder(Task[Any]).decode


class StoredTask(Struct, frozen=True, gc=False):
    """A hash as it was read."""

    task: Task[Any]
    """A stand-in without payload where the body is no task: `execution_stats` says why."""
    epoch: int
    deliveries: int
    rev: int
    unreadable: bytes | None = None
    """The body where it is no task."""

    @property
    def delivery(self) -> Delivery:
        """For whoever has just leased it."""
        return Delivery(self.task, self.epoch, self.deliveries)


def row_of(task: Task[Any]) -> Row:
    """A task as a new hash. Raises `InvalidTaskError`, naming the field, for one it cannot hold."""
    if not task.id:
        raise InvalidTaskError("id: must not be empty; make the task without one to get a new id")
    result = task.execution_result
    started = task.processing_started_at
    return {
        "status": task.status.value,
        "queue": task.queue_id,
        "type": task.type,
        "entity": "" if task.entity is None else entity_name(task.entity),
        "created": micros(task.created_at),
        "due": micros(task.execute_at),
        "expires": "" if task.expires_at is None else micros(task.expires_at),
        "updated": micros(task.updated_at),
        "started": "" if started is None else micros(started),
        "body": _body(task),
        "stats": json_text(task.execution_stats),
        "result": "" if result is UNSET else json_text(result),
        "epoch": 0,
        "deliveries": 0,
        "lease": "",
        "rev": 0,
    }


def named_rows(tasks: Sequence[Task[Any]]) -> list[tuple[str, Row]]:
    """Each task's id and hash, as scripts take them."""
    return [(task.id, row_of(task)) for task in tasks]


def entity_name(entity: EntityRef) -> str:
    """One text for both parts; neither holds a control character."""
    return f"{entity.type}\x1f{entity.id}"


def json_text(value: Any) -> str:
    """JSON as a text: what unpacks messages on the server knows no bytes."""
    return encode(value).decode()


def _body(task: Task[Any]) -> str:
    try:
        return json_text(task)
    except (TypeError, ValueError, OverflowError, RecursionError):
        for field in ("payload", "execution_result", "execution_stats", "metadata"):
            encode_checked(getattr(task, field), field)
        raise


def read_row(values: Sequence[bytes]) -> StoredTask:
    """What the `read` of `lua/tasks.lua` returns. Never raises."""
    body, stats, result, status, updated, started, epoch, deliveries, rev, queue, type, id = values
    numbers = int(epoch), int(deliveries), int(rev)
    unreadable = None
    try:
        task = _decode_task(body)
        if task.id != _text(id):
            raise ValueError(f"the record of {_text(id)} says that its id is {task.id}")
        force_setattr(task, "execution_stats", decode(stats))
        force_setattr(task, "execution_result", decode(result) if result else UNSET)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        task = _stand_in(_text(id), _text(queue), _text(type), str(error))
        unreadable = body
    # Straight into a value that nobody else has seen: a copy would cost as much as decoding it.
    force_setattr(task, "status", TaskStatus(status.decode()))
    force_setattr(task, "updated_at", moment(updated))
    force_setattr(task, "processing_started_at", moment(started) if started else None)
    return StoredTask(task, *numbers, unreadable)


def _stand_in(id: str, queue_id: str, type: str, reason: str) -> Task[Any]:
    stats = {"unreadable": reason}
    return Task(type=type, queue_id=queue_id, payload=None, id=id, execution_stats=stats)


def moment(at: bytes) -> datetime:
    """The time of so many microseconds."""
    return _EPOCH + timedelta(microseconds=int(at))


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")
