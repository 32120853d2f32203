"""Inside a transaction of somebody else's: everything here on the caller's own connection."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar, cast
from weakref import WeakKeyDictionary, WeakSet

from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import DBAPIError

from taskloom.errors import ConfigurationError
from taskloom.sql.setup import identity_of
from taskloom.wakeups import Wakeups

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from taskloom.sql.connections import Connections

__all__ = ["JoinedConnections"]

T = TypeVar("T")

_PAUSES = (0.001, 0.002, 0.005, 0.02)
"""Seconds between two looks at whether a commit has come to its end; the last from there on."""

_same: WeakKeyDictionary[Connections, WeakSet[Engine]] = WeakKeyDictionary()
"""Engines that were seen to lead to the database of these connections."""


class JoinedConnections:
    """The connection that a caller has given: all is one transaction, which the caller ends.

    `open` checks where it leads; `close` lets workers be woken by the commit. Errors of the
    database stay SQLAlchemy's, as those of the caller's own statements. `ended` is called on the
    event loop when the transaction is over: False if it was rolled back.
    """

    def __init__(
        self, outer: Connections, given: object, ended: Callable[[bool], None] | None
    ) -> None:
        self.place = outer.place
        self.ahead: timedelta = outer.ahead
        self._due: set[str] = set()
        self.wakeups = Wakeups(tell=lambda queue_ids: self._due.update(queue_ids or ()))
        self._outer = outer
        self._given = given
        self._ended = ended
        self._conn: Connection | AsyncConnection | None = None
        self._failed = False

    async def open(self, prepare: Callable[[Connection], None]) -> None:
        """Find the connection; `ConfigurationError` unless it leads to the same database.

        Nothing is prepared: the tables are there, or it is another database.
        """
        self._conn = await _connection_in(self._given)
        conn = self._sync
        ours = _backend_of(self.place)
        if conn.dialect.name != ours:
            raise ConfigurationError(
                f"connection: it leads to {conn.dialect.name}, but the tasks are in {self.place}"
            )
        if isinstance(self._conn, Connection) and ours != "sqlite":
            raise ConfigurationError(
                "connection: a synchronous one would hold up the event loop; give an "
                "AsyncConnection or an AsyncSession"
            )
        if conn.get_execution_options().get("isolation_level") == "AUTOCOMMIT":
            raise ConfigurationError("connection: it commits by itself; give one that does not")
        await self._compare(conn.engine)
        if ours == "sqlite":
            # One connection of all may checkpoint: see `CheckpointDuty`.
            await self.write(lambda own: own.exec_driver_sql("PRAGMA wal_autocheckpoint = 0"))

    async def close(self) -> None:
        """Let others hear of what is due, once it is committed."""
        if self._conn is None or self._failed:
            return
        if self._due and self._sync.dialect.name == "postgresql":
            from taskloom.sql.listening import tell_on_commit  # SQLite has no use for it

            await self.write(lambda own: tell_on_commit(own, self._due))
        if self._due or self._ended is not None:
            _Watch(self._sync, self._over)

    async def write(self, work: Callable[[Connection], T]) -> T:
        """`work` in the caller's transaction; one that has not begun begins with it."""
        assert self._conn is not None
        try:
            if isinstance(self._conn, Connection):
                return work(self._conn)
            return await self._conn.run_sync(work)
        except BaseException:
            self._failed = True  # what was written before goes the same way
            raise

    read = write_at_once = read_at_once = write

    @property
    def _sync(self) -> Connection:
        conn = self._conn
        found = conn if conn is None or isinstance(conn, Connection) else conn.sync_connection
        assert found is not None, "open, as it was checked to be"
        return found

    async def _compare(self, engine: Engine) -> None:
        known = _same.setdefault(self._outer, WeakSet())
        if engine in known:
            return
        ours = await self._outer.read(identity_of)
        try:
            theirs = await self.write(identity_of)
        except DBAPIError as error:
            raise self._elsewhere(engine) from error
        if theirs != ours:
            raise self._elsewhere(engine)
        known.add(engine)

    def _elsewhere(self, engine: Engine) -> ConfigurationError:
        return ConfigurationError(
            f"connection: {engine.url.render_as_string(hide_password=True)} is another database "
            f"than that of the tasks, {self.place}; one transaction cannot span both"
        )

    def _over(self, committed: bool) -> None:
        if committed:
            for queue_id in self._due:
                self._outer.wakeups.hear(queue_id)
        if self._ended is not None:
            self._ended(committed)


def _backend_of(place: str) -> str:
    """The dialect of a URL, without its driver."""
    backend = place.partition(":")[0].partition("+")[0]
    return "postgresql" if backend == "postgres" else backend


async def _connection_in(given: Any) -> Connection | AsyncConnection:
    """What a connection or a session of SQLAlchemy runs its statements on."""
    if isinstance(given, Connection) or hasattr(given, "sync_connection"):
        found = given
    else:
        # By its shape: importing the ORM to ask for its classes costs more than all of this.
        connect = getattr(given, "connection", None)
        if not callable(connect):
            raise TypeError(
                "connection must be an AsyncConnection or AsyncSession of SQLAlchemy, or on SQLite "
                f"a Connection or Session, not {type(given).__name__}"
            )
        found = connect()
        if inspect.isawaitable(found):
            found = await found
    if found.closed:
        raise ConfigurationError("connection: it is closed; give one that is in use")
    return cast("Connection | AsyncConnection", found)


class _Watch:
    """Calls `tell` on the event loop when the transaction under way is over."""

    def __init__(self, conn: Connection, tell: Callable[[bool], None]) -> None:
        self._conn = conn
        self._transaction = conn.get_transaction()
        self._tell: Callable[[bool], None] | None = tell
        self._loop = asyncio.get_running_loop()
        event.listen(conn, "commit", self._on_commit)
        event.listen(conn, "rollback", self._on_rollback)

    def _on_commit(self, conn: Connection) -> None:
        self._soon(self._look, 0)

    def _on_rollback(self, conn: Connection) -> None:
        self._soon(self._over, False)

    def _soon(self, call: Callable[..., None], argument: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is over, and nobody waits any more
            self._loop.call_soon_threadsafe(call, argument)

    def _look(self, times: int) -> None:
        """SQLAlchemy tells before it commits, and not afterwards."""
        transaction = self._transaction
        if transaction is None or not transaction.is_active:
            self._over(self._conn.get_transaction() is not transaction)
            return
        pause = _PAUSES[min(times, len(_PAUSES) - 1)]
        self._loop.call_later(pause, self._look, times + 1)

    def _over(self, committed: bool) -> None:
        tell, self._tell = self._tell, None
        if tell is not None:
            event.remove(self._conn, "commit", self._on_commit)
            event.remove(self._conn, "rollback", self._on_rollback)
            tell(committed)
