"""A crowd of tasks, built inside SQLite as copies of rows that the library itself has written."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from pathlib import Path

from benchmarks.harness import Result
from benchmarks.ours import QUEUE, Noop, counted, drained
from benchmarks.work import FIRST, Tally, payload
from taskloom import Loom, Task

__all__ = ["build"]

_CHANGED = {
    "id": "substr(id, 1, 24) || printf('%012x', n)",
    "due_at": "due_at + n",
    "created_at": "created_at + n",
    "updated_at": "updated_at + n",
    "body": "replace(replace(body, id, substr(id, 1, 24) || printf('%012x', n)),"
    f" '\"number\":{FIRST}', '\"number\":' || ({FIRST} + n))",
}
"""What distinguishes the nth copy: its id, its times (a microsecond apart) and its number."""


def build(path: str, waiting: int, finished: int) -> Result:
    """Fill a new file with tasks that wait, numbered from 0, and with executed ones."""
    asyncio.run(_write_models(path))
    conn = sqlite3.connect(path, isolation_level=None)
    conn.execute("PRAGMA synchronous = OFF")
    conn.execute("PRAGMA cache_size = -1000000")
    conn.execute("BEGIN IMMEDIATE")
    _copy(conn, "executed", finished - 1)
    _copy(conn, "scheduled", waiting - 1)
    conn.execute("UPDATE taskloom_tallies SET n = n + ? WHERE status = 'executed'", (finished - 1,))
    conn.execute("COMMIT")
    conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    conn.close()
    # Else the first checkpoint of whoever is measured next would write all of it to the disk.
    with Path(path).open("rb") as file:
        os.fsync(file.fileno())
    return {}


async def _write_models(path: str) -> None:
    stop = asyncio.Event()
    loom, noop = counted(f"sqlite:///{path}", Tally(1, stop.set))
    async with loom:
        await _add_model(loom, noop)
        await drained(loom, stop)
        await _add_model(loom, noop)


async def _add_model(loom: Loom, noop: Noop) -> None:
    await loom.add_tasks([Task(type=noop.type, queue_id=QUEUE, payload=payload(0))])


def _copy(conn: sqlite3.Connection, status: str, copies: int) -> None:
    columns = [row[1] for row in conn.execute("PRAGMA table_info(taskloom_tasks)")]
    columns.remove("seq")
    values = ", ".join(_CHANGED.get(name, name) for name in columns)
    conn.execute(
        f"""WITH RECURSIVE numbers(n) AS (
            SELECT 1 WHERE ?1 > 0 UNION ALL SELECT n + 1 FROM numbers WHERE n < ?1)
        INSERT INTO taskloom_tasks ({", ".join(columns)})
        SELECT {values} FROM numbers, taskloom_tasks
        WHERE seq = (SELECT max(seq) FROM taskloom_tasks WHERE status = ?2)""",
        (copies, status),
    )
