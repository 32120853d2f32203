"""Connections to PostgreSQL: a pool, one transaction on each."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from asyncpg.exceptions import PostgresConnectionError
from sqlalchemy import URL, Connection, func, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from taskloom.errors import StorageUnavailableError
from taskloom.sql.direct import PLANS_LAST, Direct, NothingDoneError
from taskloom.sql.listening import Listener
from taskloom.sql.postgres import is_shared, make_engine
from taskloom.sql.postgres_faults import is_disconnect, must_run_again, opening, translated
from taskloom.sql.reconnecting import Gate
from taskloom.wakeups import Wakeups

__all__ = ["PostgresConnections"]

logger = logging.getLogger("taskloom.sql")

T = TypeVar("T")

_ATTEMPTS = 8
_COMPARE_EVERY = 60.0
_LOOK_AT_CLOCK_EVERY = 1.0
_SAME_TIME = timedelta(milliseconds=20)
"""Clocks that are no further apart are one: what is due here is due there."""
_SERVER_TIME = select(func.clock_timestamp())


class PostgresConnections:
    """A server's database. Transactions run beside each other, each on a connection of its own."""

    def __init__(self, source: AsyncEngine | URL, *, follow_clock: bool) -> None:
        url = source if isinstance(source, URL) else source.url
        self.place = url.render_as_string(hide_password=True)
        self.ahead = timedelta(0)
        self._follow_clock = follow_clock
        self._is_ours = isinstance(source, URL)
        self._engine = make_engine(source) if isinstance(source, URL) else source
        self._snapshots = self._engine.execution_options(
            isolation_level="REPEATABLE READ", postgresql_readonly=True
        )
        self._under_way: set[asyncio.Task[Any]] = set()
        self._clock_watch: asyncio.Task[None] | None = None
        self._offset = _offset()
        self._gate = Gate(self._ask)
        hear = None if is_shared(url) else self._hear
        # Behind a pooler a statement, which is two messages, needs a transaction to stay together.
        self._direct = None if is_shared(url) else Direct(lambda: self._connected(self._engine))
        self._listener = Listener(lambda: self._connected(self._engine), self.place, hear)
        self.wakeups = Wakeups(tell=self._listener.tell)

    async def open(self, prepare: Callable[[Connection], None]) -> None:
        """Connect, and `prepare` the tables first. `close` it also when this fails."""
        with opening(self.place):
            await self._repeated(self._engine, prepare)
            if self._follow_clock:
                await self._compare_clocks()
                self._clock_watch = asyncio.create_task(self._watch_clock())
        self._listener.start()

    async def close(self) -> None:
        """Let go of everything, after what is under way."""
        self.wakeups.stop()
        if self._clock_watch is not None:
            self._clock_watch.cancel()
            self._clock_watch = None
        while self._under_way:
            await asyncio.wait(self._under_way)
        await self._listener.stop()
        if self._direct is not None:
            await self._direct.close()
        await self._gate.stop()
        if self._is_ours:
            await self._engine.dispose()

    async def write(self, work: Callable[[Connection], T]) -> T:
        """One transaction, in a task of its own: an answer is not thrown away half read."""
        return await self._to_its_end(self._transact(self._engine, work))

    async def write_at_once(self, work: Callable[[Connection], T]) -> T:
        """One statement, without BEGIN and COMMIT around it."""
        return await self._to_its_end(self._run_at_once(work))

    async def read(self, work: Callable[[Connection], T]) -> T:
        """One transaction on a snapshot."""
        return await self._to_its_end(self._transact(self._snapshots, work))

    read_at_once = write_at_once

    async def _to_its_end(self, work: Coroutine[Any, Any, T]) -> T:
        task = asyncio.ensure_future(work)
        self._under_way.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._under_way.discard(task)
        if not task.cancelled():
            task.exception()  # seen, though whoever asked may have given up by now

    async def _transact(self, engine: AsyncEngine, work: Callable[[Connection], T]) -> T:
        with translated(self.place):
            return await self._repeated(engine, work)

    async def _run_at_once(self, work: Callable[[Connection], T]) -> T:
        with translated(self.place):
            if self._direct is not None and not self._direct.busy:
                try:
                    return await self._direct.run(work)
                except NothingDoneError:
                    pass  # the usual way it works, or says in the usual way why not
                except PostgresConnectionError:
                    self._gate.shut()
                    raise
            return await self._repeated(self._engine, work)

    async def _repeated(self, engine: AsyncEngine, work: Callable[[Connection], T]) -> T:
        """`work`, again where it came to nothing for reasons that are gone the next time."""
        for attempt in range(_ATTEMPTS):
            async with self._connected(engine) as conn:
                try:
                    answer = await conn.run_sync(work)
                except DBAPIError as error:
                    if attempt == _ATTEMPTS - 1 or not _may_repeat(error, attempt):
                        raise
                    logger.debug("%s: a transaction is run again: %s", self.place, error.orig)
                else:
                    await conn.commit()
                    return answer
            await asyncio.sleep(random.uniform(0.0, 0.002 * 2**attempt))
        raise AssertionError("the last attempt returns or raises")

    @contextlib.asynccontextmanager
    async def _connected(self, engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
        """A connection; to a server that is away one caller at a time tries to make one."""
        await self._gate.passed()
        async with contextlib.AsyncExitStack() as held:
            try:
                conn = await held.enter_async_context(engine.connect())
            except PoolTimeoutError:
                raise  # all connections are in use, which says nothing about the server
            except Exception:
                self._gate.shut()
                raise
            try:
                await _plan_anew(conn)
                yield conn
            except DBAPIError as error:
                if is_disconnect(error):
                    self._gate.shut()
                raise

    async def _ask(self) -> None:
        async with self._engine.connect() as conn:
            await conn.execute(select(1))

    def _hear(self, queue_id: str) -> None:
        self.wakeups.hear(queue_id)

    async def _watch_clock(self) -> None:
        """Compare once a minute, and soon after a clock was set here."""
        compared = time.monotonic()
        while True:
            await asyncio.sleep(_LOOK_AT_CLOCK_EVERY)
            was_set = abs(_offset() - self._offset) > _SAME_TIME.total_seconds()
            if was_set or time.monotonic() - compared >= _COMPARE_EVERY:
                compared = time.monotonic()
                with contextlib.suppress(StorageUnavailableError):  # the next time again
                    await self._to_its_end(self._compare_clocks())

    async def _compare_clocks(self) -> None:
        with translated(self.place):
            async with self._connected(self._snapshots) as conn:
                await conn.execute(_SERVER_TIME)  # by now it is connected, and knows the statement
                before = datetime.now(UTC)
                server: datetime = (await conn.execute(_SERVER_TIME)).scalar_one()
                after = datetime.now(UTC)
        self._offset = _offset()
        ahead = server - (before + (after - before) / 2)
        self.ahead = ahead if abs(ahead) > _SAME_TIME + (after - before) else timedelta(0)


def _offset() -> float:
    """Changes when the machine's clock is set."""
    return time.time() - time.monotonic()


async def _plan_anew(conn: AsyncConnection) -> None:
    planned = conn.info.setdefault("taskloom_planned", time.monotonic())
    if time.monotonic() - planned >= PLANS_LAST:
        conn.info["taskloom_planned"] = time.monotonic()
        await conn.exec_driver_sql("DISCARD PLANS")


def _may_repeat(error: DBAPIError, attempt: int) -> bool:
    """After a deadlock; and once after a connection that was found dead, before any commit."""
    return must_run_again(error) or (attempt == 0 and is_disconnect(error))
