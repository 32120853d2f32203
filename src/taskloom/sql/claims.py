"""Claims and leases: who may run a task, and until when.

All functions take a connection inside a transaction. A *key* is a task's id and the epoch of the
lease that someone believes to hold; functions on keys return those that were no longer in force.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from heapq import merge
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    CursorResult,
    FromClause,
    Row,
    Select,
    Subquery,
    Text,
    Update,
    bindparam,
    case,
    cast,
    func,
    or_,
    select,
    update,
)

from taskloom.sql.dialect import (
    Source,
    as_array,
    joined,
    listed,
    over_rows,
    raw_bytes,
    reads_changes,
    said_of,
)
from taskloom.sql.rows import SOURCE, TaskRow
from taskloom.sql.schema import tasks
from taskloom.task import TaskStatus

__all__ = [
    "KEYS",
    "Claimed",
    "Key",
    "bodies",
    "claim",
    "claim_any",
    "extend",
    "go_on",
    "lost",
    "next_due",
    "put_back",
    "queues_with_tasks",
    "release",
    "replaced",
    "still_held",
    "take_over",
]

Key = tuple[str, int]


class Claimed(NamedTuple):
    """Rows under a new lease: each field but the last is a JSON array, all in the same order."""

    seqs: str
    dues: str
    """When each one was due."""
    ids: bytes
    epochs: str
    deliveries: str
    bodies: bytes
    """Between brackets, with commas: a JSON array as far as each body is JSON."""


KEYS = Source(id=Text(), epoch=BigInteger())

_c = tasks.c


def claim(conn: Connection, queue_id: str, limit: int, now: int, until: int) -> list[Claimed]:
    """Lease at most `limit` due tasks of a queue until `until`; nothing or one batch of them.

    A task is with one caller only: what is looked up is locked until it is leased. One statement
    where the database has some that read and change at once.
    """
    due = {"queue": queue_id, "most": limit, "now": now}
    if reads_changes(conn):
        answers = conn.execute(_lease_due(), {**due, "until": until})
        return [Claimed._make(row) for row in answers if row[0] != "[]"]
    return _lease(conn, [conn.execute(_due(), due)], now, until)


@cache
def _due() -> Select[Any]:
    return _as_claimed(_first_leasable().subquery("r"))


@cache
def _lease_due() -> Select[Any]:
    found = _first_leasable().cte("r")
    leased = _lease_rows(_c.seq == found.c.seq).cte("leased")
    return _as_claimed(found).add_cte(leased)


def _first_leasable() -> Select[Any]:
    return (
        _leasable()
        .where(_c.queue_id == bindparam("queue"), _c.due_at <= bindparam("now"))
        .order_by(_c.due_at, _c.seq)
        .limit(bindparam("most"))
    )


def take_over(conn: Connection, ids: Sequence[str], now: int, until: int) -> list[Claimed]:
    """Lease tasks by id until `until`, whoever held them; those that have not ended."""
    keys = [(id, 0) for id in dict.fromkeys(ids)]
    return _lease(conn, over_rows(conn, _of_ids, keys), now, until)


@cache
def _of_ids() -> Select[Any]:
    keys = KEYS.table()
    ended = or_(*(_c.status == status.value for status in TaskStatus if status.terminal))
    found = _next_lease().join(keys, _c.id == keys.c.id).where(said_of(keys.c.id, ~ended))
    # Whoever is writing to one of them just now is waited for: it has to be taken all the same.
    return _as_claimed(found.order_by(_c.id).with_for_update(of=tasks).subquery("r"))


def _leasable() -> Select[Any]:
    """Rows as they will be under their next lease, locked by who reads them; not locked ones."""
    return _next_lease().with_for_update(of=tasks, skip_locked=True)


def _next_lease() -> Select[Any]:
    return select(
        *(_c.seq, func.coalesce(_place(), 0).label("due"), _c.id, (_c.epoch + 1).label("epoch")),
        *((_c.deliveries + 1).label("deliveries"), _c.body),
    )


def _as_claimed(rows: FromClause) -> Select[Any]:
    r = rows.c
    return select(
        *(as_array(r.seq), as_array(r.due), raw_bytes(as_array(cast(r.id, Text())))),
        *(as_array(r.epoch), as_array(r.deliveries), joined(r.body)),
    )


def _lease(
    conn: Connection, found: Iterable[CursorResult[Any]], now: int, until: int
) -> list[Claimed]:
    claimed = [Claimed._make(row) for result in found for row in result if row[0] != "[]"]
    for each in claimed:
        conn.execute(_leased(), {"seqs": each.seqs, "now": now, "until": until})
    return claimed


@cache
def _leased() -> Update:
    return _lease_rows(_c.seq.in_(listed("seqs", BigInteger())))


def _lease_rows(which: ColumnElement[bool]) -> Update:
    """Rows under a new lease, until `until`."""
    return (
        update(tasks)
        .where(which)
        .values(
            status=TaskStatus.PROCESSING.value,
            epoch=_c.epoch + 1,
            deliveries=_c.deliveries + 1,
            was_due=_place(),
            due_at=bindparam("until"),
            started_at=bindparam("now"),
            updated_at=bindparam("now"),
        )
    )


def _place() -> Any:
    """When a row was due; one whose lease has lapsed keeps the place it had."""
    held = _c.status == TaskStatus.PROCESSING.value
    return case((held, func.coalesce(_c.was_due, _c.due_at)), else_=_c.due_at)


def bodies(conn: Connection, seqs: str) -> dict[int, Row[Any]]:
    """`id`, `queue_id` and `body` by seq, as bytes: for rows that cannot be read together."""
    return {row.seq: row for row in conn.execute(_bodies(), {"seqs": seqs})}


@cache
def _bodies() -> Select[Any]:
    columns = (raw_bytes(column).label(column.name) for column in (_c.id, _c.queue_id, _c.body))
    return select(_c.seq, *columns).where(_c.seq.in_(listed("seqs", BigInteger())))


def claim_any(conn: Connection, limit: int, now: int, until: int) -> list[Claimed]:
    """As `claim`, over all queues: the tasks due first. One batch for each queue."""
    first = merge(
        *(
            [(row.due_at, row.seq, queue) for row in conn.execute(_first_due(), parameters)]
            for queue in queues_with_tasks(conn)
            for parameters in [{"queue": queue, "most": limit, "now": now}]
        )
    )
    share: dict[str, int] = {}
    for _, (_, _, queue) in zip(range(limit), first, strict=False):
        share[queue] = share.get(queue, 0) + 1
    return [each for queue, n in share.items() for each in claim(conn, queue, n, now, until)]


@cache
def _first_due() -> Select[Any]:
    return (
        select(_c.due_at, _c.seq)
        .where(_c.queue_id == bindparam("queue"), _c.due_at <= bindparam("now"))
        .order_by(_c.due_at, _c.seq)
        .limit(bindparam("most"))
    )


def queues_with_tasks(conn: Connection) -> list[str]:
    """The queues that hold a task to be claimed now or later.

    Jumps from queue to queue along the index, so that a million waiting tasks cost nothing.
    """
    queues: list[str] = []
    after = ""
    while (found := conn.scalar(_next_queue(), {"after": after})) is not None:
        queues.append(after := found)
    return queues


@cache
def _next_queue() -> Select[Any]:
    return (
        select(_c.queue_id)
        .where(_c.queue_id > bindparam("after"), _c.due_at.is_not(None))
        .order_by(_c.queue_id)
        .limit(1)
    )


def next_due(conn: Connection, queue_id: str) -> int | None:
    """When the queue's first task may be claimed; None if there is none."""
    due: int | None = conn.scalar(_next_due(), {"queue": queue_id})
    return due


