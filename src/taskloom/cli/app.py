"""The commands, put together."""

from __future__ import annotations

import platform
from typing import Annotated

import typer

import taskloom
from taskloom.cli import demo, flows, init, status, tasks, worker

__all__ = ["app"]

app = typer.Typer(
    help="Taskloom: an asyncio task queue that starts on one SQLite file.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # its tracebacks show local variables, and so payloads
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"taskloom {taskloom.__version__} (Python {platform.python_version()})")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Taskloom: an asyncio task queue that starts on one SQLite file.

    Try it: taskloom demo
    """


app.command("demo")(demo.command)
app.command("init")(init.command)
app.command("worker")(worker.command)
app.command("status")(status.command)
app.add_typer(tasks.app, name="tasks")
app.add_typer(flows.app, name="flows")
