"""Records: a task as the bytes and the key that a stream carries, and back."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import msgspec
from msgspec import Struct

from taskloom.codec import encode
from taskloom.errors import InvalidTaskError
from taskloom.task import Task

__all__ = ["MAX_RECORD_BYTES", "KeyOf", "Outgoing", "Record", "outgoing", "read_task", "record_of"]

MAX_RECORD_BYTES = 1024 * 1024
"""Data and key of one record together."""
_LONGEST_KEY = 256

KeyOf: TypeAlias = Callable[[Task[Any]], str | None]

_decode_task = msgspec.json.Decoder(Task[Any]).decode


class Outgoing(Struct, frozen=True, gc=False):
    """A task on its way into a stream."""

    task: Task[Any]
    data: bytes
    key: str
    line: str
    """The key whose order is kept; empty: the task has none, and only its type places it."""
    size: int
    """Bytes that count against the limits."""


class Record(Struct, gc=False):
    """A record as it was read."""

    number: int
    data: bytes
    line: str
    """Records of one line are delivered one after the other."""
    id: str = ""
    task: Task[Any] | None = None
    reason: str = ""
    """Why it is not a task; empty: it is one."""


def outgoing(task: Task[Any], default_key: KeyOf | None) -> Outgoing:
    """`task` as a record. Its key, else the default one, else its type, says to which shard.

    Raises `InvalidTaskError` for one that no record can hold.
    """
    own = task.partition_key or (default_key(task) if default_key else None)
    key = _fitting(own or task.type)
    data = encode(task)
    record = Outgoing(task, data, key, key if own else "", len(data) + len(key.encode()))
    if record.size > MAX_RECORD_BYTES:
        raise InvalidTaskError(
            f"payload: the task takes {record.size:,} bytes, and a record of Kinesis at most "
            f"{MAX_RECORD_BYTES:,}. Store large data elsewhere and pass a reference to it"
        )
    return record


def _fitting(key: str) -> str:
    """A key that Kinesis takes: a longer one becomes its hash."""
    if len(key) <= _LONGEST_KEY:
        return key
    return f"sha256:{hashlib.sha256(key.encode()).hexdigest()}"


def record_of(answer: Mapping[str, Any]) -> Record:
    """A record of GetRecords. Never raises: bytes that are no task carry the reason."""
    number, data, key = int(answer["SequenceNumber"]), answer["Data"], answer["PartitionKey"]
    try:
        task = read_task(data)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        return Record(number, data, f"k{key}", reason=str(error))
    own = task.partition_key or key != _fitting(task.type)
    line = f"k{key}" if own else f"i{task.id}"
    return Record(number, data, line, task.id, task)


def read_task(data: bytes) -> Task[Any]:
    """The task of a record's bytes."""
    return _decode_task(data)
