"""Rows of entity projections: functions of a connection inside a transaction."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from msgspec import UNSET
from sqlalchemy import (
    BigInteger,
    Connection,
    Executable,
    Row,
    Select,
    Text,
    and_,
    func,
    or_,
    select,
    true,
)

from taskloom.codec import decode, encode
from taskloom.projections import EntityTaskProjection, may_become
from taskloom.sql.dialect import Source, insert_into, over_rows, without_nul
from taskloom.sql.rows import micros, moment
from taskloom.sql.schema import projections
from taskloom.task import EntityRef

__all__ = [
    "ProjectionRow",
    "fetch",
    "of_entity",
    "projection_rows",
    "read_projection",
    "upsert",
    "upsert_rows",
]

_c = projections.c

_SOURCE = Source(
    task_id=Text(),
    entity_id=Text(),
    entity_type=Text(),
    task_type=Text(),
    queue_id=Text(),
    status=Text(),
    created_at=BigInteger(),
    updated_at=BigInteger(),
    payload=Text(),
    error=Text(),
    result=Text(),
)
_NAMES = [column.name for column in projections.columns]
_ID, _STATUS, _CREATED, _PAYLOAD = (
    _NAMES.index(name) for name in ("task_id", "status", "created_at", "payload")
)
_KEYS = Source(task_id=Text())

ProjectionRow = tuple[Any, ...]
"""A projection in the order of the table's columns."""


def projection_rows(entries: Sequence[EntityTaskProjection]) -> list[ProjectionRow]:
    """`entries` as rows. Raises `TypeError` for a payload or a result that JSON cannot hold."""
    return [
        (
            entry.task_id,
            entry.entity_id,
            entry.entity_type,
            entry.task_type,
            entry.queue_id,
            entry.status,
            micros(entry.created_at),
            micros(entry.updated_at),
            _json(entry.payload),
            None if entry.error is None else without_nul(entry.error),
            _json(entry.result),
        )
        for entry in entries
    ]


def _json(value: Any) -> str | None:
    return None if value is UNSET else encode(value).decode()


def upsert(conn: Connection, entries: Sequence[EntityTaskProjection]) -> None:
    """Write `entries` by `task_id`, in order; what would go back is passed over."""
    upsert_rows(conn, projection_rows(entries))


def upsert_rows(conn: Connection, rows: Sequence[ProjectionRow]) -> None:
    """As `upsert`, for rows made before the transaction; one statement."""
    for result in over_rows(conn, _upsert, _folded(rows)):
        result.close()


def _folded(rows: Sequence[ProjectionRow]) -> list[ProjectionRow]:
    """What is left of each task when its rows are written one after the other.

    An engine may refuse a statement that writes a row twice.
    """
    kept: dict[str, ProjectionRow] = {}
    for row in rows:
        old = kept.get(row[_ID])
        if old is None:
            kept[row[_ID]] = row
        elif may_become(old[_STATUS], row[_STATUS]):
            kept[row[_ID]] = _merged(old, row)
    return list(kept.values())


def _merged(old: ProjectionRow, new: ProjectionRow) -> ProjectionRow:
    row = list(new)
    row[_CREATED] = old[_CREATED]
    row[_PAYLOAD] = new[_PAYLOAD] if old[_PAYLOAD] is None else old[_PAYLOAD]
    return tuple(row)


@cache
def _upsert() -> Executable:
    source = _SOURCE.table()
    # Without a WHERE, SQLite takes the ON of ON CONFLICT for that of a join.
    rows = select(*(source.c[name] for name in _NAMES)).where(true())
    statement = insert_into(projections).from_select(_NAMES, rows)
    new = statement.excluded
    values: dict[str, Any] = {
        "status": new.status,
        "updated_at": new.updated_at,
        "payload": func.coalesce(_c.payload, new.payload),
        "error": new.error,
        "result": new.result,
    }
    goes_on = and_(_c.status == "processing", new.status != "scheduled")
    return statement.on_conflict_do_update(
        index_elements=["task_id"], set_=values, where=or_(_c.status == "scheduled", goes_on)
    )


def fetch(conn: Connection, task_ids: Sequence[str]) -> dict[str, Row[Any]]:
    """The rows that exist, by task id."""
    found: dict[str, Row[Any]] = {}
    for result in over_rows(conn, _fetch, [(id,) for id in task_ids]):
        found.update((row.task_id, row) for row in result)
    return found


@cache
def _fetch() -> Select[Any]:
    keys = _KEYS.table()
    return select(projections).join(keys, _c.task_id == keys.c.task_id)


def of_entity(conn: Connection, entity: EntityRef, limit: int) -> Sequence[Row[Any]]:
    """At most `limit` rows of one entity, the last changed first."""
    query = select(projections).where(_c.entity_type == entity.type, _c.entity_id == entity.id)
    return conn.execute(query.order_by(_c.updated_at.desc(), _c.task_id.desc()).limit(limit)).all()


def read_projection(row: Row[Any]) -> EntityTaskProjection:
    """The projection of a row; a new value that nobody else holds."""
    return EntityTaskProjection(
        row.task_id,
        row.entity_id,
        row.entity_type,
        row.task_type,
        row.queue_id,
        row.status,
        moment(row.created_at),
        moment(row.updated_at),
        UNSET if row.payload is None else decode(row.payload),
        row.error,
        UNSET if row.result is None else decode(row.result),
    )
