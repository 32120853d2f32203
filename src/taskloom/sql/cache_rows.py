"""Rows of the cache: functions of a connection inside a transaction. Times are microseconds."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    Connection,
    Delete,
    Executable,
    Select,
    Text,
    and_,
    bindparam,
    delete,
    or_,
    select,
    true,
)

from taskloom.codec import decode, encode
from taskloom.sql.dialect import Source, among, insert_into, over_rows, said_of
from taskloom.sql.schema import cache as table

__all__ = ["add", "lock", "put", "remove", "unlock", "values"]

_KEYS = Source(key=Text())
_c = table.c
_SWEPT_AT_ONCE = 100


def values(conn: Connection, keys: Sequence[str], now: int) -> dict[str, str]:
    """Values, as JSON, that are there and whose time has not come."""
    found: dict[str, str] = {}
    for result in over_rows(conn, _values, [(key,) for key in keys], now=now):
        found.update((row.key, row.value) for row in result)
    return found


@cache
def _values() -> Select[Any]:
    keys = _KEYS.table()
    goes_on = or_(_c.expires_at.is_(None), _c.expires_at > bindparam("now"))
    return (
        select(_c.key, _c.value)
        .join(keys, _c.key == keys.c.key)
        .where(said_of(keys.c.key, and_(_c.value.is_not(None), goes_on)))
    )


def put(conn: Connection, key: str, value: str, now: int, until: int | None) -> None:
    """Keep a value in place of whatever is there."""
    conn.execute(_put(), {"key": key, "value": value, "expires_at": until})
    _sweep(conn, now)


@cache
def _put() -> Executable:
    new = insert_into(table).values(
        key=bindparam("key"), value=bindparam("value"), expires_at=bindparam("expires_at")
    )
    return new.on_conflict_do_update(
        index_elements=["key"],
        set_={"value": new.excluded.value, "owner": None, "expires_at": new.excluded.expires_at},
    )


def remove(conn: Connection, key: str) -> None:
    """Delete a key."""
    conn.execute(delete(table).where(_c.key == key))


def add(conn: Connection, key: str, by: int, now: int, until: int | None) -> int:
    """Add to a number; a new one lives until `until`, an old one as long as it would have."""
    row = conn.execute(_held(), {"key": key, "expires_at": until}).one()
    old = 0
    if row.value is not None and (row.expires_at or now + 1) > now:
        old, until = decode(row.value), row.expires_at
        if not isinstance(old, int) or isinstance(old, bool):
            raise ValueError(f"incr: the value of {key!r} is not a whole number")
    put(conn, key, encode(old + by).decode(), now, until)
    return old + by


@cache
def _held() -> Executable:
    """The row of a key, made if there is none, locked: of two that add, one has to wait."""
    new = insert_into(table).values(key=bindparam("key"), expires_at=bindparam("expires_at"))
    return new.on_conflict_do_update(
        index_elements=["key"], set_={"expires_at": _c.expires_at}
    ).returning(_c.value, _c.expires_at)


def lock(conn: Connection, keys: Sequence[str], owner: str, now: int, until: int) -> set[str]:
    """Take keys that are free, over, or the owner's; those that are the owner's now."""
    rows = [(key,) for key in set(keys)]
    results = over_rows(conn, _lock, rows, owner=owner, now=now, until=until)
    held = {key for result in results for (key,) in result}
    _sweep(conn, now)
    return held


@cache
def _lock() -> Executable:
    keys = _KEYS.table()
    rows = select(
        keys.c.key, bindparam("owner", type_=Text()), bindparam("until", type_=BigInteger())
    ).where(true())
    new = insert_into(table).from_select(["key", "owner", "expires_at"], rows)
    over = _c.expires_at <= bindparam("now")
    return new.on_conflict_do_update(
        index_elements=["key"],
        set_={"owner": new.excluded.owner, "value": None, "expires_at": new.excluded.expires_at},
        where=or_(over, _c.owner == new.excluded.owner),
    ).returning(_c.key)


def unlock(conn: Connection, keys: Sequence[str], owner: str) -> None:
    """Delete those keys that the owner holds."""
    for result in over_rows(conn, _unlock, [(key,) for key in keys], owner=owner):
        result.close()


@cache
def _unlock() -> Delete:
    keys = _KEYS.table()
    owned = said_of(keys.c.key, _c.owner == bindparam("owner"))
    held = select(_c.key).join(keys, _c.key == keys.c.key).where(owned)
    # Held before they are deleted, in the order in which others take them.
    return delete(table).where(among(_c.key, held.order_by(_c.key).with_for_update(of=table)))


def _sweep(conn: Connection, now: int) -> None:
    """Delete some of what is over, so that the table stays as small as its living part.

    The last thing in a transaction: it waits for nobody, so that nobody waits for it in a circle.
    """
    conn.execute(_over(), {"now": now, "most": _SWEPT_AT_ONCE})


@cache
def _over() -> Delete:
    over = select(_c.key).where(_c.expires_at <= bindparam("now")).limit(bindparam("most"))
    return delete(table).where(among(_c.key, over.with_for_update(skip_locked=True)))
