"""SqlDatabase: where a plain function of a Connection is run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from datetime import datetime
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeVar

from sqlalchemy import URL, Connection, Engine

from taskloom.clock import SYSTEM_CLOCK, Clock
from taskloom.errors import ConfigurationError
from taskloom.interfaces.opening import Opening
from taskloom.sql.connections import Connections, connections_to, parse_url
from taskloom.sql.joining import JoinedConnections
from taskloom.sql.rows import micros
from taskloom.sql.setup import create_tables, upgrade_tables

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = ["SqlDatabase", "database_of"]

P = ParamSpec("P")
T = TypeVar("T")


class SqlDatabase(Opening):
    """One database, for all parts made on it: a SQLite file, SQLite in memory, or PostgreSQL.

    Takes a URL of SQLAlchemy, an `Engine` of SQLite or an `AsyncEngine` of PostgreSQL; an engine
    stays yours.

    `open` and `close` count their holders: the last one closes. It belongs to one event loop.
    """

    def __init__(
        self,
        source: Engine | AsyncEngine | URL | JoinedConnections,
        *,
        synchronous: str = "normal",
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.clock = clock
        self._connections: Connections = (
            source
            if isinstance(source, JoinedConnections)
            else connections_to(source, synchronous, clock)
        )
        self.place = self._connections.place
        self.wakeups = self._connections.wakeups
        self._is_open = False
        self._is_up_to_date = False
        self._holders: set[int] = set()
        self._opening = asyncio.Lock()
        self._aside: set[asyncio.Task[Any]] = set()

    @classmethod
    def from_url(cls, url: str, *, clock: Clock = SYSTEM_CLOCK) -> Self:
        """A database by its URL.

        - `sqlite:///file`, `sqlite://` in memory; `?synchronous=full`: a commit survives a power
          cut, too.
        - `postgresql://user:password@host/database`, `?sslmode=...`. Behind a pgbouncer in
          transaction mode add `?pgbouncer=transaction`: nothing is kept prepared, nothing is set
          for a session, and idle workers look once a second, since nobody can listen there.

        Raises `ConfigurationError`; no I/O.
        """
        return cls(parse_url(url), clock=clock)

    def __repr__(self) -> str:
        return f"SqlDatabase({self.place!r})"

    def now(self) -> datetime:
        """The time that leases and due times are compared with: the server's where there is one."""
        return self.clock.now() + self._connections.ahead

    def now_micros(self) -> int:
        """`now` as it stands in the tables."""
        return micros(self.now())

    # Opening and closing

    async def open(self, holder: object = None) -> None:
        """Connect and create what is missing, for `holder`. Safe to repeat.

        Raises `ConfigurationError` for a place or a file that cannot work.
        """
        async with self._opening:
            if not self._is_open:
                try:
                    await self._connections.open(create_tables)
                except BaseException:
                    await self._connections.close()
                    raise
                self._is_open = self._is_up_to_date = True
            self._holders.add(id(holder))

    async def upgrade(self) -> None:
        """Create what is missing and bring the rest up to date, however long it takes.

        Safe to repeat, and from many processes at once; what was open once is up to date.
        """
        async with self._opening:
            if not self._is_up_to_date:
                try:
                    await self._connections.open(upgrade_tables)
                finally:
                    await self._connections.close()
                self._is_up_to_date = True

    def within(self, connection: object, ended: Callable[[bool], None] | None = None) -> Self:
        """This database inside a transaction of the caller's: open it, then use it alike.

        `connection` is a connection or a session of SQLAlchemy; `ended` is told when its
        transaction is over, and whether it was committed. No I/O.
        """
        joined = JoinedConnections(self._open_connections(), connection, ended)
        return type(self)(joined, clock=self.clock)

    async def close(self, holder: object = None) -> None:
        """Let go, once every holder has. Safe to repeat."""
        async with self._opening:
            self._holders.discard(id(holder))
            if not self._holders and self._is_open:
                while self._aside:
                    await asyncio.wait(self._aside)
                self._is_open = False
                await self._connections.close()

    # Running

    async def write(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """`work(conn, ...)` as one transaction that writes, all of it or nothing.

        Raises `StorageUnavailableError` when a lock, the disk, a file or the network is in the way.
        Cancelled while it runs, it may still be committed. It may be run again where the database
        gave it up for another transaction: it changes nothing but the database.
        """
        return await self._open_connections().write(lambda conn: work(conn, *args, **kwargs))

    async def write_at_once(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """As `write`, for `work` that executes one statement: a server is asked once, not thrice.

        It may be run again only while nothing of it has reached the database.
        """
        return await self._open_connections().write_at_once(
            lambda conn: work(conn, *args, **kwargs)
        )

    async def read(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """`work(conn, ...)` over one consistent view, beside the writes."""
        return await self._open_connections().read(lambda conn: work(conn, *args, **kwargs))

    async def read_at_once(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """As `read`, for `work` that executes one statement."""
        return await self._open_connections().read_at_once(lambda conn: work(conn, *args, **kwargs))

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run `work` to its end whatever becomes of the caller; `close` waits for it."""
        task = asyncio.ensure_future(work)
        self._aside.add(task)
        task.add_done_callback(self._aside.discard)
        return task

    def _open_connections(self) -> Connections:
        if not self._is_open:
            raise ConfigurationError(
                f"{self.place} is not open: use `async with`, or `await ....open()` first"
            )
        return self._connections


def database_of(source: Engine | AsyncEngine | SqlDatabase) -> SqlDatabase:
    """The database that a part is made on. Parts that are to share one are given the same."""
    if isinstance(source, SqlDatabase):
        return source
    if not hasattr(source, "dialect"):
        raise TypeError(f"an engine of SQLAlchemy or a SqlDatabase, not {type(source).__name__}")
    return SqlDatabase(source)
