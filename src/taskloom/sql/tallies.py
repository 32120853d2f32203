"""How many tasks have ended, kept up to date by whoever ends, revives or deletes them.

Without them, counting would read every row of a table that is mostly history.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from sqlalchemy import BigInteger, Connection, Executable, Integer, Text, func, select, true

from taskloom.sql.dialect import Source, insert_into, over_rows, tally_slot
from taskloom.sql.schema import tallies
from taskloom.task import TaskStatus

__all__ = ["Changes", "change_tallies", "count_change", "ended_counts"]

Changes = dict[tuple[str, str], int]
"""By how much the tasks of a queue in a status have become more."""

_SOURCE = Source(queue_id=Text(), status=Text(), slot=Integer(), n=BigInteger())
_TERMINAL = frozenset(status.value for status in TaskStatus if status.terminal)


def count_change(changes: Changes, queue_id: str, status: str, by: int = 1) -> None:
    """Note in `changes` a task that came to `status` (left it: -1), if that is terminal."""
    if status in _TERMINAL:
        key = (queue_id, str(status))
        changes[key] = changes.get(key, 0) + by


def change_tallies(conn: Connection, changes: Mapping[tuple[str, str], int]) -> None:
    """Write `changes`, in the transaction that makes them true, and as the last thing it does.

    Everyone writes the same few rows: whoever held one and then waited would hold up all others.
    """
    slot = tally_slot(conn)
    rows = [(queue, status, slot, n) for (queue, status), n in sorted(changes.items()) if n]
    for result in over_rows(conn, _add, rows):
        result.close()


@cache
def _add() -> Executable:
    new = _SOURCE.table()
    names = ["queue_id", "status", "slot", "n"]
    statement = insert_into(tallies).from_select(names, select(*new.c).where(true()))
    return statement.on_conflict_do_update(
        index_elements=["queue_id", "status", "slot"],
        set_={"n": tallies.c.n + statement.excluded.n},
    )


def ended_counts(conn: Connection) -> dict[tuple[str, TaskStatus], int]:
    """How many tasks each queue holds in each terminal status."""
    total = func.sum(tallies.c.n)
    query = (
        select(tallies.c.queue_id, tallies.c.status, total)
        .group_by(tallies.c.queue_id, tallies.c.status)
        .having(total > 0)
    )
    return {(queue, TaskStatus(status)): int(n) for queue, status, n in conn.execute(query)}
