"""The demo while its workers work: a bar for the files, one for the rows of the index."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping

from msgspec import Struct
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from taskloom.cli.demo.places import FILES, ROWS
from taskloom.interfaces import TaskArchive
from taskloom.task import TaskStatus

__all__ = ["Tally", "read_tally", "watch"]

_INTERVAL = 0.15


class Tally(Struct, frozen=True):
    """How far the two queues are."""

    files: int
    done: int
    """Files that have ended, well or not."""
    failed: int
    rows: int
    written: int

    @property
    def complete(self) -> bool:
        """Whether nothing is left to do."""
        return self.done == self.files and self.written == self.rows


async def read_tally(archive: TaskArchive) -> Tally:
    """Count, now."""
    counts = await archive.counts()
    files, rows = _of(counts, FILES), _of(counts, ROWS)
    return Tally(
        files=sum(files.values()),
        done=_ended(files),
        failed=files.get(TaskStatus.FAILED, 0),
        rows=sum(rows.values()),
        written=_ended(rows),
    )


def _of(counts: Mapping[tuple[str, TaskStatus], int], queue: str) -> dict[TaskStatus, int]:
    return {status: number for (name, status), number in counts.items() if name == queue}


def _ended(counts: Mapping[TaskStatus, int]) -> int:
    return sum(number for status, number in counts.items() if status.terminal)


async def watch(archive: TaskArchive, stop: asyncio.Event, console: Console) -> Tally:
    """Show progress until everything is done, or `stop`; how far it was then."""
    tally = await read_tally(archive)
    before = tally.done
    with _bars(console) as progress:
        files = progress.add_task("files", total=tally.files, before=before, failed=0)
        rows = progress.add_task("rows", total=None, before=tally.written, failed=0)
        while True:
            progress.update(files, completed=tally.done, total=tally.files, failed=tally.failed)
            # Each file that went well adds a row: that is how many there will be.
            expected = tally.files - tally.failed
            progress.update(rows, completed=tally.written, total=expected)
            if tally.complete or stop.is_set():
                return tally
            await _pause(stop)
            tally = await read_tally(archive)


async def _pause(stop: asyncio.Event) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_INTERVAL):
            await stop.wait()


def _bars(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description:<5}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        _Failed(),
        _Rate(),
        TimeElapsedColumn(),
        console=console,
        expand=True,
    )


class _Failed(ProgressColumn):
    def render(self, task: Task) -> Text:
        number = task.fields["failed"]
        return Text(f"{number:,} failed" if number else "", "red")


class _Rate(ProgressColumn):
    """Per second since the demo was started; what was done before does not count."""

    def render(self, task: Task) -> Text:
        elapsed = task.finished_time if task.finished else task.elapsed
        done = task.completed - task.fields["before"]
        return Text(f"{done / elapsed:,.0f}/s" if elapsed and done else "", "cyan")
