"""SqlDatabase: where a plain function of a Connection is run."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from datetime import datetime
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from sqlalchemy import URL, Connection, Engine

from taskloom.clock import SYSTEM_CLOCK, Clock
from taskloom.errors import ConfigurationError, StorageUnavailableError
from taskloom.interfaces.opening import Opening
from taskloom.sql.dialect import refuse_foreign
from taskloom.sql.lane import Lane
from taskloom.sql.rows import micros
from taskloom.sql.setup import create_tables
from taskloom.sql.sqlite import (
    CheckpointDuty,
    WalMark,
    connect,
    file_of,
    make_engine,
    parse_url,
    refuse_bad_place,
)
from taskloom.sql.wakeups import Wakeups

__all__ = ["SqlDatabase", "database_of"]

P = ParamSpec("P")
T = TypeVar("T")

_CHECK_EVERY = 1.0
_WAL_LIMIT = 8 * 1024 * 1024
"""Bytes of log at which even a process that writes nothing checkpoints."""


class SqlDatabase(Opening):
    """One SQLite file (or database in memory), for all parts made on it.

    Writes go through one connection on a thread of its own, each a transaction of one hop; what
    people ask goes through a second one, so that a slow count does not hold up claims. In memory
    there is only one connection.

    `open` and `close` count their holders: the last one closes. It belongs to one event loop.
    """

    def __init__(
        self, source: Engine | URL, *, synchronous: str = "normal", clock: Clock = SYSTEM_CLOCK
    ) -> None:
        url = source if isinstance(source, URL) else source.url
        refuse_foreign(url.get_backend_name())
        self.clock = clock
        self.place = url.render_as_string(hide_password=True)
        self._url = url
        self._engine = source if isinstance(source, Engine) else None
        self.wakeups = Wakeups(self._mark)
        self._synchronous = synchronous
        self._holders: set[int] = set()
        self._opening = asyncio.Lock()
        self._writer: Lane | None = None
        self._reader: Lane | None = None
        self._duty: CheckpointDuty | None = None
        self._wal: WalMark | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._aside: set[asyncio.Task[Any]] = set()

    @classmethod
    def from_url(cls, url: str, *, clock: Clock = SYSTEM_CLOCK) -> Self:
        """A database by its URL: `sqlite:///file`, `sqlite://` in memory, `?synchronous=full`."""
        source, synchronous = parse_url(url)
        return cls(source, synchronous=synchronous, clock=clock)

    def __repr__(self) -> str:
        return f"SqlDatabase({self.place!r})"

    def now(self) -> datetime:
        """The time that leases and due times are compared with."""
        return self.clock.now()

    def now_micros(self) -> int:
        """`now` as it stands in the tables."""
        return micros(self.clock.now())

    # Opening and closing

    async def open(self, holder: object = None) -> None:
        """Connect and create what is missing, for `holder`. Safe to repeat.

        Raises `ConfigurationError` for a place or a file that cannot work.
        """
        async with self._opening:
            if self._writer is None:
                try:
                    await self._connect()
                except BaseException:
                    await self._disconnect()
                    raise
            self._holders.add(id(holder))

    async def close(self, holder: object = None) -> None:
        """Let go, once every holder has. Safe to repeat."""
        async with self._opening:
            self._holders.discard(id(holder))
            if not self._holders and self._writer is not None:
                while self._aside:
                    await asyncio.wait(self._aside)
                await self._disconnect()

    async def _connect(self) -> None:
        engine, file = await asyncio.to_thread(self._locate)
        duty = None if file is None else CheckpointDuty(file)
        self._writer = Lane(
            self.place,
            lambda: connect(engine, self._synchronous, reading=False),
            begin="BEGIN IMMEDIATE",
            prepare=None if duty is None else duty.take_over,
        )
        await self._writer.open(create_tables)
        self._reader = self._writer
        if file is not None:
            self._duty = duty
            self._wal = await asyncio.to_thread(WalMark, file)
            self._reader = Lane(
                self.place,
                lambda: connect(engine, self._synchronous, reading=True),
                begin="BEGIN",
            )
            await self._reader.open(lambda conn: None)
            self._timer = asyncio.get_running_loop().call_later(_CHECK_EVERY, self._check_wal)

    def _locate(self) -> tuple[Engine, Path | None]:
        file = file_of(self._url)
        refuse_bad_place(file)
        return self._engine or make_engine(self._url), file

    async def _disconnect(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self.wakeups.stop()
        if self._reader is not None and self._reader is not self._writer:
            await self._reader.close()
        if self._writer is not None:
            await self._writer.close()
        if self._wal is not None:
            self._wal.close()
        if self._duty is not None:
            await asyncio.to_thread(self._duty.give_up)
        self._reader = self._writer = self._wal = self._duty = self._timer = None

    # Running

    async def write(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """`work(conn, ...)` as one transaction that writes, all of it or nothing.

        Raises `StorageUnavailableError` when a lock, the disk or a file is in the way. Cancelled
        while it runs, it may still be committed.
        """
        return await self._lane(self._writer).run(lambda conn: work(conn, *args, **kwargs))

    async def read(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """`work(conn, ...)` over one consistent view, beside the writes."""
        return await self._lane(self._reader).run(lambda conn: work(conn, *args, **kwargs))

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run `work` to its end whatever becomes of the caller; `close` waits for it."""
        task = asyncio.ensure_future(work)
        self._aside.add(task)
        task.add_done_callback(self._aside.discard)
        return task

    def _lane(self, lane: Lane | None) -> Lane:
        if lane is None:
            raise ConfigurationError(
                f"{self.place} is not open: use `async with`, or `await ....open()` first"
            )
        return lane

    def _mark(self) -> object:
        return None if self._wal is None else self._wal()

    def _check_wal(self) -> None:
        """Checkpoint also where this process, which has the duty, writes nothing itself."""
        if self._wal is None or self._duty is None or self._writer is None:
            return
        self._timer = asyncio.get_running_loop().call_later(_CHECK_EVERY, self._check_wal)
        if self._wal.size > _WAL_LIMIT:
            self.spawn(self._checkpoint(self._writer, self._duty))

    async def _checkpoint(self, writer: Lane, duty: CheckpointDuty) -> None:
        with contextlib.suppress(StorageUnavailableError):  # next second again
            await writer.call(duty.checkpoint)


def database_of(source: Engine | SqlDatabase) -> SqlDatabase:
    """The database that a part is made on. Parts that are to share one are given the same."""
    if isinstance(source, SqlDatabase):
        return source
    if isinstance(source, Engine):
        return SqlDatabase(source)
    dialect = getattr(getattr(source, "dialect", None), "name", None)
    if dialect is not None:
        raise ConfigurationError(
            f"{dialect} through an AsyncEngine: this version of Taskloom speaks to SQLite only, "
            "and takes its synchronous Engine: sqlalchemy.create_engine('sqlite:///taskloom.db')"
        )
    raise TypeError(f"an Engine of SQLAlchemy or a SqlDatabase, not {type(source).__name__}")
