"""From claimed rows to deliveries: all at once, and one by one where something is damaged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
from msgspec.structs import force_setattr
from sqlalchemy import Row

from taskloom.outcomes import Delivery, UnreadableRecord
from taskloom.sql.claims import Claimed
from taskloom.sql.records import RowLease
from taskloom.sql.rows import NotATaskError, decode_task
from taskloom.task import Task, TaskStatus

__all__ = ["Found", "deliveries", "deliveries_or_records"]

_tasks = msgspec.json.Decoder(list[Task[Any]]).decode
_numbers = msgspec.json.Decoder(list[int]).decode
_ids = msgspec.json.Decoder(list[str]).decode


Found = tuple[int, int, Delivery | UnreadableRecord]
"""When a record was due, its seq, and what it is: they sort by the first two."""


def deliveries(claimed: Claimed, at: datetime) -> list[Found]:
    """What was claimed at `at`.

    Raises one of `NotATaskError` when a single row among them is not the task that it should be.
    """
    tasks = _tasks(claimed.bodies)
    if [task.id for task in tasks] != _ids(claimed.ids):
        raise ValueError("a record says another id than its row")
    leases = _leases(claimed)
    return [
        (due, seq, _delivery(task, epoch, count, at))
        for task, (due, seq, epoch, count) in zip(tasks, leases, strict=True)
    ]


def deliveries_or_records(
    claimed: Claimed, rows: Mapping[int, Row[Any]], at: datetime
) -> list[Found]:
    """As `deliveries`, from each row by itself; bytes that are not the row's task are a record."""
    return [
        (due, seq, _record(rows[seq], epoch, count, at))
        for due, seq, epoch, count in _leases(claimed)
        if seq in rows
    ]


def _leases(claimed: Claimed) -> Sequence[tuple[int, int, int, int]]:
    """When each was due, its seq, epoch and deliveries."""
    columns = (claimed.dues, claimed.seqs, claimed.epochs, claimed.deliveries)
    return list(zip(*map(_numbers, columns), strict=True))


def _record(row: Row[Any], epoch: int, count: int, at: datetime) -> Delivery | UnreadableRecord:
    try:
        task = decode_task(row.body, row.id.decode())
    except NotATaskError as error:
        lease = RowLease(row.seq, epoch)
        queue_id = row.queue_id.decode("utf-8", "replace")
        return UnreadableRecord(row.body, str(error), lease, count, queue_id)
    return _delivery(task, epoch, count, at)


def _delivery(task: Task[Any], epoch: int, count: int, at: datetime) -> Delivery:
    # Straight into a value that nobody else has seen: a copy would cost as much as decoding it.
    force_setattr(task, "status", TaskStatus.PROCESSING)
    force_setattr(task, "processing_started_at", at)
    force_setattr(task, "updated_at", at)
    return Delivery(task, epoch, count)
