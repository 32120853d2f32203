"""Word between processes that something is due: LISTEN and NOTIFY, on a connection of their own.

A hint and no more. It is lost when its sender dies, while the connection is, and behind a pgbouncer
that hands connections on after each transaction; whoever waits looks by itself once a second.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

__all__ = ["Listener"]

logger = logging.getLogger("taskloom.sql")

_CHANNEL = "taskloom"
_ANY = ""
_LONGEST = 1_000
"""Characters of a queue's name that fit into a message of 8,000 bytes whatever they are."""
_PAUSE = 0.02
"""Seconds between two messages: a busy process sends fifty a second, not one for each commit.

In PostgreSQL, commits that notify queue up behind one lock of the whole server (seen in 18); ours
do not, for word is sent beside them.
"""
_BACK_OFF = (0.1, 0.5, 2.0, 10.0)
"""Seconds before connecting again, attempt by attempt; the last one from there on."""


class Listener:
    """Tells other processes, and calls `hear` with what they tell: a queue, or None for any."""

    def __init__(self, engine: AsyncEngine, place: str, hear: Callable[[str | None], None]) -> None:
        self._engine = engine
        self._place = place
        self._hear = hear
        self._untold: set[str] = set()
        self._news = asyncio.Event()
        self._listening = asyncio.Event()
        self._work: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Connect and listen, from now on and again after each loss."""
        self._work = asyncio.create_task(self._keep_listening(), name="taskloom-listener")

    async def stop(self) -> None:
        """Hang up. Safe to repeat."""
        if self._work is not None:
            self._work.cancel()
            await asyncio.wait([self._work])
            self._work = None

    async def listening(self) -> None:
        """Return once other processes are heard."""
        await self._listening.wait()

    def tell(self, queue_ids: Iterable[str]) -> None:
        """Pass on, soon, that something may be due in these queues. Never waits, never fails."""
        self._untold.update(id if len(id) <= _LONGEST else _ANY for id in queue_ids)
        if self._untold:
            self._news.set()

    async def _keep_listening(self) -> None:
        failures = 0
        while True:
            try:
                async with self._engine.connect() as conn:
                    await self._converse(conn)
            except Exception as error:
                # Whatever it is: nobody depends on word from here, and the next attempt may do.
                logger.log(
                    logging.DEBUG if failures else logging.WARNING,
                    "%s: other processes are not heard (%s); looking once a second instead",
                    self._place,
                    error,
                )
            failures = 1 if self._listening.is_set() else failures + 1
            self._listening.clear()
            await asyncio.sleep(_BACK_OFF[min(failures, len(_BACK_OFF)) - 1])

    async def _converse(self, conn: AsyncConnection) -> None:
        """Listen and tell until the connection is lost."""
        await conn.run_sync(lambda held: held.detach())  # never another one's
        driver = (await conn.get_raw_connection()).driver_connection
        assert driver is not None
        lost = asyncio.Event()
        driver.add_termination_listener(lambda _: lost.set())
        await driver.add_listener(_CHANNEL, self._on_message)
        self._listening.set()
        self._hear(None)  # what was said before nobody has heard
        ended = asyncio.ensure_future(lost.wait())
        try:
            while not ended.done():
                await self._tell_once(driver, ended)
        finally:
            ended.cancel()

    async def _tell_once(self, driver: Any, ended: asyncio.Future[Any]) -> None:
        news = asyncio.ensure_future(self._news.wait())
        try:
            await asyncio.wait([news, ended], return_when=asyncio.FIRST_COMPLETED)
        finally:
            news.cancel()
        if self._untold and not ended.done():
            queue_ids, self._untold = list(self._untold), set()
            self._news.clear()
            query = "SELECT pg_notify($1, each) FROM unnest($2::text[]) each"
            await driver.execute(query, _CHANNEL, queue_ids)
            await asyncio.sleep(_PAUSE)

    def _on_message(self, driver: Any, sender: int, channel: str, queue_id: str) -> None:
        if sender != driver.get_server_pid():  # ours have been woken already
            self._hear(queue_id or None)
