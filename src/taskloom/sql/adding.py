"""New rows. A known id is left as it is."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy import Connection, Executable, or_, select, true

from taskloom.sql.dialect import insert_into, insert_new, over_rows
from taskloom.sql.rows import SOURCE, TaskRow
from taskloom.sql.schema import tasks
from taskloom.sql.tallies import Changes, change_tallies, count_change
from taskloom.task import TaskStatus

__all__ = ["add", "insert", "is_one_statement", "put_over"]

_NAMES = (
    *("id", "queue_id", "type", "status", "due_at", "expires_at", "created_at", "updated_at"),
    *("entity_id", "entity_type", "body"),
)
_TERMINAL = frozenset(status.value for status in TaskStatus if status.terminal)
_BODY = SOURCE.names.index("body")
_FEW = 1_000
_SMALL = 1024 * 1024
"""Rows, and characters of their bodies, that one statement always takes."""


def add(conn: Connection, rows: Sequence[TaskRow]) -> set[str]:
    """Insert rows of `SOURCE`; the ids that were new. The whole of a transaction."""
    changes: Changes = {}
    new = insert(conn, rows, changes)
    change_tallies(conn, changes)
    return new


def is_one_statement(rows: Sequence[TaskRow]) -> bool:
    """Whether a server is told all of `add` in one statement: few small rows, none of them over."""
    return (
        len(rows) <= _FEW
        and all(row[3] not in _TERMINAL for row in rows)
        and sum(len(row[_BODY]) for row in rows) < _SMALL
    )


def insert(conn: Connection, rows: Sequence[TaskRow], changes: Changes) -> set[str]:
    """Insert rows of `SOURCE`; the ids that were new."""
    new = insert_new(conn, tasks, SOURCE, rows)
    _count_ended(rows, new, changes)
    return new


def put_over(conn: Connection, rows: Sequence[TaskRow], changes: Changes) -> set[str]:
    """Insert rows, or write them over rows that have not ended; the ids that were written."""
    once = _folded(rows)
    written = {id for result in over_rows(conn, _insert_or_replace, once) for (id,) in result}
    _count_ended(once, written, changes)
    return written


def _folded(rows: Sequence[TaskRow]) -> list[TaskRow]:
    """What is left of each task when its rows are written one after the other."""
    kept: dict[str, TaskRow] = {}
    for row in rows:
        if row[0] not in kept or kept[row[0]][3] not in _TERMINAL:
            kept[row[0]] = row
    return list(kept.values())


def _count_ended(rows: Sequence[TaskRow], written: set[str], changes: Changes) -> None:
    for row in rows:
        if row[3] in _TERMINAL and row[0] in written:
            count_change(changes, row[1], row[3])


@cache
def _insert_or_replace() -> Executable:
    source = SOURCE.table()
    # Without a WHERE, SQLite takes the ON of ON CONFLICT for that of a join.
    rows = select(*(source.c[name] for name in _NAMES)).where(true())
    statement = insert_into(tasks).from_select(list(_NAMES), rows)
    new = statement.excluded
    values: dict[str, Any] = {name: new[name] for name in _NAMES if name != "id"}
    values |= {"stats": None, "result": None, "started_at": None, "deliveries": 0}
    ended = or_(*(tasks.c.status == status for status in sorted(_TERMINAL)))
    return statement.on_conflict_do_update(
        index_elements=["id"], set_={**values, "epoch": tasks.c.epoch + 1}, where=~ended
    ).returning(tasks.c.id)
