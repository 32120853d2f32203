"""Creating tables, and knowing which version of them there is."""

from __future__ import annotations

from sqlalchemy import Connection, insert, inspect, select

from taskloom.errors import ConfigurationError
from taskloom.sql.dialect import lock_schema
from taskloom.sql.schema import SCHEMA_VERSION, meta, metadata

__all__ = ["create_tables"]


def create_tables(conn: Connection) -> None:
    """Create what is missing. Safe from many processes at once: one does it, the others wait.

    Raises `ConfigurationError` for tables of another version than this code knows.
    """
    lock_schema(conn)
    version = _version(conn)
    if version is None:
        metadata.create_all(conn)
        conn.execute(insert(meta).values(key="schema_version", value=str(SCHEMA_VERSION)))
    elif version > SCHEMA_VERSION:
        raise ConfigurationError(
            f"{conn.engine.url.render_as_string(hide_password=True)} was written by a later "
            f"Taskloom (schema {version}, this one knows {SCHEMA_VERSION}): upgrade taskloom here"
        )
    elif version < SCHEMA_VERSION:
        raise ConfigurationError(
            f"{conn.engine.url.render_as_string(hide_password=True)} was written by a Taskloom "
            f"before its first release (schema {version}): move the file away and start anew"
        )


def _version(conn: Connection) -> int | None:
    if not inspect(conn).has_table(meta.name):
        return None
    value = conn.scalar(select(meta.c.value).where(meta.c.key == "schema_version"))
    return None if value is None else int(value)
