"""The end of the demo: the report in short, as the flow's join returned it."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from taskloom.cli.demo.places import Places
from taskloom.cli.demo.report import Failure, Found, Report
from taskloom.cli.words import count, one_line_of, program, size

__all__ = ["show_summary"]


def show_summary(
    report: Report, flow_id: str, places: Places, seconds: float, done_now: int, console: Console
) -> None:
    """Print what the report says, and where there is more to see."""
    parts: list[RenderableType] = [
        _totals(report, places),
        Text("\nLargest", "bold"),
        _largest(report.largest),
    ]
    if report.failed:
        parts += [Text("\nFailed", "bold"), _failures(report.failures, report.failed)]
    speed = f"{done_now:,} done in {seconds:.1f} s" if done_now else "all done before"
    title = f"The index: {speed}"
    console.print(Panel(Group(*parts), title=title, title_align="left", border_style="green"))
    _show_ways_on(flow_id, places, bool(report.failed), console)


def _totals(report: Report, places: Places) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column()
    python = f"{count(report.definitions, 'definition')} in {count(report.python_files, 'file')}"
    for name, value in (
        ("files", f"{report.files:,} indexed, {report.failed:,} failed"),
        ("lines", f"{report.lines:,}"),
        ("size", size(report.bytes)),
        ("Python", python),
        ("report", str(places.report)),
    ):
        table.add_row(name, Text(value))
    return table


def _largest(largest: Sequence[Found]) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(justify="right", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    for found in largest:
        lines = "binary" if found.lines is None else f"{found.lines:,} lines"
        table.add_row(size(found.bytes), lines, Text(one_line_of(found.path)))
    return table


def _failures(failures: Sequence[Failure], number: int) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("file", ratio=2, overflow="fold")
    table.add_column("attempts", justify="right", no_wrap=True)
    table.add_column("error", ratio=3, overflow="fold")
    for failure in failures:
        error = Text(one_line_of(failure.error, 500), "red")
        table.add_row(Text(one_line_of(failure.path)), f"{failure.attempts}", error)
    if number > len(failures):
        table.add_row(f"and {number - len(failures):,} more", "", "")
    return table


def _show_ways_on(flow_id: str, places: Places, failed: bool, console: Console) -> None:
    at = f"--url {places.url}"
    lines = [f"{program()} flows show {flow_id} {at}", f"{program()} status {at}"]
    if failed:
        lines.append(f"{program()} tasks list --status failed {at}")
    console.print(Text("Look at it:"))
    for line in lines:
        console.print(Text(f"  {line}", "cyan"), soft_wrap=True)
