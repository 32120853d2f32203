"""The demo's Loom: what the worker processes run."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from msgspec import Struct

from taskloom.actions import ExecutorActions
from taskloom.app import Loom
from taskloom.cli.demo.places import DATABASE_VARIABLE, FILES, ROWS, Places
from taskloom.cli.demo.reading import measure
from taskloom.config import Retention, TaskHandlerConfig
from taskloom.task import Task

__all__ = ["demo_config", "index_file", "loom", "write_rows"]


def demo_config() -> TaskHandlerConfig:
    """A killed demo goes on after 10 s, and what it found is kept until someone deletes it."""
    return TaskHandlerConfig(lease=10, retention=Retention(executed=None))


_places = Places(Path(os.environ.get(DATABASE_VARIABLE, "taskloom-demo.db")))

loom = Loom(_places.url, config=demo_config())


class Row(Struct):
    """A line of the index."""

    path: str
    bytes: int
    lines: int | None
    sha256: str
    definitions: int | None


@loom.task(queue=FILES, retries=2, concurrency=4)
def index_file(folder: str, path: str, task: Task[Any], actions: ExecutorActions) -> dict[str, Any]:
    """Measure one file; its row is written by another task, many rows at once."""
    found = measure(Path(folder, path))
    row = {"path": path, **found}
    actions.add_tasks([Task(type=write_rows.type, queue_id=write_rows.queue, payload=row)])
    return found


@loom.task(queue=ROWS, batch=200)
def write_rows(tasks: list[Task[Row]], actions: ExecutorActions) -> None:
    """Write up to 200 rows in one transaction; writing one again changes nothing."""
    rows = [task.payload for task in tasks]
    with closing(sqlite3.connect(_places.index, timeout=30)) as index, index:
        index.execute(
            "CREATE TABLE IF NOT EXISTS files (path TEXT PRIMARY KEY, "
            "bytes INTEGER, lines INTEGER, sha256 TEXT, definitions INTEGER)"
        )
        index.executemany(
            "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?)",
            [(row.path, row.bytes, row.lines, row.sha256, row.definitions) for row in rows],
        )
    for task in tasks:
        actions.success(task)
