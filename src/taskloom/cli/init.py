"""`taskloom init`: make the tables and indexes of a database."""

from __future__ import annotations

import asyncio

from taskloom.cli.database import AppOption, UrlOption, file_of, pick, place_of
from taskloom.cli.errors import UserError
from taskloom.cli.words import print_line, prints_to

__all__ = ["command"]


def command(url: UrlOption = None, app: AppOption = None) -> None:
    """Create the database's tables and indexes. Safe to repeat; a worker does it by itself."""
    loom = pick(url, app)
    if not loom.handler.message_queue.features.durable:
        raise UserError(
            f"{place_of(loom)} is the memory of one process: there is nothing to create."
        )
    file = file_of(loom)
    new = file is not None and not file.exists()

    async def open_once() -> None:
        async with loom:
            pass

    asyncio.run(open_once())
    said = "created" if new else "ready"
    print_line(prints_to(), ("✓ ", "green"), f"{place_of(loom)} is {said}: tables and indexes.")
