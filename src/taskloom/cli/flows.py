"""`taskloom flows`: find flows, look at one, watch it until it is over."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple

import typer
from rich import box
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from taskloom.cli.database import AppOption, Desk, JsonOption, UrlOption, opened
from taskloom.cli.errors import UserError
from taskloom.cli.flow_page import as_state, flow_page, join_word
from taskloom.cli.flow_picture import FlowPicture, FlowReader, state_of
from taskloom.cli.flow_watch import follow, watch_live
from taskloom.cli.json_out import flow_summary, print_json, whole_flow
from taskloom.cli.words import age, one_line_of, print_line, prints_to, program
from taskloom.interfaces import FlowBarrier, FlowRecord
from taskloom.task import TaskStatus

__all__ = ["app"]

app = typer.Typer(
    help="Find flows, look at one, watch it until it is over.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_JOINS = 50
"""Joins that are read at once: each holds the results of its whole flow."""


@app.command("list")
def list_(
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many.")] = 50,
    after: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Go on after this flow.", show_default=False),
    ] = None,
    url: UrlOption = None,
    app: AppOption = None,
    json: JsonOption = False,
) -> None:
    """Show flows, the newest first."""

    async def find() -> list[_Found]:
        async with opened(url, app) as desk:
            flows = await _barrier(desk).search(limit=limit, after=after)
            return await _with_joins(desk, flows)

    found = asyncio.run(find())
    if json:
        print_json([flow_summary(record, join) for record, join in found])
    elif not found:
        print_line(prints_to(), "No such flows." if after else "There are no flows yet.")
    else:
        console = prints_to()
        console.print(_table(found, console.width))
        if len(found) == limit:
            last = found[-1].record.flow.flow_id
            print_line(console, (f"For more add: --after {one_line_of(last)}", "dim"))


@app.command()
def show(
    id: Annotated[str, typer.Argument(metavar="ID", help="The id of a flow.")],
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on until the flow and its join have ended.")
    ] = False,
    every: Annotated[
        bool, typer.Option("--all", help="Every step, not just those that failed or run.")
    ] = False,
    url: UrlOption = None,
    app: AppOption = None,
    json: JsonOption = False,
) -> None:
    """Show where a flow stands: its steps, what it waits for, its join."""
    console = prints_to()
    live = watch and console.is_terminal and not json

    async def look() -> None:
        async with opened(url, app) as desk:
            reader = FlowReader(desk.loom, _barrier(desk), id)
            picture = await _known(desk, reader, id)
            if live:
                await watch_live(reader, picture, console, every=every)
            elif watch:
                picture = await follow(reader, picture)
            if json:
                print_json(whole_flow(picture))
            elif not live:
                console.print(flow_page(picture, console.width, every=every))

    asyncio.run(look())


def _barrier(desk: Desk) -> FlowBarrier:
    barrier = desk.loom.flow_barrier
    if barrier is None:
        raise UserError(f"{desk.place} keeps no flows.")
    return barrier


async def _known(desk: Desk, reader: FlowReader, id: str) -> FlowPicture:
    picture = await reader.look()
    if picture is None:
        advice = f"Ids are in: {program()} flows list"
        raise UserError(f"{desk.place} holds no flow with the id {id}.", advice)
    return picture


class _Found(NamedTuple):
    """A flow, and the status of its join; None where there is no such task."""

    record: FlowRecord
    join: TaskStatus | None


async def _with_joins(desk: Desk, records: Sequence[FlowRecord]) -> list[_Found]:
    status: dict[str, TaskStatus] = {}
    sent = [record.flow.join.id for record in records if record.end is not None]
    for start in range(0, len(sent), _JOINS):
        joins = await desk.loom.get_tasks(sent[start : start + _JOINS])
        status.update((join.id, join.status) for join in joins)
    return [_Found(record, status.get(record.flow.join.id)) for record in records]


def _table(found: Sequence[_Found], width: int) -> Table:
    """As many columns as `width` has room for: ids are there to be copied, and never cut."""
    rows = [_row(each) for each in found]
    widths = [max(cell_len(cell.plain) for cell in cells) for cells in zip(*rows, strict=True)]
    widths = [max(len(name), wide) for name, wide in zip(_HEAD, widths, strict=True)]
    shown = len(_HEAD)
    while shown > 3 and 1 + sum(widths[:shown]) + 2 * (shown - 1) > width:
        shown -= 1
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for name in _HEAD[:shown]:
        side: Literal["left", "right"] = "right" if name in ("steps", "failed", "age") else "left"
        table.add_column(name, no_wrap=True, justify=side)
    for row in rows:
        table.add_row(*row[:shown])
    return table


_HEAD = ("id", "state", "steps", "failed", "join", "age", "join type")


def _row(found: _Found) -> list[Text]:
    record = found.record
    state, join = state_of(record), record.flow.join
    return [
        Text(one_line_of(record.flow.flow_id, 600)),
        as_state(state),
        Text(f"{record.counted:,}/{record.flow.total_steps:,}"),
        Text(f"{record.failed:,}", "red") if record.failed else Text("-", "dim"),
        join_word(state, found.join, sent=record.state == "sent"),
        Text(age(record.started_at)),
        Text(one_line_of(join.type)),
    ]