@cache
def _next_due() -> Select[Any]:
    return select(func.min(_c.due_at)).where(
        _c.queue_id == bindparam("queue"), _c.due_at.is_not(None)
    )


def extend(conn: Connection, keys: Sequence[Key], until: int) -> list[Key]:
    """Move the end of the leases."""
    won = sum(result.rowcount for result in over_rows(conn, _extend, keys, until=until))
    # Asked again under the same leases, the answer is the same: nothing but their end has changed.
    return [] if won == len(keys) else lost(conn, keys)


@cache
def _extend() -> Update:
    keys = KEYS.table()
    return (
        update(tasks)
        .where(_c.id == keys.c.id, _c.epoch == keys.c.epoch, still_held(keys.c.id))
        .values(due_at=bindparam("until"))
    )


def release(conn: Connection, keys: Sequence[Key], due: int, now: int) -> list[Key]:
    """Give tasks back as they were, to be claimed from `due` on; that delivery does not count."""
    return _not_returned(keys, over_rows(conn, _release, keys, due=due, now=now))


@cache
def _release() -> Update:
    keys = KEYS.table()
    return (
        update(tasks)
        .where(_c.id == keys.c.id, _c.epoch == keys.c.epoch, still_held(keys.c.id))
        .values(
            status=TaskStatus.SCHEDULED.value,
            epoch=_c.epoch + 1,
            deliveries=_c.deliveries - 1,
            due_at=bindparam("due"),
            updated_at=bindparam("now"),
            started_at=None,
        )
        .returning(_c.id)
    )


