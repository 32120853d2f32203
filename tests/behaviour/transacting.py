"""Applications that keep orders in the database of their tasks, each in its own way."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import create_engine, make_url, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from harness import Engines

__all__ = ["WAYS", "Orders", "Transaction", "kind_of", "orders_in"]

WAYS = (
    "sqlite Connection",
    "sqlite Session",
    "sqlite AsyncConnection",
    "sqlite AsyncSession",
    "postgresql AsyncConnection",
    "postgresql AsyncSession",
)

_KINDS = {"AsyncConnection": AsyncConnection, "AsyncSession": AsyncSession, "Session": Session}


def kind_of(way: str) -> str:
    """The engine that a way is on."""
    return way.split()[0]


class Transaction:
    """What an application has open; `connection` is what it gives to have tasks added."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    async def _do(self, name: str, *arguments: Any) -> Any:
        answer = getattr(self.connection, name)(*arguments)
        return await answer if hasattr(answer, "__await__") else answer

    async def order(self, what: str) -> None:
        """A row of the application's own."""
        await self._do("execute", text("INSERT INTO orders VALUES (:what)"), {"what": what})

    async def commit(self) -> None:
        await self._do("commit")

    async def rollback(self) -> None:
        await self._do("rollback")

    async def savepoint(self) -> Any:
        """A savepoint, with `rollback` and `commit`."""
        return await self._do("begin_nested")


class Orders:
    """An application with an engine of its own."""

    def __init__(self, way: str, engine: Any, engines: Engines) -> None:
        self.way = way
        self.engine = engine
        self.engines = engines

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """One that is rolled back unless it is committed."""
        make = _KINDS.get(self.way.split()[1])
        if make in (AsyncSession, Session):
            opened: Any = make(self.engine)
        else:
            opened = self.engine.connect()
        if hasattr(opened, "__aenter__"):
            async with opened as connection:
                yield Transaction(connection)
        else:
            with opened as connection:
                yield Transaction(connection)

    async def all(self) -> list[str]:
        """What has been ordered."""
        async with self.transaction() as each:
            return list((await each._do("execute", text("SELECT what FROM orders"))).scalars())


@asynccontextmanager
async def orders_in(way: str, engines: Engines, url: str) -> AsyncIterator[Orders]:
    """The application, with its table made; `url` is that of a server, if there is one."""
    place = make_url(url or f"sqlite:///{engines.file}")
    if "Async" not in way:
        engine: Any = create_engine(place)
    else:
        driver = "asyncpg" if url else "aiosqlite"
        engine = create_async_engine(place.set(drivername=f"{kind_of(way)}+{driver}"))
    orders = Orders(way, engine, engines)
    async with orders.transaction() as each:
        await each._do("execute", text("CREATE TABLE orders (what TEXT)"))
        await each.commit()
    try:
        yield orders
    finally:
        disposed = engine.dispose()
        if disposed is not None:
            await disposed
