"""The end of the demo: a table made from the results that the storage kept."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from taskloom.cli.demo.places import Places
from taskloom.cli.words import count, one_line_of, program, reason_of, size
from taskloom.task import Task, TaskStatus

__all__ = ["show_summary"]

_LARGEST = 5
_FAILURES = 12


def show_summary(
    tasks: Sequence[Task[Any]], places: Places, seconds: float, done_now: int, console: Console
) -> None:
    """Print what `tasks`, as the storage has them, say about the files."""
    good = [task for task in tasks if task.status is TaskStatus.EXECUTED]
    failed = [task for task in tasks if task.status is TaskStatus.FAILED]
    parts: list[RenderableType] = [
        _totals(good, failed, places),
        Text("\nLargest", "bold"),
        _largest(good),
    ]
    if failed:
        parts += [Text("\nFailed", "bold"), _failures(failed)]
    speed = f"{done_now:,} done in {seconds:.1f} s" if done_now else "all done before"
    title = f"The index: {speed}"
    console.print(Panel(Group(*parts), title=title, title_align="left", border_style="green"))
    _show_ways_on(places, bool(failed), console)


def _totals(good: Sequence[Task[Any]], failed: Sequence[Task[Any]], places: Places) -> Table:
    results = [task.execution_result for task in good]
    python = [found["definitions"] for found in results if found["definitions"] is not None]
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column()
    for name, value in (
        ("files", f"{len(good):,} indexed, {len(failed):,} failed"),
        ("lines", f"{sum(found['lines'] or 0 for found in results):,}"),
        ("size", size(sum(found["bytes"] for found in results))),
        ("Python", f"{count(sum(python), 'definition')} in {count(len(python), 'file')}"),
        ("index", f"{count(_rows(places), 'row')} in {places.index}"),
    ):
        table.add_row(name, Text(value))
    return table


def _rows(places: Places) -> int:
    if not places.index.exists():
        return 0
    with closing(sqlite3.connect(places.index, timeout=30)) as index:
        return int(index.execute("SELECT count(*) FROM files").fetchone()[0])


def _largest(good: Sequence[Task[Any]]) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(justify="right", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    by_size = sorted(good, key=lambda task: task.execution_result["bytes"], reverse=True)
    for task in by_size[:_LARGEST]:
        found = task.execution_result
        lines = "binary" if found["lines"] is None else f"{found['lines']:,} lines"
        table.add_row(size(found["bytes"]), lines, Text(one_line_of(task.payload["path"])))
    return table


def _failures(failed: Sequence[Task[Any]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("file", ratio=2, overflow="fold")
    table.add_column("attempts", justify="right", no_wrap=True)
    table.add_column("error", ratio=3, overflow="fold")
    for task in failed[:_FAILURES]:
        path = Text(one_line_of(task.payload["path"]))
        table.add_row(path, f"{task.retry_count + 1}", Text(reason_of(task), "red"))
    if len(failed) > _FAILURES:
        table.add_row(f"and {len(failed) - _FAILURES:,} more", "", "")
    return table


def _show_ways_on(places: Places, failed: bool, console: Console) -> None:
    at = f"--url {places.url}"
    lines = [f"{program()} status {at}"]
    lines.append(f"{program()} tasks list {'--status failed ' if failed else ''}{at}")
    console.print(Text("Look at it:"))
    for line in lines:
        console.print(Text(f"  {line}", "cyan"), soft_wrap=True)
