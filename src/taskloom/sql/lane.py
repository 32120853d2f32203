"""One connection on one thread, and transactions on it."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from sqlalchemy import Connection

from taskloom.sql.faults import opening, translated
from taskloom.sql.sqlite import raw, until_free

__all__ = ["Lane"]

P = ParamSpec("P")
T = TypeVar("T")


class Lane:
    """Runs functions of a connection, one after the other, off the event loop.

    `begin` is how a transaction starts; `prepare` is called with the driver's connection before
    each. A connection that does not come back from an error is replaced by a new one.
    """

    def __init__(
        self,
        place: str,
        connect: Callable[[], Connection],
        *,
        begin: str,
        prepare: Callable[[sqlite3.Connection], None] | None = None,
    ) -> None:
        self._place = place
        self._connect = connect
        self._begin = begin
        self._prepare = prepare
        self._conn: Connection | None = None
        self._thread = ThreadPoolExecutor(1, "taskloom-sql")

    async def run(self, work: Callable[[Connection], T]) -> T:
        """One transaction. Cancelled while it runs, it runs on and may still be committed."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._transact, work)

    async def call(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """`work` on the driver's connection, outside a transaction."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._call, work)

    async def open(self, work: Callable[[Connection], T]) -> T:
        """Connect, and run the first transaction; errors are about the place and its rights."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._open, work)

    async def close(self) -> None:
        """Let go of connection and thread, after what is under way."""
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._drop)
        finally:
            self._thread.shutdown(wait=False)

    def _open(self, work: Callable[[Connection], T]) -> T:
        with opening(self._place):
            return self._run(work)

    def _transact(self, work: Callable[[Connection], T]) -> T:
        with translated(self._place):
            return self._run(work)

    def _call(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with translated(self._place):
            return work(raw(self._connection()))

    def _connection(self) -> Connection:
        if self._conn is None:
            self._conn = self._connect()
        return self._conn

    def _run(self, work: Callable[[Connection], T]) -> T:
        conn = self._connection()
        driver = raw(conn)
        if self._prepare is not None:
            self._prepare(driver)
        try:
            until_free(lambda: driver.execute(self._begin))
            answer = work(conn)
            self._commit(conn, driver)
        except BaseException:
            self._recover(conn, driver)
            raise
        return answer

    def _commit(self, conn: Connection, driver: sqlite3.Connection) -> None:
        conn.commit()
        if driver.in_transaction:  # `work` did nothing, so that SQLAlchemy saw no transaction
            driver.execute("COMMIT")

    def _recover(self, conn: Connection, driver: sqlite3.Connection) -> None:
        """Roll back. SQLite may have done so by itself, as it does when the disk is full."""
        try:
            conn.rollback()
            if driver.in_transaction:
                driver.execute("ROLLBACK")
        except Exception:
            self._drop()

    def _drop(self) -> None:
        conn, self._conn = self._conn, None
        if conn is not None:
            conn.close()
