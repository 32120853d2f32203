"""`taskloom init`: make the tables and indexes of a database."""

from __future__ import annotations

import asyncio

from taskloom.cli.database import AppOption, UrlOption, pick
from taskloom.cli.errors import UserError
from taskloom.cli.words import print_line, prints_to

__all__ = ["command"]


def command(url: UrlOption = None, app: AppOption = None) -> None:
    """Create the database's tables and indexes, or bring them up to date. Safe to repeat."""
    chosen = pick(url, app)
    if not chosen.loom.handler.message_queue.features.durable:
        raise UserError(f"{chosen.place} is the memory of one process: there is nothing to create.")
    new = chosen.file is not None and not chosen.file.exists()

    async def open_once() -> None:
        await chosen.loom.upgrade()
        async with chosen.loom:
            pass

    asyncio.run(open_once())
    said = "created: tables and indexes" if new else "ready"
    print_line(prints_to(), ("✓ ", "green"), f"{chosen.place} is {said}.")
