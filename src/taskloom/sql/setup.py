"""Creating tables, knowing which version of them there is, and bringing it up to this one."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from uuid import uuid4

from sqlalchemy import Connection, insert, inspect, select, update

from taskloom.errors import ConfigurationError
from taskloom.sql.dialect import execute_slowly, lock_schema
from taskloom.sql.schema import SCHEMA_VERSION, meta, metadata, spell_for_postgres
from taskloom.sql.upgrades import OLDEST, UPGRADES, Upgrade

__all__ = ["create_tables", "identity_of", "upgrade_tables"]

logger = logging.getLogger("taskloom.sql")


def create_tables(conn: Connection) -> None:
    """Create what is missing, and upgrade tables of an earlier version where that is quick.

    Safe from many processes at once: one does it, the others wait. All of it or nothing. Raises
    `ConfigurationError` for tables of a later version, and for those that it takes long to upgrade.
    """
    steps = _missing_steps(conn)
    if not all(step.is_quick for step in steps):
        place = _place(conn)
        raise ConfigurationError(
            f"{place} was made by an earlier Taskloom, and bringing it up to date may take long: "
            f"stop its workers, then run: taskloom init --url {place}"
        )
    _take(conn, steps)


def upgrade_tables(conn: Connection) -> None:
    """As `create_tables`, however long it takes."""
    _take(conn, _missing_steps(conn))


def identity_of(conn: Connection) -> str | None:
    """The name that the tables seen from here have, and no others."""
    return conn.scalar(select(meta.c.value).where(meta.c.key == "database"))


def _missing_steps(conn: Connection) -> Sequence[Upgrade]:
    """The steps that lead here from the version that is there; none where the tables are new."""
    lock_schema(conn)
    version = _version(conn)
    if version is None:
        _create(conn)
        return ()
    if version > SCHEMA_VERSION:
        raise ConfigurationError(
            f"{_place(conn)} was written by a later Taskloom (schema {version}, this one knows "
            f"{SCHEMA_VERSION}): upgrade taskloom here"
        )
    if version < OLDEST:
        raise ConfigurationError(
            f"{_place(conn)} was written by a Taskloom before its first release (schema "
            f"{version}): move its tables away and start anew"
        )
    return [step for step in UPGRADES if step.version > version]


def _version(conn: Connection) -> int | None:
    if not inspect(conn).has_table(meta.name):
        return None
    value = conn.scalar(select(meta.c.value).where(meta.c.key == "schema_version"))
    return None if value is None else int(value)


def _create(conn: Connection) -> None:
    if conn.dialect.name == "postgresql":
        spell_for_postgres()
    metadata.create_all(conn)
    known = {"schema_version": str(SCHEMA_VERSION), "database": uuid4().hex}
    conn.execute(insert(meta), [{"key": key, "value": value} for key, value in known.items()])


def _take(conn: Connection, steps: Sequence[Upgrade]) -> None:
    if not steps:
        return
    for step in steps:
        for statement in step.statements(conn):
            execute_slowly(conn, statement)
    version = steps[-1].version
    is_version = meta.c.key == "schema_version"
    conn.execute(update(meta).where(is_version).values(value=str(version)))
    logger.info("%s: its tables were brought up to version %d", _place(conn), version)


def _place(conn: Connection) -> str:
    """The URL as people may see it, and write it for Taskloom."""
    url = conn.engine.url
    return url.set(drivername=url.get_backend_name()).render_as_string(hide_password=True)
