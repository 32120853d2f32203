"""What the engine itself can do: plain sqlite3, no library, the least a durable queue must do."""

from __future__ import annotations

import json
import sqlite3
from time import perf_counter, time_ns
from typing import Any

from uuid_utils import uuid7

from benchmarks.harness import Result
from benchmarks.work import Tally, payload

__all__ = ["add", "drain", "fill"]

BATCH = 100
PER_CALL = 1_000

_SCHEMA = """
CREATE TABLE tasks (
    seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, status TEXT NOT NULL,
    due_at INTEGER NOT NULL, body TEXT NOT NULL
);
CREATE INDEX tasks_due ON tasks (due_at) WHERE status = 'waiting';
"""
_CLAIM = """
UPDATE tasks SET status = 'running', due_at = ?1 + 60000000 WHERE seq IN (
    SELECT seq FROM tasks WHERE status = 'waiting' AND due_at <= ?1 ORDER BY due_at LIMIT ?2
) RETURNING seq, body
"""
_FINISH = "UPDATE tasks SET status = 'done' WHERE seq IN (SELECT value FROM json_each(?))"


def _connect(path: str) -> sqlite3.Connection:
    conn = sqlite3.connect(path, isolation_level=None)
    conn.execute("PRAGMA journal_mode = WAL")
    conn.execute("PRAGMA synchronous = NORMAL")
    conn.execute("PRAGMA cache_size = -32000")
    return conn


def fill(path: str, tasks: int) -> Result:
    """Put `tasks` tasks into a new SQLite file."""
    return add(path, tasks)


def add(path: str, tasks: int) -> Result:
    """`rate` of `executemany`, 1,000 rows in a transaction, making the rows included."""
    conn = _connect(path)
    conn.executescript(_SCHEMA)
    start = perf_counter()
    for first in range(0, tasks, PER_CALL):
        rows = [_row(index) for index in range(first, min(first + PER_CALL, tasks))]
        conn.execute("BEGIN IMMEDIATE")
        conn.executemany(
            "INSERT INTO tasks (id, status, due_at, body) VALUES (?, 'waiting', ?, ?)", rows
        )
        conn.execute("COMMIT")
    seconds = perf_counter() - start
    conn.close()
    return {"rate": tasks / seconds}


def _row(index: int) -> tuple[Any, ...]:
    return str(uuid7()), time_ns() // 1000, json.dumps(payload(index))


def drain(path: str, tasks: int) -> Result:
    """`rate` of claiming 100, decoding them, finishing them in one statement, and so on."""
    tally = Tally(tasks, lambda: None)
    conn = _connect(path)
    start = perf_counter()
    while claimed := conn.execute(_CLAIM, (time_ns() // 1000, BATCH)).fetchall():
        for _, body in claimed:
            tally.ran(json.loads(body)["number"])
        conn.execute(_FINISH, (json.dumps([seq for seq, _ in claimed]),))
    seconds = perf_counter() - start
    [(done,)] = conn.execute("SELECT count(*) FROM tasks WHERE status = 'done'")
    conn.close()
    tally.check_once()
    assert done == tasks, done
    return {"rate": tasks / seconds}
