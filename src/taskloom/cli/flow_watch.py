"""Looking at a flow again and again until it is over."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from rich.console import Console
from rich.live import Live

from taskloom.cli.flow_page import flow_page
from taskloom.cli.flow_picture import FlowPicture, FlowReader
from taskloom.cli.flow_steps import FEW

__all__ = ["follow", "watch_live"]

_INTERVAL = 0.5
"""Seconds between two looks; more where looking takes long, so that most of the time is left."""
_SHARE = 4
_AROUND = 24
"""Lines of a page that are not about single steps."""


async def follow(
    reader: FlowReader, picture: FlowPicture, show: Callable[[FlowPicture], None] | None = None
) -> FlowPicture:
    """Look until the flow is over, or forgotten, and `show` each picture; the last one."""
    pause = _INTERVAL
    while True:
        if show is not None:
            show(picture)
        if picture.over:
            return picture
        await asyncio.sleep(pause)
        started = time.monotonic()
        next_ = await reader.look()
        pause = max(_INTERVAL, _SHARE * (time.monotonic() - started))
        if next_ is None:
            return picture
        picture = next_


async def watch_live(
    reader: FlowReader, picture: FlowPicture, console: Console, *, every: bool
) -> None:
    """Redraw the page in place; what was drawn last stays, also when this is cancelled."""
    with Live(console=console, auto_refresh=False) as live:

        def show(picture: FlowPicture) -> None:
            room = FEW if picture.over else min(FEW, max(3, console.height - _AROUND))
            page = flow_page(picture, console.width, rows=room, every=every)
            live.update(page, refresh=True)

        await follow(reader, picture, show)
