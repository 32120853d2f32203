"""One task, everything about it, for people."""

from __future__ import annotations

import json
from typing import Any

from msgspec import UNSET
from rich.console import Console
from rich.table import Table
from rich.text import Text

from taskloom.cli.words import as_status, attempts_of, duration, local_time, one_line_of, took
from taskloom.codec import one_line, to_builtins
from taskloom.task import Task

__all__ = ["show_task"]

_SHOWN_ELSEWHERE = ("last_error", "last_error_stack")


def show_task(task: Task[Any], console: Console) -> None:
    """Print it; the payload too, since someone asked for this very task."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _facts(task):
        table.add_row(name, value)
    console.print(table)
    for title, text in _blocks(task):
        console.print(Text(f"\n{title}", "bold"))
        for line in text.splitlines():
            console.print(Text(f"  {one_line(line)}"), soft_wrap=True)


def _facts(task: Task[Any]) -> list[tuple[str, Text]]:
    rows = [("task", Text(one_line(task.id), "bold")), ("status", as_status(task.status))]
    for name, value in (
        ("queue", task.queue_id),
        ("type", task.type),
        ("attempts", _attempts(task)),
        ("retry after", "" if task.retry_after is None else f"{task.retry_after:g} s"),
        ("group", task.task_group),
        ("hash", task.task_hash),
        ("partition key", task.partition_key),
        ("entity", f"{task.entity.type} {task.entity.id}" if task.entity else None),
        ("log context", _pairs(task.metadata.log_context)),
    ):
        if value:
            rows.append((name, Text(one_line_of(value, 2_000))))
    rows += [(name, Text(text)) for name, text in _times(task)]
    return rows


def _attempts(task: Task[Any]) -> str:
    retries = "its executor's retries" if task.retries is None else f"{task.retries} retries"
    return f"{attempts_of(task)}, with {retries}"


def _pairs(context: dict[str, str] | None) -> str:
    return ", ".join(f"{key}={value}" for key, value in (context or {}).items())


def _times(task: Task[Any]) -> list[tuple[str, str]]:
    rows = [("created", local_time(task.created_at)), ("due", local_time(task.execute_at))]
    if task.expires_at is not None:
        rows.append(("expires", local_time(task.expires_at)))
    started, ended = task.processing_started_at, task.updated_at
    if started is not None:
        rows.append(("started", local_time(started)))
    if task.status.terminal:
        rows.append(("ended", local_time(ended)))
        if (seconds := took(task, ended)) is not None:
            rows.append(("took", duration(seconds)))
    return rows


def _blocks(task: Task[Any]) -> list[tuple[str, str]]:
    stats = task.execution_stats
    blocks = [("payload", _json(task.payload))]
    if task.execution_result is not UNSET:
        blocks.append(("result", _json(task.execution_result)))
    if stats.get("last_error"):
        blocks.append(("error", str(stats["last_error"])))
    if stats.get("last_error_stack"):
        blocks.append(("stack", str(stats["last_error_stack"])))
    rest = {key: value for key, value in stats.items() if key not in _SHOWN_ELSEWHERE}
    if rest:
        blocks.append(("stats", _json(rest)))
    return blocks


def _json(value: Any) -> str:
    return json.dumps(to_builtins(value), indent=2, ensure_ascii=False)
