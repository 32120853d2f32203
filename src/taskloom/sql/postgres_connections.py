"""Connections to PostgreSQL: a pool, one transaction on each."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any, TypeVar

from sqlalchemy import URL, Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from taskloom.sql.postgres import make_engine
from taskloom.sql.postgres_faults import is_disconnect, must_run_again, opening, translated
from taskloom.sql.setup import create_tables
from taskloom.sql.wakeups import Wakeups

__all__ = ["PostgresConnections"]

T = TypeVar("T")

_ATTEMPTS = 8


class PostgresConnections:
    """A server's database. Transactions run beside each other, each on a connection of its own."""

    def __init__(self, source: AsyncEngine | URL, *, follow_clock: bool) -> None:
        url = source if isinstance(source, URL) else source.url
        self.place = url.render_as_string(hide_password=True)
        self.wakeups = Wakeups()
        self.ahead = timedelta(0)
        self._follow_clock = follow_clock
        self._is_ours = isinstance(source, URL)
        self._engine = make_engine(source) if isinstance(source, URL) else source
        self._snapshots = self._engine.execution_options(
            isolation_level="REPEATABLE READ", postgresql_readonly=True
        )
        self._under_way: set[asyncio.Task[Any]] = set()

    async def open(self) -> None:
        """Connect and create what is missing. `close` it also when this fails."""
        with opening(self.place):
            await self._repeated(create_tables)

    async def close(self) -> None:
        """Let go of everything, after what is under way."""
        self.wakeups.stop()
        while self._under_way:
            await asyncio.wait(self._under_way)
        if self._is_ours:
            await self._engine.dispose()

    async def write(self, work: Callable[[Connection], T]) -> T:
        """One transaction, in a task of its own: an answer is not thrown away half read."""
        return await self._to_its_end(self._write(work))

    async def read(self, work: Callable[[Connection], T]) -> T:
        """One transaction on a snapshot."""
        return await self._to_its_end(self._read(work))

    async def _to_its_end(self, work: Coroutine[Any, Any, T]) -> T:
        task = asyncio.ensure_future(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return await asyncio.shield(task)

    async def _write(self, work: Callable[[Connection], T]) -> T:
        with translated(self.place):
            return await self._repeated(work)

    async def _repeated(self, work: Callable[[Connection], T]) -> T:
        """`work`, again where it came to nothing for reasons that are gone the next time."""
        for attempt in range(_ATTEMPTS):
            async with self._engine.connect() as conn:
                try:
                    answer = await conn.run_sync(work)
                except DBAPIError as error:
                    if attempt == _ATTEMPTS - 1 or not _may_repeat(error, attempt):
                        raise
                else:
                    await conn.commit()
                    return answer
            await asyncio.sleep(random.uniform(0.0, 0.002 * 2**attempt))
        raise AssertionError("the last attempt returns or raises")

    async def _read(self, work: Callable[[Connection], T]) -> T:
        with translated(self.place):
            async with self._snapshots.connect() as conn:
                return await conn.run_sync(work)


def _may_repeat(error: DBAPIError, attempt: int) -> bool:
    """After a deadlock; and once after a connection that was found dead, before any commit."""
    return must_run_again(error) or (attempt == 0 and is_disconnect(error))
