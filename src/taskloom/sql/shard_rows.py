"""Rows of shard locks: functions of a connection inside a transaction. Times are microseconds."""

from __future__ import annotations

from functools import cache
from typing import Any

from sqlalchemy import Connection, Executable, Update, bindparam, delete, or_, select, update

from taskloom.sql.dialect import insert_into
from taskloom.sql.schema import shard_locks as table
from taskloom.sql.schema import shard_readers as readers

__all__ = ["acquire", "keep", "kept", "note", "noted", "release", "renew"]

_c = table.c
_SWEPT_AT_ONCE = 100


def acquire(conn: Connection, key: str, owner: str, now: int, until: int) -> bool:
    """Take a key that is free, over, or the owner's."""
    given = {"key": key, "owner": owner, "now": now, "expires_at": until}
    return conn.scalar(_acquire(), given) is not None


@cache
def _acquire() -> Executable:
    names = ("key", "owner", "expires_at")
    new = insert_into(table).values({name: bindparam(name) for name in names})
    over = or_(_c.expires_at.is_(None), _c.expires_at <= bindparam("now"))
    return new.on_conflict_do_update(
        index_elements=["key"],
        set_={"owner": new.excluded.owner, "expires_at": new.excluded.expires_at},
        where=or_(over, _c.owner == new.excluded.owner),
    ).returning(_c.key)


def renew(conn: Connection, key: str, owner: str, now: int, until: int) -> bool:
    """Hold on to a key that is the owner's and not over."""
    given = {"k": key, "o": owner, "now": now, "until": until}
    return conn.scalar(_renew(), given) is not None


@cache
def _renew() -> Executable:
    return _held().values(expires_at=bindparam("until")).returning(_c.key)


def keep(conn: Connection, key: str, value: str, owner: str, now: int) -> bool:
    """Write the checkpoint of a key that is the owner's and not over."""
    given = {"k": key, "o": owner, "now": now, "value": value}
    return conn.scalar(_keep(), given) is not None


@cache
def _keep() -> Executable:
    return _held().values(checkpoint=bindparam("value")).returning(_c.key)


def _held() -> Update:
    return update(table).where(
        _c.key == bindparam("k"), _c.owner == bindparam("o"), _c.expires_at > bindparam("now")
    )


def release(conn: Connection, key: str, owner: str) -> None:
    """Free a key that is the owner's."""
    owned = update(table).where(_c.key == key, _c.owner == owner)
    conn.execute(owned.values(owner=None, expires_at=None))


def kept(conn: Connection, key: str) -> str | None:
    """The checkpoint of a key."""
    return conn.scalar(select(_c.checkpoint).where(_c.key == key))


def note(conn: Connection, stream: str, instance: str, now: int, until: int) -> None:
    """Say that an instance reads a stream, and forget those whose time is over."""
    given: dict[str, Any] = {"stream": stream, "instance": instance, "expires_at": until}
    conn.execute(_note(), given)
    # The last thing in a transaction: it waits for nobody, so that nobody waits for it in a circle.
    conn.execute(_over(), {"now": now, "most": _SWEPT_AT_ONCE})


@cache
def _note() -> Executable:
    names = ("stream", "instance", "expires_at")
    new = insert_into(readers).values({name: bindparam(name) for name in names})
    return new.on_conflict_do_update(
        index_elements=["stream", "instance"], set_={"expires_at": new.excluded.expires_at}
    )


@cache
def _over() -> Executable:
    over = select(readers.c.instance).where(readers.c.expires_at <= bindparam("now"))
    some = over.limit(bindparam("most")).with_for_update(skip_locked=True)
    return delete(readers).where(
        readers.c.instance.in_(some), readers.c.expires_at <= bindparam("now")
    )


def noted(conn: Connection, stream: str, now: int) -> list[str]:
    """The instances of a stream whose time is not over."""
    c = readers.c
    return list(conn.scalars(select(c.instance).where(c.stream == stream, c.expires_at > now)))
