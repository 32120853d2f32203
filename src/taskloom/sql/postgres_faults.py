"""From asyncpg's errors to Taskloom's, by their SQLSTATE (PostgreSQL 18, appendix A)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from asyncpg.exceptions import InterfaceError, PostgresError
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from taskloom.errors import ConfigurationError, StorageUnavailableError

__all__ = ["is_disconnect", "must_run_again", "opening", "translated"]

_UNAVAILABLE = {
    "08": "the connection was lost",
    "25006": "the server only reads: it is, or has become, a standby",
    "40": "other transactions were in the way again and again",
    "53": "the server is short of connections, memory or disk",
    "55P03": "another connection holds a lock for too long",
    "57": "the server is starting, stopping, or has cut the call short",
    "58": "the server cannot read or write its files",
}
"""By SQLSTATE, or by its first two characters, which are its class."""
_MISCONFIGURED = {
    "28": "the server refuses the user or the password. Check them in the URL",
    "3D": "there is no such database. Create it, or name another one in the URL",
    "3F": "there is no such schema. Create it, or set another search_path",
    "42501": "this user may not do that. Give it the right to create and to use tables there",
}
_ERRORS = (DBAPIError, PostgresError, InterfaceError, OSError, PoolTimeoutError)


def _state(error: BaseException) -> str:
    """The SQLSTATE, whoever wrapped the error; empty if there is none."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return getattr(cause, "sqlstate", None) or ""


def must_run_again(error: BaseException) -> bool:
    """Whether the database gave a transaction up for another one: a deadlock, mostly."""
    return _state(error) in ("40001", "40P01")


def is_disconnect(error: BaseException) -> bool:
    """Whether the connection is gone, and with it a transaction that was not committed."""
    return isinstance(error, DBAPIError) and error.connection_invalidated


def _reason(error: BaseException, reasons: dict[str, str]) -> str | None:
    state = _state(error)
    return reasons.get(state) or reasons.get(state[:2])


@contextmanager
def translated(place: str) -> Iterator[None]:
    """Raise `StorageUnavailableError` for what may pass; the rest stays as it is."""
    try:
        yield
    except _ERRORS as error:
        reason = _reason(error, _UNAVAILABLE)
        if is_disconnect(error):
            reason = reason or _UNAVAILABLE["08"]
        elif isinstance(error, TimeoutError | PoolTimeoutError):
            reason = "no answer in time"
        elif isinstance(error, OSError):
            reason = f"cannot be reached ({error.strerror or error})"
        if reason is None:
            raise
        raise StorageUnavailableError(f"{place}: {reason}") from error


@contextmanager
def opening(place: str) -> Iterator[None]:
    """Raise `ConfigurationError` for a place that will never do; else as `translated`."""
    with translated(place):
        try:
            yield
        except _ERRORS as error:
            reason = _reason(error, _MISCONFIGURED)
            if reason is None:
                raise
            raise ConfigurationError(f"{place}: {reason}") from error
