"""Which database a command looks at, and opening it without making one by mistake."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, NamedTuple
from urllib.parse import quote

import typer

from taskloom.app import Loom
from taskloom.cli.errors import UserError
from taskloom.cli.target import load_loom
from taskloom.cli.words import program
from taskloom.interfaces import TaskArchive

__all__ = [
    "AppOption",
    "Chosen",
    "Desk",
    "JsonOption",
    "UrlOption",
    "opened",
    "pick",
    "place_of",
]

DEFAULT_URL = "sqlite:///taskloom.db"

UrlOption = Annotated[
    str | None,
    typer.Option(
        "--url",
        metavar="URL",
        help=f"The database. Without it: $TASKLOOM_URL, else {DEFAULT_URL}.",
        show_default=False,
    ),
]
AppOption = Annotated[
    str | None,
    typer.Option(
        "--app", metavar="MODULE:LOOM", help="The database of this Loom.", show_default=False
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="For scripts: JSON.")]


class Chosen(NamedTuple):
    """A database that is not open yet."""

    loom: Loom
    place: str
    """Its name in words, without a password."""
    file: Path | None
    """The file it is in; None where it is in none, or where nobody says which."""


class Desk(NamedTuple):
    """An open database: what changes tasks, and what answers questions."""

    loom: Loom
    archive: TaskArchive
    place: str


def pick(url: str | None, app: str | None) -> Chosen:
    """What the options name, else the environment, else the default."""
    if url is not None and app is not None:
        raise typer.BadParameter("give --url or --app, not both")
    if app is not None:
        loom = load_loom(app)
        return Chosen(loom, place_of(loom), _file_of(place_of(loom)))
    url = url or os.environ.get("TASKLOOM_URL") or DEFAULT_URL
    loom = Loom(url)
    return Chosen(loom, place_of(loom), _file_of(url))


@asynccontextmanager
async def opened(url: str | None, app: str | None) -> AsyncIterator[Desk]:
    """Open a database that is there already.

    Raises `UserError` when there is none, or none that another process could see.
    """
    chosen = pick(url, app)
    _refuse_missing(chosen)
    archive = chosen.loom.handler.storage
    if not isinstance(archive, TaskArchive):
        raise UserError(f"{chosen.place} keeps no tasks that could be looked at.")
    async with chosen.loom:
        yield Desk(chosen.loom, archive, chosen.place)


def place_of(loom: Loom) -> str:
    """The database in words, without its password."""
    return repr(loom).removeprefix("Loom(").removesuffix(")").strip("'")


def _file_of(url: str) -> Path | None:
    scheme, _, rest = url.partition(":///")
    path = rest.partition("?")[0]
    # What was redacted, or is a URI of SQLite's own, is no path.
    if scheme.lower() != "sqlite" or not path or path.startswith((":memory:", "file:")):
        return None
    return Path(path).absolute()


def _refuse_missing(chosen: Chosen) -> None:
    if not chosen.loom.handler.message_queue.features.durable:
        raise UserError(
            f"{chosen.place} is the memory of one process: there is nothing to see from outside.",
            f"Name a database, for example --url {DEFAULT_URL}",
        )
    file = chosen.file
    elsewhere = "Name another one with --url (or TASKLOOM_URL), or create it with: "
    if file is not None and not file.exists():
        raise UserError(f"{file} does not exist.", f"{elsewhere}{program()} init")
    if file is not None and not _has_tables(file):
        raise UserError(f"{file} holds no tasks of Taskloom.", f"{elsewhere}{program()} init")


def _has_tables(file: Path) -> bool:
    """False for a SQLite file without our tables; what else is wrong shows when it is opened."""
    with contextlib.suppress(sqlite3.Error), contextlib.closing(_read_only(file)) as conn:
        query = "SELECT count(*) FROM sqlite_master WHERE name = 'taskloom_meta'"
        return bool(conn.execute(query).fetchone()[0])
    return True


def _read_only(file: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{quote(str(file))}?mode=ro", uri=True, timeout=5.0)
