"""What stands in a SQLite file, read beside the library: rows of flows and of projections.

A log of how they changed is kept by triggers, so that nothing goes back without being seen.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

__all__ = ["changes", "flows", "projections", "watch"]

_WATCHED = {
    "projection": ("taskloom_projections", "task_id", "status"),
    "flow": ("taskloom_flows", "flow_id", "state"),
}


@contextmanager
def _opened(file: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(file, timeout=10)) as db, db:
        db.execute("PRAGMA wal_autocheckpoint = 0")  # the library's duty, by one process at a time
        yield db


def watch(file: Path) -> None:
    """Log every change of a flow's state and of a projection's status, in the file itself."""
    with _opened(file) as db:
        db.execute("CREATE TABLE IF NOT EXISTS rig_changes (kind, id, old, new)")
        for kind, (table, id, column) in _WATCHED.items():
            db.execute(
                f"CREATE TRIGGER IF NOT EXISTS rig_{kind} AFTER UPDATE OF {column} ON {table} "
                f"WHEN OLD.{column} IS NOT NEW.{column} BEGIN "
                f"INSERT INTO rig_changes VALUES ('{kind}', NEW.{id}, OLD.{column}, NEW.{column}); "
                "END"
            )


def changes(file: Path) -> list[tuple[str, str, str, str]]:
    """Kind, id, before and after, in order."""
    with _opened(file) as db:
        return db.execute("SELECT kind, id, old, new FROM rig_changes ORDER BY rowid").fetchall()


def flows(file: Path) -> dict[str, str]:
    """The state of each flow."""
    with _opened(file) as db:
        return dict(db.execute("SELECT flow_id, state FROM taskloom_flows"))


def projections(file: Path) -> dict[str, str]:
    """The status of each row of projections."""
    with _opened(file) as db:
        return dict(db.execute("SELECT task_id, status FROM taskloom_projections"))
