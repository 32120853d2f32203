"""Waiting for one thing while another may happen: the few shapes that stopping needs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine, Iterable, Sequence
from typing import Any

__all__ = ["to_the_end", "until", "within"]


async def until(events: Iterable[asyncio.Event], tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Wait for one of `events`; raise what one of the endless `tasks` raised, should one end."""
    stopping = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait([*stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task.done():
                task.result()
    finally:
        for waiting in stopping:
            waiting.cancel()


async def to_the_end(work: Coroutine[Any, Any, Any], hurry: asyncio.Event) -> None:
    """Finish `work` although cancelled meanwhile, which sets `hurry` and is raised at the end."""
    task = asyncio.create_task(work)
    cancelled = False
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            cancelled = True
            hurry.set()
    task.result()
    if cancelled:
        raise asyncio.CancelledError


async def within(work: Awaitable[Any], limit: float) -> bool:
    """Whether `work` was done within `limit` seconds; otherwise it is cancelled."""
    try:
        async with asyncio.timeout(limit):
            await work
    except TimeoutError:
        return False
    return True
