"""What people ask: search, counts, how far behind. Reading only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, func, literal, or_, select

from taskloom.sql.changing import fetch
from taskloom.sql.claims import next_due, queues_with_tasks
from taskloom.sql.rows import TASK_COLUMNS
from taskloom.sql.schema import tasks
from taskloom.sql.tallies import ended_counts
from taskloom.task import EntityRef, TaskStatus

__all__ = ["cleanup_counts", "counts", "depth", "fetch", "oldest_due", "search"]

_c = tasks.c


def search(
    conn: Connection,
    status: TaskStatus | None,
    queue_id: str | None,
    type: str | None,
    entity: EntityRef | None,
    limit: int,
    after: str | None,
) -> Sequence[Row[Any]]:
    """Rows of `TASK_COLUMNS`, the newest first; none when `after` is not known (any more)."""
    query = select(*TASK_COLUMNS).order_by(_c.created_at.desc(), _c.id.desc()).limit(limit)
    if status is not None:
        query = query.where(_c.status == constant(status))
    if status is TaskStatus.PROCESSING:  # few: found among what is alive, not in all of history
        alive = select(_c.seq).where(_c.due_at.is_not(None), _c.status == constant(status))
        query = query.where(_c.seq.in_(alive))
    if queue_id is not None:
        query = query.where(_c.queue_id == queue_id)
    if type is not None:
        query = query.where(_c.type == type)
    if entity is not None:
        query = query.where(_c.entity_id == entity.id, _c.entity_type == entity.type)
    if after is not None:
        last = conn.execute(select(_c.created_at).where(_c.id == after)).scalar_one_or_none()
        if last is None:
            return []
        older = and_(_c.created_at == last, _c.id < after)
        query = query.where(_c.created_at <= last, or_(_c.created_at < last, older))
    return conn.execute(query).all()


def constant(status: TaskStatus) -> Any:
    """A status spelled out in the statement: only so is a partial index on it seen to fit."""
    return literal(status.value, literal_execute=True)


def counts(conn: Connection) -> dict[tuple[str, TaskStatus], int]:
    """How many tasks each queue holds in each status.

    Reads no row of what waits or has ended: the one is counted along an index, the other in the
    tallies.
    """
    found = ended_counts(conn)
    for queue_id, n in _by_queue(conn, _c.status == constant(TaskStatus.QUEUED)).items():
        found[queue_id, TaskStatus.QUEUED] = n
    leased = _by_queue(conn, _c.status == constant(TaskStatus.PROCESSING))
    for queue_id, alive in _by_queue(conn, _c.due_at.is_not(None)).items():
        held = leased.get(queue_id, 0)
        numbers = {TaskStatus.PROCESSING: held, TaskStatus.SCHEDULED: alive - held}
        found |= {(queue_id, status): n for status, n in numbers.items() if n}
    return found


def _by_queue(conn: Connection, condition: ColumnElement[bool]) -> dict[str, int]:
    query = select(_c.queue_id, func.count()).where(condition).group_by(_c.queue_id)
    return {row[0]: row[1] for row in conn.execute(query)}


def oldest_due(conn: Connection, now: int) -> dict[str, int]:
    """For each queue with due tasks, when its first one became due."""
    first = {queue: next_due(conn, queue) for queue in queues_with_tasks(conn)}
    return {queue: due for queue, due in first.items() if due is not None and due <= now}


def depth(conn: Connection, queue_id: str, now: int) -> int:
    """How many tasks of a queue could be claimed now."""
    query = select(func.count()).select_from(tasks)
    return conn.scalar(query.where(_c.queue_id == queue_id, _c.due_at <= now)) or 0


def expired_before(at: int) -> Any:
    """A task past its time. One that runs is left alone, and so is one that ended otherwise."""
    ends = (TaskStatus.SCHEDULED, TaskStatus.QUEUED, TaskStatus.EXPIRED)
    return and_(_c.expires_at < at, _c.status.in_([status.value for status in ends]))


def cleanup_counts(conn: Connection, now: int) -> tuple[int, int]:
    """How many tasks were left by their worker, and how many are past their time."""
    n = select(func.count()).select_from(tasks)
    orphaned = conn.scalar(n.where(_c.due_at < now, _c.status == constant(TaskStatus.PROCESSING)))
    expired = conn.scalar(n.where(expired_before(now)))
    return orphaned or 0, expired or 0
