"""From a driver's errors to Taskloom's: *unavailable* is to be repeated, the rest stays loud."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError

from taskloom.errors import ConfigurationError, StorageUnavailableError

__all__ = ["is_busy", "is_too_big", "opening", "translated"]

_UNAVAILABLE = {
    sqlite3.SQLITE_BUSY: "another process holds the write lock for too long",
    sqlite3.SQLITE_LOCKED: "another connection of this process holds a lock",
    sqlite3.SQLITE_NOMEM: "out of memory",
    sqlite3.SQLITE_READONLY: "the file or its directory cannot be written; check its permissions",
    sqlite3.SQLITE_IOERR: "reading or writing the file failed; check the disk",
    sqlite3.SQLITE_FULL: "the disk is full; make room, then go on",
    sqlite3.SQLITE_CANTOPEN: "the file cannot be opened; check that it and its directory exist, "
    "and that this user may write both",
    sqlite3.SQLITE_PROTOCOL: "the file's locks cannot be taken; is it on a network drive?",
}
_WRONG_FILE = {
    sqlite3.SQLITE_NOTADB: "is not a SQLite database. Point the URL at another file",
    sqlite3.SQLITE_READONLY: "cannot be written. Give this user write access to it",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened. Check that this user may read and write it, and "
    "create files beside it",
}

_PROGRAM_LIMIT = "54000"
"""PostgreSQL's SQLSTATE for it."""


def _code(error: BaseException) -> int:
    """SQLite's primary result code, whoever wrapped the error; 0 if it is none."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return getattr(cause, "sqlite_errorcode", 0) & 0xFF


def is_busy(error: BaseException) -> bool:
    """Whether somebody else held the lock."""
    return _code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def is_too_big(error: BaseException) -> bool:
    """Whether a value came to more than the database can hold in one piece."""
    if isinstance(error, DBAPIError) and getattr(error.orig, "sqlstate", None) == _PROGRAM_LIMIT:
        return True
    return _code(error) == sqlite3.SQLITE_TOOBIG


@contextmanager
def translated(place: str) -> Iterator[None]:
    """Raise `StorageUnavailableError` for what may pass: locks, a full disk, input and output."""
    try:
        yield
    except (DBAPIError, sqlite3.Error) as error:
        reason = _UNAVAILABLE.get(_code(error))
        if reason is None:
            raise
        raise StorageUnavailableError(f"{place}: {reason}") from error


@contextmanager
def opening(place: str) -> Iterator[None]:
    """Raise `ConfigurationError` for a file that will never do; else as `translated`."""
    with translated(place):
        try:
            yield
        except (DBAPIError, sqlite3.Error) as error:
            reason = _WRONG_FILE.get(_code(error))
            if reason is None:
                raise
            raise ConfigurationError(f"{place} {reason}") from error
