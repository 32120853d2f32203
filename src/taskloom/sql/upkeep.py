"""Upkeep: what was lost comes back, what is over is deleted.

What another transaction holds just now is left for the next time.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Connection, delete, select, update

from taskloom.sql.dialect import among
from taskloom.sql.questions import constant, expired_before
from taskloom.sql.schema import tasks
from taskloom.sql.tallies import Changes, change_tallies, count_change
from taskloom.task import TaskStatus

__all__ = ["cleanup", "prune", "recover_stale"]

_c = tasks.c


def recover_stale(conn: Connection, now: int, queued_before: int) -> int:
    """Make `scheduled` what a worker or a queue lost; due since it was last heard of."""
    waits = {"status": TaskStatus.SCHEDULED.value, "epoch": _c.epoch + 1, "updated_at": now}
    lapsed = _free(_c.status == constant(TaskStatus.PROCESSING), _c.due_at < now)
    # `due_at` stays: the end of the lease is when the task became due.
    recovered = conn.execute(update(tasks).where(lapsed).values(waits)).rowcount
    forgotten = _free(_c.status == constant(TaskStatus.QUEUED), _c.updated_at < queued_before)
    again = update(tasks).where(forgotten).values({**waits, "due_at": _c.updated_at})
    return recovered + conn.execute(again).rowcount


def _free(*conditions: ColumnElement[bool], limit: int | None = None) -> ColumnElement[bool]:
    """Rows under these conditions, the oldest first if limited, that nobody else holds."""
    found = select(_c.seq).where(*conditions).with_for_update(skip_locked=True)
    if limit is not None:
        found = found.order_by(_c.updated_at).limit(limit)
    return among(_c.seq, found)


def prune(conn: Connection, status: TaskStatus, before: int, limit: int) -> int:
    """Delete at most `limit` tasks that ended in `status` before a time, the oldest first."""
    if not status.terminal or limit <= 0:
        return 0
    return _delete(conn, _free(_c.status == constant(status), _c.updated_at < before, limit=limit))


def cleanup(conn: Connection, orphaned_at: int, expired_at: int) -> int:
    """Delete `processing` tasks whose lease ended, and tasks that expired, before a time."""
    orphaned = _free(_c.due_at < orphaned_at, _c.status == constant(TaskStatus.PROCESSING))
    # Two statements: an OR of the two would read the whole table.
    return _delete(conn, orphaned) + _delete(conn, _free(expired_before(expired_at)))


def _delete(conn: Connection, condition: ColumnElement[Any]) -> int:
    changes: Changes = {}
    gone = conn.execute(delete(tasks).where(condition).returning(_c.queue_id, _c.status)).all()
    for queue_id, status in gone:
        count_change(changes, queue_id, status, -1)
    change_tallies(conn, changes)
    return len(gone)
