"""One statement at once, straight on the driver: on PostgreSQL one way to the server and back.

Through SQLAlchemy a transaction is three of them, and Python's share in it several times as much as
asyncpg's. Its statements are compiled here once for all connections, and bound by their names.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from functools import lru_cache
from typing import Any, TypeVar, cast

from asyncpg.exceptions import InterfaceError, PostgresConnectionError, PostgresError
from sqlalchemy import Connection, Executable
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.sql import ClauseElement
from sqlalchemy.util import await_only, greenlet_spawn

from taskloom.sql.listening import Connect

__all__ = ["PLANS_LAST", "Direct", "NothingDoneError"]

T = TypeVar("T")

PLANS_LAST = 5.0
"""Seconds that a connection keeps the plans of its statements.

Those made while the tables were nearly empty read all of them. PostgreSQL itself notices within a
minute or two, in which a burst of tasks would hardly move.
"""
# Its constructor is not annotated in SQLAlchemy.
_DIALECT = PGDialect_asyncpg()  # type: ignore[no-untyped-call]


class NothingDoneError(Exception):
    """The statement has changed nothing: it was refused and undone, or never sent."""


class Direct:
    """A connection of its own, for one caller at a time; the others find it `busy`."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._held = AsyncExitStack()
        self._driver: Any = None
        self._planned = 0.0
        self.busy = False

    async def run(self, work: Callable[[Connection], T]) -> T:
        """`work`, which executes one statement: a transaction by itself.

        Raises `NothingDoneError` where it may be run again, however it is meant, and whatever the
        driver raises where nobody knows.
        """
        self.busy = True
        try:
            driver = await self._connected()
            return await greenlet_spawn(work, cast("Connection", _OneStatement(driver)))
        except PostgresConnectionError:
            raise
        except (PostgresError, InterfaceError) as error:
            raise NothingDoneError from error
        except BaseException:
            if self._driver is not None:
                self._driver.terminate()  # what it is busy with is nobody's any more
            raise
        finally:
            self.busy = False

    async def close(self) -> None:
        """Hang up. Safe to repeat; the next statement connects again."""
        held, self._held, self._driver = self._held, AsyncExitStack(), None
        await held.aclose()

    async def _connected(self) -> Any:
        if self._driver is None or self._driver.is_closed():
            await self.close()
            conn = await self._held.enter_async_context(self._connect())
            driver = (await conn.get_raw_connection()).driver_connection
            await conn.run_sync(lambda held: held.detach())
            self._driver, self._planned = driver, time.monotonic()
        if time.monotonic() - self._planned >= PLANS_LAST:
            self._planned = time.monotonic()
            await self._driver.execute("DISCARD PLANS")
        return self._driver


class _OneStatement:
    """As much of a `Connection` as a function needs that executes one statement."""

    dialect = _DIALECT

    def __init__(self, driver: Any) -> None:
        self._driver = driver
        self._is_used = False

    def execute(self, statement: Executable, values: Mapping[str, Any]) -> _Rows:
        assert not self._is_used, "one statement: each one is committed by itself"
        self._is_used = True
        text, names, fixed = _compiled(statement)
        all_values = {**fixed, **values}
        return _Rows(await_only(self._driver.fetch(text, *[all_values[name] for name in names])))

    def scalar(self, statement: Executable, values: Mapping[str, Any]) -> Any:
        (row,) = self.execute(statement, values)
        return row[0]


class _Rows:
    def __init__(self, rows: list[Any]) -> None:
        self._rows = rows

    def __iter__(self) -> Iterator[Any]:
        return iter(self._rows)

    def one(self) -> Any:
        (row,) = self._rows
        return row


@lru_cache
def _compiled(statement: Executable) -> tuple[str, tuple[str, ...], dict[str, Any]]:
    """The text of a statement, the names of what is bound, in its order, and what is constant."""
    compiled: Any = cast("ClauseElement", statement).compile(dialect=_DIALECT)
    fixed = {name: bind.value for name, bind in compiled.binds.items() if not bind.required}
    return str(compiled), tuple(compiled.positiontup or ()), fixed
