"""`taskloom demo`: from its options to its end."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from taskloom.cli.demo.places import Places
from taskloom.cli.demo.scan import default_folder
from taskloom.cli.errors import UserError
from taskloom.cli.stopping import Stops
from taskloom.cli.words import prints_to

__all__ = ["command"]


def command(
    folder: Annotated[
        Path | None,
        typer.Argument(
            help="What to index. Without it: Python's standard library.", show_default=False
        ),
    ] = None,
    database: Annotated[Path, typer.Option(metavar="FILE", help="Where tasks are kept.")] = Path(
        "taskloom-demo.db"
    ),
    workers: Annotated[int, typer.Option(min=1, max=64, help="Worker processes.")] = 2,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget what was done before.")] = False,
) -> None:
    """Index a folder as a flow: one step per file, in worker processes, then a report.

    Interrupt it with Ctrl-C and run it again: it goes on where it was.
    """
    # Not before it is called: it brings SQLAlchemy, which other commands' help can do without.
    from taskloom.cli.demo.run import Demo

    places = Places(database)
    if not database.absolute().parent.is_dir():
        raise UserError(
            f"{database.absolute().parent} does not exist.",
            "Create it, or name another file with --database.",
        )
    if folder is not None and not folder.is_dir():
        raise UserError(f"{folder} is not a folder.", "Name a folder, or none for the default.")
    stops = Stops(limit=3.0)
    samples = folder is None
    chosen = (folder or default_folder()).resolve()
    demo = Demo(chosen, places, workers, prints_to(), samples=samples)

    async def run() -> int:
        stops.attach()
        code = 1
        try:
            code = await demo.run(stops, fresh=fresh)
        finally:
            stops.over(code)
        return code

    raise typer.Exit(asyncio.run(run()))
