"""Between entries of a stream and deliveries."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import msgspec
from msgspec import Struct

from taskloom.codec import encode
from taskloom.outcomes import Delivery, UnreadableRecord
from taskloom.task import Task

__all__ = ["Lease", "Receipt", "micros", "read_claim", "text_of"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_decode_task = msgspec.json.Decoder(Task[Any]).decode
_decode_shape = msgspec.msgpack.Decoder(list[int]).decode


class Lease(Struct, frozen=True, eq=False):
    """What deliveries of one claim share."""

    queue_id: str
    batch: str
    """Empty for entries that are leased one by one."""
    consumer: str
    claims: int


class Receipt(Struct, frozen=True, gc=False):
    """A lease on an entry: in force while its consumer has claimed it so often and no oftener."""

    lease: Lease
    entry: str
    id: str
    """The task's id; empty for an entry that nobody here has written."""


def read_claim(
    queue_id: str, consumer: str, groups: Sequence[Any], shape: bytes, data: bytes
) -> list[Delivery | UnreadableRecord]:
    """What `queue_claim.lua` has taken. Never raises: bytes that are no task are unreadable."""
    numbers = iter(_decode_shape(shape))
    rows = zip(*[numbers] * 5, strict=True)
    taken: list[Delivery | UnreadableRecord] = []
    end = 0
    for batch, size in zip(groups[::2], groups[1::2], strict=True):
        lease = Lease(queue_id, batch.decode(), consumer, 1)
        for entry, id, body, count, claims in islice(rows, size):
            if lease.claims != claims:
                lease = Lease(queue_id, lease.batch, consumer, claims)
            place, end = data[end : end + entry], end + entry
            name, end = (None, end) if id < 0 else (data[end : end + id], end + id)
            record, end = data[end : end + body], end + body
            taken.append(_read(lease, place.decode(), name, record, count))
    return taken


def _read(
    lease: Lease, entry: str, id: bytes | None, body: bytes, count: int
) -> Delivery | UnreadableRecord:
    if id is None:
        return UnreadableRecord(body, "not ours", Receipt(lease, entry, ""), count, lease.queue_id)
    receipt = Receipt(lease, entry, id.decode(errors="replace"))
    try:
        task = _decode_task(body)
        if task.id != receipt.id:
            raise ValueError(f"the entry of {receipt.id} says that its id is {task.id}")
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        return UnreadableRecord(body, str(error), receipt, count, lease.queue_id)
    return Delivery(task, receipt, count)


def text_of(task: Task[Any]) -> str:
    """The body of an entry. A text: what unpacks messages on the server knows no bytes."""
    return encode(task).decode()


def micros(at: datetime) -> int:
    """Microseconds since the epoch, exactly."""
    span = at - _EPOCH
    return (span.days * 86_400 + span.seconds) * 1_000_000 + span.microseconds