def put_back(conn: Connection, rows: Sequence[TaskRow]) -> list[Key]:
    """Give tasks back as `rows` say: a retry, which starts again at no delivery."""
    keys = [(row[0], row[-1]) for row in rows]
    return _not_returned(keys, over_rows(conn, _put_back, rows))


@cache
def _put_back() -> Update:
    return go_on(fresh_epoch=True).returning(_c.id)


def go_on(*, fresh_epoch: bool) -> Update:
    """Rows of `SOURCE` in place of those that are held under their epoch."""
    new = SOURCE.table()
    values = {**replaced(new), "deliveries": 0}
    if fresh_epoch:
        values["epoch"] = _c.epoch + 1
    return (
        update(tasks)
        .where(_c.id == new.c.id, _c.epoch == new.c.epoch, still_held(new.c.id))
        .values(**values)
    )


def replaced(new: Subquery) -> dict[str, Any]:
    """What to set for a row of `SOURCE` to stand in place of an old one."""
    fixed = ("id", "epoch", "created_at")
    values = {column.name: column for column in new.c if column.name not in fixed}
    # Whatever columns could say otherwise stands in the new body.
    return {**values, "stats": None, "result": None, "started_at": None}


def still_held(key: ColumnElement[Any]) -> Any:
    """The condition that the row of a source's `key` is leased, as far as its epoch is right."""
    return said_of(key, _c.status == TaskStatus.PROCESSING.value)


def _not_returned(keys: Sequence[Key], results: Iterable[CursorResult[Any]]) -> list[Key]:
    """What an UPDATE ... RETURNING id over `keys` did not find under its epoch.

    Known only in that statement: afterwards the epochs have changed.
    """
    won = {id for result in results for (id,) in result}
    return [key for key in keys if key[0] not in won]


def lost(conn: Connection, keys: Sequence[Key]) -> list[Key]:
    """Those of `keys` that are not the lease in force; the others stay so in this transaction."""
    ours: set[Key] = set()
    for result in over_rows(conn, _in_force, keys):
        ours.update((row.id, row.epoch) for row in result)
    return [key for key in keys if key not in ours]


@cache
def _in_force() -> Select[Any]:
    keys = KEYS.table()
    same = (_c.id == keys.c.id) & (_c.epoch == keys.c.epoch)
    held = select(keys.c.id, keys.c.epoch).join(tasks, same).where(still_held(keys.c.id))
    return held.order_by(_c.id).with_for_update(of=tasks)
