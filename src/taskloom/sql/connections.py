"""What SqlDatabase asks of the connections to one kind of database."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol, TypeVar

from sqlalchemy import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError

from taskloom.clock import Clock, SystemClock
from taskloom.errors import ConfigurationError, MissingExtraError
from taskloom.sql.dialect import refuse_foreign
from taskloom.sql.sqlite import parse_place
from taskloom.sql.sqlite_connections import SqliteConnections
from taskloom.wakeups import Wakeups

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = ["Connections", "connections_to", "parse_url"]

T = TypeVar("T")


class Connections(Protocol):
    """Where transactions run. Errors are Taskloom's: unavailable, misconfigured, or a bug."""

    @property
    def place(self) -> str:
        """The URL as people may see it."""

    @property
    def wakeups(self) -> Wakeups:
        """Who waits for which queue."""

    @property
    def ahead(self) -> timedelta:
        """By how much the database's clock is ahead of this machine's."""

    async def open(self, prepare: Callable[[Connection], None]) -> None:
        """Connect, and `prepare` the tables first. `close` it also when this fails."""

    async def close(self) -> None:
        """Let go of everything, after what is under way. Safe to repeat."""

    async def write(self, work: Callable[[Connection], T]) -> T:
        """One transaction. It may be run again when the database gave it up for another one.

        Cancelled while it runs, it runs on and may still be committed.
        """

    async def write_at_once(self, work: Callable[[Connection], T]) -> T:
        """As `write`, for work of one statement, which is all or nothing by itself."""

    async def read(self, work: Callable[[Connection], T]) -> T:
        """One transaction that only reads, all of it from one view of the database."""

    async def read_at_once(self, work: Callable[[Connection], T]) -> T:
        """As `read`, for work of one statement."""


def parse_url(url: str) -> URL:
    """`url` for SQLAlchemy. Raises `ConfigurationError`, which does not show it."""
    try:
        return make_url(url)
    except (ArgumentError, ValueError):
        raise ConfigurationError(
            "not a database URL; use one such as sqlite:///tasks.db or postgresql://host/tasks"
        ) from None


def connections_to(
    source: Engine | AsyncEngine | URL, synchronous: str, clock: Clock
) -> Connections:
    """Connections of the kind that `source` asks for; no I/O.

    Raises `ConfigurationError` for what no engine here is for, `MissingExtraError` for one whose
    driver is not installed.
    """
    url = source if isinstance(source, URL) else source.url
    backend = url.get_backend_name()
    if backend in ("postgresql", "postgres"):
        return _to_postgres(source, clock)
    refuse_foreign(backend)
    if not isinstance(source, Engine | URL):
        raise ConfigurationError(
            "sqlite through an AsyncEngine: Taskloom takes the synchronous Engine of SQLite: "
            "sqlalchemy.create_engine('sqlite:///taskloom.db')"
        )
    if isinstance(source, URL):
        source, synchronous = parse_place(source, synchronous)
    return SqliteConnections(source, synchronous)


def _to_postgres(source: Engine | AsyncEngine | URL, clock: Clock) -> Connections:
    if isinstance(source, Engine):
        raise ConfigurationError(
            f"{source.dialect.name} through an Engine: Taskloom takes an AsyncEngine of "
            "PostgreSQL: sqlalchemy.ext.asyncio.create_async_engine('postgresql+asyncpg://...')"
        )
    # Not before it is asked for: the driver need not be installed.
    try:
        from taskloom.sql.postgres_connections import PostgresConnections
    except ImportError as error:
        raise MissingExtraError("postgres", error.name or "asyncpg") from error
    # A clock of someone else's is the time that leases end by.
    return PostgresConnections(source, follow_clock=isinstance(clock, SystemClock))
