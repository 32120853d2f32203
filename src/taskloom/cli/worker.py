"""`taskloom worker`: run the tasks of a Loom until told to stop."""

from __future__ import annotations

import asyncio
import os
from typing import Annotated

import typer
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from taskloom.app import Loom
from taskloom.cli.database import place_of
from taskloom.cli.errors import UserError
from taskloom.cli.logs import LogLevel, set_up_logging
from taskloom.cli.serving import Moment, serve
from taskloom.cli.stopping import Stops
from taskloom.cli.supervisor import END_LIMIT, Supervisor, worker_command
from taskloom.cli.target import load_loom
from taskloom.cli.words import one_line_of, print_line, prints_to

__all__ = ["command"]


def command(
    target: Annotated[
        str,
        typer.Argument(
            metavar="MODULE:LOOM", help="Where the Loom is: app:loom is the `loom` in app.py."
        ),
    ],
    queues: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="Only these queues. Without it: all that have functions."),
    ] = None,
    processes: Annotated[
        int, typer.Option(min=1, max=256, help="So many worker processes, each kept alive.")
    ] = 1,
    log_level: Annotated[LogLevel, typer.Option(help="What is logged.")] = LogLevel.INFO,
    parent: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Run tasks until told to stop.

    SIGTERM or Ctrl-C: no new tasks; what runs is finished (within the Loom's
    shutdown_grace_period), the rest goes back to the queue. A second time: now.
    """
    stops = Stops() if processes == 1 else Stops(limit=END_LIMIT)
    loom = load_loom(target)
    set_up_logging(log_level)
    wanted = _queues(queues, loom)
    if processes > 1:
        code = _supervise(loom, stops, processes, target, queues, log_level)
        raise typer.Exit(code)
    if parent is not None:
        # One of several: who started it does the talking.
        serve(loom, wanted, stops, lambda moment: None, parent=parent)
        return

    def say(moment: Moment) -> None:
        if moment == "ready":
            _banner(loom, wanted, processes)
        else:
            print_line(prints_to(), "Stopping: what runs is finished, the rest given back.")

    serve(loom, wanted, stops, say)
    print_line(prints_to(), "Stopped.")


def _supervise(
    loom: Loom, stops: Stops, processes: int, target: str, queues: str | None, level: LogLevel
) -> int:
    if not loom.handler.message_queue.features.durable:
        raise UserError(
            f"{place_of(loom)} is the memory of one process: {processes} would share nothing.",
            "Use a database, for example sqlite:///taskloom.db, or --processes 1.",
        )
    options = ["--log-level", level.value] + ([] if queues is None else ["--queues", queues])
    supervisor = Supervisor(worker_command(target, options), processes, prints_to())

    async def run() -> int:
        stops.attach()
        # Opened once here: what cannot be opened is said once, not by every process.
        async with loom:
            pass
        _banner(loom, _queues(queues, loom), processes)
        return await supervisor.run(stops.asked, stops.insisted)

    code = asyncio.run(run())
    stops.over(code)
    print_line(prints_to(), "Stopped." if code == 0 else "Stopped; not every worker ended well.")
    return code


def _queues(given: str | None, loom: Loom) -> list[str]:
    """The queues asked for, or all; `UserError` for one without functions, or none at all."""
    known = loom.queues.get_queues()
    if not known:
        raise UserError(
            "this Loom has no tasks: nothing could run.",
            "Decorate a function with @loom.task in the module, or in one that it imports.",
        )
    if given is None:
        return known
    wanted = [name.strip() for name in given.split(",") if name.strip()]
    unknown = [name for name in wanted if name not in known]
    if unknown or not wanted:
        named = repr(unknown[0]) if unknown else "--queues"
        raise UserError(f"no function has the queue {named}.", f"There are: {', '.join(known)}")
    return list(dict.fromkeys(wanted))


def _banner(loom: Loom, queues: list[str], processes: int) -> None:
    console = prints_to()
    rows = {"database": place_of(loom)}
    for queue in queues:
        types = ", ".join(loom.queues.get_task_types_for_queue(queue))
        rows[f"queue {queue}"] = types
    me = f"{os.getpid()}" + (f", with {processes} workers" if processes > 1 else "")
    rows["process"] = me
    console.print(_panel(rows), soft_wrap=False)
    print_line(console, "Ready for tasks. ", ("Ctrl-C to stop.", "dim"))


def _panel(rows: dict[str, str]) -> Panel:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(Text(one_line_of(name)), Text(one_line_of(value, 1_000)))
    title = "Taskloom worker"
    return Panel(table, title=title, title_align="left", border_style="green", expand=False)
