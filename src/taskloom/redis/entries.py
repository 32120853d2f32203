"""Between entries of a stream and deliveries."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, TypeAlias

import msgspec
from msgspec import Struct

from taskloom.codec import encode
from taskloom.outcomes import Delivery, UnreadableRecord
from taskloom.task import Task

__all__ = ["Entry", "Receipt", "micros", "read_entry", "text_of"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Entry: TypeAlias = tuple[bytes, list[bytes], int, int]
"""As a script returns it: entry id, names and values, claims, releases."""

_decode_task = msgspec.json.Decoder(Task[Any]).decode


class Receipt(Struct, frozen=True, gc=False):
    """A lease on an entry: in force while its consumer has claimed it so often and no oftener."""

    queue_id: str
    entry: str
    consumer: str
    claims: int
    id: str
    """The task's id; empty for an entry that nobody here has written."""


def read_entry(queue_id: str, consumer: str, entry: Entry) -> Delivery | UnreadableRecord:
    """A claimed entry. Never raises: bytes that are no task are an `UnreadableRecord`."""
    name, fields, claims, releases = entry
    place = name.decode()
    try:
        _, id, _, before, _, body = fields
        count = int(before) + claims - releases
    except ValueError:
        receipt = Receipt(queue_id, place, consumer, claims, "")
        return UnreadableRecord(b" ".join(fields), "not ours", receipt, claims, queue_id)
    receipt = Receipt(queue_id, place, consumer, claims, id.decode(errors="replace"))
    try:
        task = _decode_task(body)
        if task.id != receipt.id:
            raise ValueError(f"the entry of {receipt.id} says that its id is {task.id}")
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        return UnreadableRecord(body, str(error), receipt, count, queue_id)
    return Delivery(task, receipt, count)


def text_of(task: Task[Any]) -> str:
    """The body of an entry. A text: what unpacks messages on the server knows no bytes."""
    return encode(task).decode()


def micros(at: datetime) -> int:
    """Microseconds since the epoch, exactly."""
    span = at - _EPOCH
    return (span.days * 86_400 + span.seconds) * 1_000_000 + span.microseconds
