"""What stands in a SQL database, read beside the library: tasks, locks, flows and projections.

A log of how flows and projections changed is kept by triggers, so that nothing goes back unseen.
"""

from __future__ import annotations

import sqlite3
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import asyncpg

__all__ = ["PostgresRows", "Rows", "SqliteRows"]

_WATCHED = {
    "projection": ("taskloom_projections", "task_id", "status"),
    "flow": ("taskloom_flows", "flow_id", "state"),
}


class Rows(ABC):
    """One database, beside the library."""

    @abstractmethod
    async def fetch(self, query: str) -> Sequence[tuple[Any, ...]]:
        """Run one statement, committed; its rows."""

    @abstractmethod
    async def watch(self) -> None:
        """Log every change of a flow's state and of a projection's status, in the database."""

    async def changes(self) -> Sequence[Sequence[Any]]:
        """Kind, id, before and after, in order."""
        return await self.fetch("SELECT kind, id, was, is_now FROM rig_changes ORDER BY seq")

    async def flows(self) -> dict[str, str]:
        """The state of each flow."""
        rows = await self.fetch("SELECT flow_id, state FROM taskloom_flows")
        return dict(rows)

    async def projections(self) -> dict[str, str]:
        """The status of each row of projections."""
        rows = await self.fetch("SELECT task_id, status FROM taskloom_projections")
        return dict(rows)

    async def held(self) -> list[str]:
        """Tasks under a lease, and locks of tasks that have not ended."""
        leased = "SELECT id FROM taskloom_tasks WHERE due_at IS NOT NULL OR status = 'processing'"
        locks = (
            "SELECT key FROM taskloom_cache WHERE key LIKE 'task_lock_%' AND "
            f"(expires_at IS NULL OR expires_at > {int(time.time() * 1_000_000)})"
        )
        return [name for query in (leased, locks) for (name,) in await self.fetch(query)]

    async def spoil(self, id: str) -> None:
        """Make a stored task unreadable."""
        await self.fetch(f"UPDATE taskloom_tasks SET body = '{{spoilt' WHERE id = '{id}'")


class SqliteRows(Rows):
    """A file."""

    def __init__(self, file: Path) -> None:
        self._file = file

    async def fetch(self, query: str) -> Sequence[tuple[Any, ...]]:
        with closing(sqlite3.connect(self._file, timeout=10)) as db, db:
            db.execute("PRAGMA wal_autocheckpoint = 0")  # the library's, by one process at a time
            return db.execute(query).fetchall()

    async def watch(self) -> None:
        await self.fetch(
            "CREATE TABLE IF NOT EXISTS rig_changes "
            "(seq INTEGER PRIMARY KEY, kind TEXT, id TEXT, was TEXT, is_now TEXT)"
        )
        for kind, (table, id, column) in _WATCHED.items():
            await self.fetch(
                f"CREATE TRIGGER IF NOT EXISTS rig_{kind} AFTER UPDATE OF {column} ON {table} "
                f"WHEN OLD.{column} IS NOT NEW.{column} BEGIN "
                "INSERT INTO rig_changes (kind, id, was, is_now) "
                f"VALUES ('{kind}', NEW.{id}, OLD.{column}, NEW.{column}); END"
            )


class PostgresRows(Rows):
    """A database on a server."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def fetch(self, query: str) -> Sequence[tuple[Any, ...]]:
        conn = await asyncpg.connect(self._url)
        try:
            return [tuple(row) for row in await conn.fetch(query)]
        finally:
            await conn.close()

    async def watch(self) -> None:
        await self.fetch(
            "CREATE TABLE rig_changes "
            "(seq BIGSERIAL PRIMARY KEY, kind TEXT, id TEXT, was TEXT, is_now TEXT)"
        )
        for kind, (table, id, column) in _WATCHED.items():
            await self.fetch(
                f"CREATE FUNCTION rig_{kind}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
                "INSERT INTO rig_changes (kind, id, was, is_now) "
                f"VALUES ('{kind}', NEW.{id}, OLD.{column}, NEW.{column}); RETURN NULL; END $$"
            )
            await self.fetch(
                f"CREATE TRIGGER rig_{kind} AFTER UPDATE OF {column} ON {table} FOR EACH ROW "
                f"WHEN (OLD.{column} IS DISTINCT FROM NEW.{column}) "
                f"EXECUTE FUNCTION rig_{kind}()"
            )
