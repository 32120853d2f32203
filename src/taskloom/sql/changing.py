"""Changes asked for by people, and records set aside: read, think, write under the epoch just read.

Rare, therefore row by row in Python; still one statement for reading and one for writing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any

from msgspec import UNSET, convert
from msgspec.structs import replace
from sqlalchemy import (
    BigInteger,
    Connection,
    Executable,
    Row,
    Select,
    Update,
    bindparam,
    select,
    update,
)

from taskloom.codec import to_builtins
from taskloom.sql import adding
from taskloom.sql.claims import KEYS, replaced
from taskloom.sql.dialect import Source, over_rows
from taskloom.sql.rows import SOURCE, TASK_COLUMNS, TaskRow, full_row, moment, read_task
from taskloom.sql.schema import tasks
from taskloom.sql.tallies import Changes, change_tallies, count_change
from taskloom.task import Task, TaskStatus

__all__ = ["bury", "cancel", "change", "fetch", "revive", "unqueue", "update_fields", "upsert"]

_c = tasks.c
_WAITING = (TaskStatus.SCHEDULED, TaskStatus.QUEUED)

Thought = Callable[[Task[Any]], Task[Any] | None]
"""What becomes of a task; None: it stays as it is."""


def fetch(conn: Connection, ids: Sequence[str]) -> dict[str, Row[Any]]:
    """Rows of `TASK_COLUMNS` by id."""
    return _rows(conn, _fetch, ids)


def _rows(
    conn: Connection, statement: Callable[[], Select[Any]], ids: Sequence[str]
) -> dict[str, Row[Any]]:
    rows: dict[str, Row[Any]] = {}
    for result in over_rows(conn, statement, [(id, 0) for id in ids]):
        rows.update((row.id.decode("utf-8", "replace"), row) for row in result)
    return rows


@cache
def _fetch() -> Select[Any]:
    keys = KEYS.table()
    return select(*TASK_COLUMNS).join(keys, _c.id == keys.c.id)


def _lock(conn: Connection, ids: Sequence[str], *, patient: bool = True) -> dict[str, Row[Any]]:
    """As `fetch`, for this transaction alone; not patient: without what others hold just now."""
    return _rows(conn, _lock_all if patient else _lock_free, ids)


@cache
def _lock_all() -> Select[Any]:
    return _fetch().order_by(_c.id).with_for_update(of=tasks)


@cache
def _lock_free() -> Select[Any]:
    return _fetch().order_by(_c.id).with_for_update(of=tasks, skip_locked=True)


def change(
    conn: Connection,
    ids: Sequence[str],
    think: Thought,
    changes: Changes,
    *,
    patient: bool = True,
) -> list[str]:
    """Put `think(task)` in place of tasks; the ids that changed.

    Another status ends the lease on a task; anything else leaves it. Not patient: what another
    transaction is changing just now stays as it is.
    """
    found = _lock(conn, ids, patient=patient)
    moved: list[TaskRow] = []
    kept: list[TaskRow] = []
    for row in (found[id] for id in dict.fromkeys(ids) if id in found):
        old = _readable(row)
        new = None if old is None else think(old)
        if old is None or new is None:
            continue
        count_change(changes, old.queue_id, old.status, -1)
        count_change(changes, new.queue_id, new.status)
        if new.status is not old.status:
            moved.append(full_row(new, row.epoch))
        else:
            due = row.due_at if _same_time(new, old) else UNSET
            kept.append(full_row(new, row.epoch, due=due))
    _write(conn, _move, moved)
    _write(conn, _keep, kept)
    return [row[0] for row in (*moved, *kept)]


def _readable(row: Row[Any]) -> Task[Any] | None:
    """The task, unless its bytes are none: there is nothing to change then."""
    task = read_task(row)
    return None if "unreadable" in task.execution_stats else task


def _same_time(new: Task[Any], old: Task[Any]) -> bool:
    """Whether the time of the next claim stays: a lease, or a delay beyond `execute_at`."""
    return new.status is TaskStatus.PROCESSING or new.execute_at == old.execute_at


def _write(conn: Connection, statement: Callable[[], Update], rows: Sequence[TaskRow]) -> None:
    for result in over_rows(conn, statement, rows):
        result.close()


@cache
def _keep() -> Update:
    new = SOURCE.table()
    same = (_c.id == new.c.id, _c.epoch == new.c.epoch)
    return update(tasks).where(*same).values(**replaced(new))


@cache
def _move() -> Update:
    return _keep().values(epoch=_c.epoch + 1)


@cache
def _start_again() -> Update:
    return _move().values(deliveries=0)


def cancel(
    conn: Connection,
    ids: Sequence[str],
    reason: str,
    now: int,
    changes: Changes,
    *,
    patient: bool = True,
) -> list[str]:
    """End tasks that wait; the ids that do not. `patient`: see `change`."""
    at = moment(now)

    def cancelled(task: Task[Any]) -> Task[Any] | None:
        if task.status not in _WAITING:
            return None
        stats = {**task.execution_stats, "cancelled_reason": reason}
        return replace(task, status=TaskStatus.CANCELLED, updated_at=at, execution_stats=stats)

    done = change(conn, ids, cancelled, changes, patient=patient) if ids else []
    return _missing(ids, done)


def unqueue(conn: Connection, ids: Sequence[str], now: int, changes: Changes) -> list[str]:
    """Let queued tasks wait here again; the ids that are not queued."""
    at = moment(now)

    def waiting(task: Task[Any]) -> Task[Any] | None:
        if task.status is not TaskStatus.QUEUED:
            return None
        return replace(task, status=TaskStatus.SCHEDULED, updated_at=at)

    done = change(conn, ids, waiting, changes) if ids else []
    return _missing(ids, done)


def revive(conn: Connection, rows: Sequence[TaskRow], changes: Changes) -> list[str]:
    """Put rows in place of tasks that have ended; the ids of those that have not."""
    if not rows:
        return []
    ids = [row[0] for row in rows]
    found = _lock(conn, ids)
    new: list[TaskRow] = []
    for row in rows:
        old = found.get(row[0])
        if old is None or not old.body or not TaskStatus(old.status.decode()).terminal:
            continue
        count_change(changes, old.queue_id.decode(), old.status.decode(), -1)
        count_change(changes, row[1], row[3])
        new.append((*row[:-1], old.epoch))
    _write(conn, _start_again, new)
    return _missing(ids, [row[0] for row in new])


def _missing(ids: Sequence[str], done: Sequence[str]) -> list[str]:
    there = set(done)
    return [id for id in ids if id not in there]


_FIELDS = frozenset(Task.__struct_fields__) - {"id"}


def update_fields(conn: Connection, fields: Mapping[str, Mapping[str, Any]], now: datetime) -> None:
    """Set fields of tasks by id. Raises `ValueError` for a field that tasks do not have."""

    def changed(task: Task[Any]) -> Task[Any]:
        given = {"updated_at": now, **fields[task.id]}
        unknown = given.keys() - _FIELDS
        if unknown:
            raise ValueError(f"tasks have no such field to set: {', '.join(sorted(unknown))}")
        values = {name: value for name, value in given.items() if value is not UNSET}
        left = {name: value for name, value in to_builtins(task).items() if name not in given}
        return convert({**left, **to_builtins(values)}, Task[Any])

    changes: Changes = {}
    change(conn, list(fields), changed, changes)
    change_tallies(conn, changes)


_UPSERTED = (
    *("status", "execute_at", "expires_at", "updated_at", "processing_started_at"),
    *("execution_stats", "execution_result", "retry_count"),
)


def upsert(conn: Connection, new: Sequence[Task[Any]], rows: Sequence[TaskRow]) -> None:
    """Keep tasks; of known ones only status, times, stats, result and retry_count change."""
    changes: Changes = {}
    made = adding.insert(conn, rows, changes)
    known = {task.id: task for task in new if task.id not in made}

    def over(old: Task[Any]) -> Task[Any]:
        task = known[old.id]
        return replace(old, **{name: getattr(task, name) for name in _UPSERTED})

    change(conn, list(known), over, changes)
    change_tallies(conn, changes)


def bury(conn: Connection, keys: Sequence[tuple[int, int]], now: int) -> None:
    """End rows, by seq and epoch, whose bytes were set aside: as failed, without their body.

    Safe to repeat.
    """
    changes: Changes = {}
    for result in over_rows(conn, _bury, keys, now=now):
        for row in result:
            count_change(changes, row.queue_id, row.status)
    change_tallies(conn, changes)


_ROWS = Source(seq=BigInteger(), epoch=BigInteger())


@cache
def _bury() -> Executable:
    keys = _ROWS.table()
    return (
        update(tasks)
        .where(_c.seq == keys.c.seq, _c.epoch == keys.c.epoch)
        .values(
            status=TaskStatus.FAILED.value,
            due_at=None,
            updated_at=bindparam("now"),
            epoch=_c.epoch + 1,
            body="",
        )
        .returning(_c.queue_id, _c.status)
    )
