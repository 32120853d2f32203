"""Connections to SQLite: one that writes, one that reads, each on a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

from sqlalchemy import URL, Connection, Engine

from taskloom.errors import StorageUnavailableError
from taskloom.sql.lane import Lane
from taskloom.sql.sqlite import (
    CheckpointDuty,
    WalMark,
    connect,
    file_of,
    make_engine,
    refuse_bad_place,
)
from taskloom.wakeups import Wakeups

__all__ = ["SqliteConnections"]

T = TypeVar("T")

_CHECK_EVERY = 1.0
_WAL_LIMIT = 8 * 1024 * 1024
"""Bytes of log at which even a process that writes nothing checkpoints."""


class SqliteConnections:
    """One file, or a database in memory, for which one connection does both.

    Each write is a transaction of one hop; what people ask goes through the second connection, so
    that a slow count does not hold up claims.
    """

    ahead = timedelta(0)

    def __init__(self, source: Engine | URL, synchronous: str) -> None:
        url = source if isinstance(source, URL) else source.url
        self.place = url.render_as_string(hide_password=True)
        self.wakeups = Wakeups(self._mark)
        self._url = url
        self._engine = source if isinstance(source, Engine) else None
        self._synchronous = synchronous
        self._writer: Lane | None = None
        self._reader: Lane | None = None
        self._duty: CheckpointDuty | None = None
        self._wal: WalMark | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._checkpoint: asyncio.Task[None] | None = None

    async def open(self, prepare: Callable[[Connection], None]) -> None:
        """Connect, and `prepare` the tables first. `close` it also when this fails."""
        engine, file = await asyncio.to_thread(self._locate)
        duty = None if file is None else CheckpointDuty(file)
        self._writer = Lane(
            self.place,
            lambda: connect(engine, self._synchronous, reading=False),
            begin="BEGIN IMMEDIATE",
            prepare=None if duty is None else duty.take_over,
        )
        await self._writer.open(prepare)
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

    async def close(self) -> None:
        """Let go of everything, after what is under way."""
        if self._timer is not None:
            self._timer.cancel()
        self.wakeups.stop()
        if self._checkpoint is not None:
            await self._checkpoint
        if self._reader is not None and self._reader is not self._writer:
            await self._reader.close()
        if self._writer is not None:
            await self._writer.close()
        if self._wal is not None:
            self._wal.close()
        if self._duty is not None:
            await asyncio.to_thread(self._duty.give_up)
        self._reader = self._writer = self._wal = self._duty = self._timer = None

    async def write(self, work: Callable[[Connection], T]) -> T:
        """One transaction that holds the file's write lock."""
        assert self._writer is not None
        return await self._writer.run(work)

    async def read(self, work: Callable[[Connection], T]) -> T:
        """One transaction on a snapshot."""
        assert self._reader is not None
        return await self._reader.run(work)

    write_at_once, read_at_once = write, read

    def _mark(self) -> object:
        return None if self._wal is None else self._wal()

    def _check_wal(self) -> None:
        """Checkpoint also where this process, which has the duty, writes nothing itself."""
        if self._wal is None or self._duty is None or self._writer is None:
            return
        self._timer = asyncio.get_running_loop().call_later(_CHECK_EVERY, self._check_wal)
        if self._wal.size > _WAL_LIMIT:
            self._checkpoint = asyncio.ensure_future(self._shorten(self._writer, self._duty))

    async def _shorten(self, writer: Lane, duty: CheckpointDuty) -> None:
        with contextlib.suppress(StorageUnavailableError):  # next second again
            await writer.call(duty.checkpoint)
