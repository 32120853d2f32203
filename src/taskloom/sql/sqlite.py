"""What SQLite needs: connections set up, one checkpointer per file, paths that can work."""

from __future__ import annotations

import os
import random
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout
from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.engine import URL
from sqlalchemy.pool import NullPool

from taskloom.errors import ConfigurationError
from taskloom.sql.faults import is_busy

__all__ = [
    "BUSY_TIMEOUT",
    "CheckpointDuty",
    "WalMark",
    "connect",
    "file_of",
    "make_engine",
    "parse_place",
    "raw",
    "refuse_bad_place",
    "until_free",
]

BUSY_TIMEOUT = 5.0
"""Seconds to wait for another process's write before it is an error."""

_OLDEST = (3, 38, 0)
_PAGES_BETWEEN_CHECKPOINTS = 1_000

T = TypeVar("T")


def parse_place(url: URL, synchronous: str = "normal") -> tuple[URL, str]:
    """The URL for SQLAlchemy, and how far a commit goes: "normal" or "full" (`?synchronous=full`).

    normal: a commit survives the process, and a power cut loses at most the last ones; full: it
    survives a power cut too. Raises `ConfigurationError`; touches no file.
    """
    if url.get_driver_name() not in ("pysqlite", ""):
        raise ConfigurationError(f"{url.drivername}: use sqlite:// without a driver")
    level = url.query.get("synchronous", synchronous)
    if level not in ("normal", "full"):
        raise ConfigurationError(f"synchronous must be normal or full, not {level!r}")
    return url.difference_update_query(["synchronous"]), str(level)


def make_engine(url: URL) -> Engine:
    """An engine that keeps no connections of its own. Blocks: it asks for the current directory."""
    return create_engine(url, poolclass=NullPool, connect_args={"timeout": BUSY_TIMEOUT})


def file_of(url: URL) -> Path | None:
    """The database's file, links followed as SQLite does; None in memory. Blocks."""
    name = url.database
    if not name or ":memory:" in name or "mode=memory" in str(url):
        return None
    return Path(name.removeprefix("file:")).resolve()


def refuse_bad_place(file: Path | None) -> None:
    """Raise `ConfigurationError` for an SQLite or a path that cannot work."""
    if sqlite3.sqlite_version_info < _OLDEST:
        raise ConfigurationError(
            f"SQLite {sqlite3.sqlite_version} is too old: Taskloom needs 3.38 or later. "
            "Use a newer Python, or one linked against a newer SQLite"
        )
    if file is None:
        return
    if not file.parent.is_dir():
        raise ConfigurationError(f"{file}: its directory does not exist; create {file.parent}")
    if file.is_dir():
        raise ConfigurationError(f"{file} is a directory; name a file inside it")


def until_free(attempt: Callable[[], T]) -> T:
    """Repeat `attempt` while someone else holds the lock, for `BUSY_TIMEOUT` seconds at most.

    In place of SQLite's own waiting, whose naps grow to 100 ms and let a busy neighbour win again
    and again.
    """
    end = time.monotonic() + BUSY_TIMEOUT
    while True:
        try:
            return attempt()
        except Exception as error:
            if not is_busy(error) or time.monotonic() > end:
                raise
        time.sleep(random.uniform(0.0005, 0.004))


def connect(engine: Engine, synchronous: str, *, reading: bool) -> Connection:
    """A connection of our own, taken out of the engine's pool and closed by us.

    It is in the driver's autocommit mode: we say BEGIN ourselves, because the driver would begin
    late, and never IMMEDIATE.
    """
    conn = engine.connect()
    try:
        conn.detach()
        driver = raw(conn)
        driver.isolation_level = None
        driver.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT * 1000:.0f}")
        [(mode,)] = until_free(lambda: driver.execute("PRAGMA journal_mode = WAL").fetchall())
        if mode not in ("wal", "memory"):
            raise ConfigurationError(
                f"{engine.url.database}: SQLite cannot keep a write-ahead log there "
                f"(it stays in mode {mode}). Use a file on a local disk"
            )
        driver.execute(f"PRAGMA synchronous = {synchronous}")
        driver.execute("PRAGMA cache_size = -32000")
        driver.execute("PRAGMA temp_store = MEMORY")
        driver.execute("PRAGMA wal_autocheckpoint = 0")
        if reading:
            driver.execute("PRAGMA query_only = 1")
        else:
            driver.execute("PRAGMA busy_timeout = 0")  # `until_free` waits
    except BaseException:
        conn.close()
        raise
    return conn


def raw(conn: Connection) -> sqlite3.Connection:
    """The driver's own connection."""
    driver = conn.connection.dbapi_connection
    assert isinstance(driver, sqlite3.Connection)
    return driver


class CheckpointDuty:
    """The right to checkpoint a file: one connection of all processes has it.

    SQLite 3.7.0 to 3.51.2 can corrupt a file when several connections write and checkpoint at once
    (the WAL-reset fault, sqlite.org/wal.html). The lock goes with the process that holds it.
    """

    def __init__(self, file: Path) -> None:
        self._lock = FileLock(f"{file}-checkpoint", thread_local=False)
        self._next_try = 0.0

    def take_over(self, driver: sqlite3.Connection) -> None:
        """Become the checkpointer if nobody is; asks at most once a second, and never waits."""
        now = time.monotonic()
        if self._lock.is_locked or now < self._next_try:
            return
        self._next_try = now + 1.0
        try:
            self._lock.acquire(blocking=False)
        except (Timeout, OSError):
            return
        driver.execute(f"PRAGMA wal_autocheckpoint = {_PAGES_BETWEEN_CHECKPOINTS}")

    def checkpoint(self, driver: sqlite3.Connection) -> None:
        """Move what was committed into the file, as far as no reader is in the way."""
        self.take_over(driver)
        if self._lock.is_locked:
            driver.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def give_up(self) -> None:
        """Let another process have it. Call it after the connection is closed."""
        self._lock.release()


class WalMark:
    """A value that changes with each commit to a file, told without touching the database."""

    def __init__(self, file: Path) -> None:
        # Held open for as long as our connections are: the WAL is not replaced under us, and
        # fstat does not walk a path. Nobody locks this file, so closing it frees no lock.
        self._fd = os.open(f"{file}-wal", os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))

    def __call__(self) -> tuple[int, int]:
        found = os.fstat(self._fd)
        return found.st_mtime_ns, found.st_size

    @property
    def size(self) -> int:
        """Bytes of the WAL."""
        return os.fstat(self._fd).st_size

    def close(self) -> None:
        os.close(self._fd)
