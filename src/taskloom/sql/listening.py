"""Word between processes that something is due: LISTEN and NOTIFY, on a connection of their own.

A hint and no more. It is lost when its sender dies, while the connection is, and behind a pgbouncer
that hands connections on after each transaction; whoever waits looks by itself once a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from typing import Any

from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection

from taskloom.wakeups import ANY

__all__ = ["Connect", "Listener", "tell_on_commit"]

logger = logging.getLogger("taskloom.sql")

Connect = Callable[[], AbstractAsyncContextManager[AsyncConnection]]

_CHANNEL = "taskloom"
_LONGEST = 1_000
"""Characters of a queue's name that fit into a message of 8,000 bytes whatever they are."""
_PAUSE = 0.02
"""Seconds between two messages: a busy process sends fifty a second, not one for each commit.

In PostgreSQL, commits that notify queue up behind one lock of the whole server (seen in 18); ours
do not, for word is sent beside them.
"""
_BACK_OFF = (0.1, 0.5, 2.0, 5.0)
"""Seconds before connecting again, attempt by attempt; the last one from there on."""
_SILENCE = 30.0
"""Seconds without a word of ours after which we ask: a dead link is silent, too."""
_LAST_WORD = 2.0
"""Seconds that closing may take to tell what is untold."""


class Listener:
    """Tells other processes, and calls `hear` with what they tell: a queue's id, or `ANY`.

    `hear` None: nobody can listen on these connections, which are told through all the same.
    """

    def __init__(self, connect: Connect, place: str, hear: Callable[[str], None] | None) -> None:
        self._connect = connect
        self._place = place
        self._hear = hear
        self._untold: set[str] = set()
        self._news = asyncio.Event()
        self._listening = asyncio.Event()
        self._work: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Connect and listen, from now on and again after each loss."""
        self._work = asyncio.create_task(self._keep_on(), name="taskloom-listener")

    async def stop(self) -> None:
        """Tell what is untold, if that is quickly done, and hang up. Safe to repeat."""
        if self._work is None:
            return
        self._work.cancel()
        await asyncio.wait([self._work])
        self._work = None
        with contextlib.suppress(Exception):  # a hint that is lost costs a second
            async with asyncio.timeout(_LAST_WORD):
                await self._tell_in_passing()

    async def listening(self) -> None:
        """Return once other processes are heard."""
        await self._listening.wait()

    def tell(self, queue_ids: Iterable[str]) -> None:
        """Pass on, soon, that something may be due in these queues. Never waits, never fails."""
        self._untold.update(_messages(queue_ids))
        if self._untold:
            self._news.set()

    async def _keep_on(self) -> None:
        failures = 0
        while True:
            try:
                if self._hear is None:
                    await self._keep_telling()
                else:
                    await self._keep_listening(self._hear)
            except Exception as error:
                # Whatever it is: nobody depends on word from here, and the next attempt may do.
                self._complain(error, logging.DEBUG if failures else logging.WARNING)
            failures = 1 if self._listening.is_set() else failures + 1
            self._listening.clear()
            pause = _BACK_OFF[min(failures, len(_BACK_OFF)) - 1]
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))

    def _complain(self, error: Exception, level: int) -> None:
        logger.log(
            level,
            "%s: no word from or to other processes (%s); they look once a second instead",
            self._place,
            str(error) or type(error).__name__,
        )

    async def _keep_telling(self) -> None:
        while True:
            await self._news.wait()
            await self._tell_in_passing()
            await asyncio.sleep(_PAUSE)

    async def _tell_in_passing(self) -> None:
        """Tell on a connection that others use, too, and in a transaction."""
        if queue_ids := self._take_untold():
            async with self._connect() as conn:
                await conn.execute(text(_notify(":channel", ":ids")), _said(queue_ids))
                await conn.commit()

    async def _keep_listening(self, hear: Callable[[str], None]) -> None:
        """Listen and tell until the connection is lost."""
        async with self._connect() as conn:
            driver = (await conn.get_raw_connection()).driver_connection
            assert driver is not None
            await conn.run_sync(lambda held: held.detach())  # never another one's
            lost = asyncio.Event()

            def on_end(_: Any) -> None:
                lost.set()
                self._news.set()

            driver.add_termination_listener(on_end)

            def on_message(_: Any, sender: int, channel: str, queue_id: str) -> None:
                if sender != driver.get_server_pid():  # ours have been woken already
                    hear(queue_id)

            await driver.add_listener(_CHANNEL, on_message)
            self._listening.set()
            hear(ANY)  # what was said before nobody has heard
            await self._tell_until(driver, lost)

    async def _tell_until(self, driver: Any, lost: asyncio.Event) -> None:
        while not lost.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_SILENCE):
                    await self._news.wait()  # which the loss ends, too
            if not lost.is_set():
                # With nothing to tell it asks whether anyone is there.
                said = _said(self._take_untold())
                await driver.execute(_notify("$1", "$2"), *said.values(), timeout=_SILENCE)
                await asyncio.sleep(_PAUSE)

    def _take_untold(self) -> list[str]:
        queue_ids, self._untold = list(self._untold), set()
        self._news.clear()
        return queue_ids


def tell_on_commit(conn: Connection, queue_ids: Iterable[str]) -> None:
    """Tell with the commit of this transaction, or not at all. This process hears it, too."""
    conn.execute(text(_notify(":channel", ":ids")), _said(_messages(queue_ids)))


def _messages(queue_ids: Iterable[str]) -> list[str]:
    return list({id if len(id) <= _LONGEST else ANY for id in queue_ids})


def _notify(channel: str, queue_ids: str) -> str:
    return f"SELECT pg_notify({channel}, each) FROM unnest(CAST({queue_ids} AS text[])) each"


def _said(queue_ids: list[str]) -> dict[str, Any]:
    return {"channel": _CHANNEL, "ids": queue_ids}
