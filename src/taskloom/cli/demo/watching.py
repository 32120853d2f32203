"""The demo while its workers work: the folder's entity, and a bar for its files."""

from __future__ import annotations

import asyncio
import contextlib

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

from taskloom.app import Loom
from taskloom.projections import ProjectionStatus
from taskloom.sql import SqlProjections

__all__ = ["Tally", "read_tally", "watch"]

_INTERVAL = 0.15


class Tally(Struct, frozen=True):
    """How far the flow is."""

    folder: ProjectionStatus
    """What has become of the flow's entity: `processing` until the report is written."""
    files: int
    done: int
    """Files that have ended, well or not."""
    failed: int

    @property
    def complete(self) -> bool:
        """Whether nothing is left to do."""
        return self.folder in ("executed", "failed")


async def read_tally(loom: Loom, flow_id: str) -> Tally:
    """How far it is now. Two rows are read, however many files there are."""
    barrier, projections = loom.flow_barrier, loom.entity_projections
    assert barrier is not None, "SQL counts flows"
    assert isinstance(projections, SqlProjections), "SQL keeps projections"
    record = await barrier.get_flow(flow_id)
    [row] = await projections.get([flow_id])
    assert record is not None, "the demo keeps its flows"
    return Tally(row.status, record.flow.total_steps, record.counted, record.failed)


async def watch(loom: Loom, flow_id: str, stop: asyncio.Event, console: Console) -> None:
    """Show progress until everything is done, or `stop`."""
    tally = await read_tally(loom, flow_id)
    with _bars(console) as progress:
        bar = progress.add_task("", total=tally.files, before=tally.done, failed=0)
        while True:
            folder = f"folder {tally.folder}"
            progress.update(bar, completed=tally.done, description=folder, failed=tally.failed)
            if tally.complete or stop.is_set():
                return
            await _pause(stop)
            tally = await read_tally(loom, flow_id)


async def _pause(stop: asyncio.Event) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_INTERVAL):
            await stop.wait()


def _bars(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description:<17}"),
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
