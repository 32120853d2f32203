"""MongoDBDatabase: the collections that all parts on one database share."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Self, TypeVar

from pymongo.asynchronous.database import AsyncDatabase

from taskloom.clock import SYSTEM_CLOCK, Clock, SystemClock
from taskloom.errors import ConfigurationError, StorageUnavailableError
from taskloom.interfaces.opening import Opening
from taskloom.mongodb.clients import database_from_url
from taskloom.mongodb.faults import translated
from taskloom.mongodb.listening import Listener
from taskloom.mongodb.rows import micros
from taskloom.mongodb.schema import Collections, create_indexes, upgrade_indexes
from taskloom.mongodb.transacting import Writing, in_transaction
from taskloom.redacting import redacted
from taskloom.wakeups import Wakeups

__all__ = ["MongoDBDatabase", "database_of"]

logger = logging.getLogger("taskloom.mongodb")

T = TypeVar("T")

_COMPARE_EVERY = 60.0
_SAME_TIME = timedelta(milliseconds=20)
"""Clocks that are no further apart are one: what is due here is due there."""


class MongoDBDatabase(Opening):
    """One database of MongoDB, 4.4 or later, for all parts made on it.

    Takes an `AsyncDatabase` of pymongo, which stays yours. `prefix` starts the name of every
    collection. On a replica set or a sharded cluster every write is a transaction and idle workers
    are woken by a change stream. A server by itself has neither: there a write of several steps
    takes them in an order that is safe to repeat, and idle workers look once a second.

    Times are those of the server, so that workers whose clocks differ agree, unless a `clock` of
    your own is given. `open` and `close` count their holders: the last one closes. It belongs to
    one event loop. While the server is away, pymongo asks for it twice a second, for everybody.

    database = MongoDBDatabase.from_url("mongodb://localhost:27017/taskloom")
    storage, cache = MongoDBStorage(database), MongoDBCache(database)
    """

    def __init__(
        self,
        source: AsyncDatabase[Any],
        *,
        prefix: str = "taskloom_",
        clock: Clock = SYSTEM_CLOCK,
        place: str = "MongoDB",
        _url: str | None = None,
        _transactions: bool = True,
    ) -> None:
        self.clock = clock
        self.place = place
        self.follows_server = isinstance(clock, SystemClock)
        """Whether the server's time is the one that counts here."""
        self.has_transactions = False
        self._may_use_transactions = _transactions
        self._url = _url
        self._prefix = prefix
        self._ahead = timedelta(0)
        self._is_open = False
        self._holders: set[int] = set()
        self._opening = asyncio.Lock()
        self._aside: set[asyncio.Task[Any]] = set()
        self._clock_watch: asyncio.Task[None] | None = None
        self.wakeups = Wakeups()
        self._use(source)

    @classmethod
    def from_url(cls, url: str, *, clock: Clock = SYSTEM_CLOCK, _transactions: bool = True) -> Self:
        """A database by its URL, `mongodb://` or `mongodb+srv://`; nothing is connected yet."""
        return cls(
            database_from_url(url),
            clock=clock,
            place=redacted(url),
            _url=url,
            _transactions=_transactions,
        )

    def _use(self, source: AsyncDatabase[Any]) -> None:
        self._client = source.client
        self.collections = Collections.within(source, self._prefix)
        self._listener = Listener(self.collections.tasks, self.wakeups.hear, self.place)

    def __repr__(self) -> str:
        return f"MongoDBDatabase({self.place!r})"

    def now(self) -> datetime:
        """The time that leases and due times are compared with."""
        return self.clock.now() + self._ahead

    def now_micros(self) -> int:
        """`now` as it stands in the documents."""
        return micros(self.now())

    # Opening and closing

    async def open(self, holder: object = None) -> None:
        """Connect for `holder`, and make the indexes that are missing. Safe to repeat.

        Raises `ConfigurationError` for credentials that cannot work and for indexes that take long
        to make, and `StorageUnavailableError`.
        """
        async with self._opening:
            if not self._is_open:
                try:
                    with translated(self.place):
                        await self._connect()
                        await create_indexes(self.collections, self.place)
                except BaseException:
                    await self._disconnect()
                    raise
                self._is_open = True
            self._holders.add(id(holder))

    async def upgrade(self) -> None:
        """Make the indexes that are missing, however long it takes. Safe to repeat."""
        async with self._opening:
            with translated(self.place):
                await upgrade_indexes(self.collections)
            if not self._is_open:
                await self._disconnect()

    async def close(self, holder: object = None) -> None:
        """Let go, once every holder has. Safe to repeat."""
        async with self._opening:
            self._holders.discard(id(holder))
            if self._holders or not self._is_open:
                return
            while self._aside:
                await asyncio.wait(self._aside)
            self._is_open = False
            await self._disconnect()

    async def _connect(self) -> None:
        hello = await self._compare_clocks()
        is_deployment = "setName" in hello or hello.get("msg") == "isdbgrid"
        self.has_transactions = is_deployment and self._may_use_transactions
        if not is_deployment:
            logger.warning(
                "%s is a server by itself: it has no transactions, and loses what it acknowledged "
                "when its disk is lost. Make it a replica set, if of one member",
                self.place,
            )
        if self.has_transactions:
            self._listener.start()
        if self.follows_server:
            self._clock_watch = asyncio.create_task(self._watch_clock(), name="taskloom-clock")

    async def _disconnect(self) -> None:
        self.wakeups.stop()
        await self._listener.stop()
        if self._clock_watch is not None:
            self._clock_watch.cancel()
            await asyncio.wait([self._clock_watch])
            self._clock_watch = None
        if self._url is not None:
            await self._client.close()
            # One that was closed stays so: who opens this again needs another.
            self._use(database_from_url(self._url))

    # The time

    async def _watch_clock(self) -> None:
        while True:
            await asyncio.sleep(_COMPARE_EVERY)
            # An error: the next time again.
            with contextlib.suppress(StorageUnavailableError), translated(self.place):
                await self._compare_clocks()

    async def _compare_clocks(self) -> dict[str, Any]:
        """What the server says of itself; its time among that, in milliseconds."""
        await self._client.admin.command("ping")  # by now it is connected
        before = datetime.now(UTC)
        hello: dict[str, Any] = await self._client.admin.command("hello")
        after = datetime.now(UTC)
        if self.follows_server:
            server: datetime = hello["localTime"].replace(tzinfo=UTC)
            ahead = server - (before + (after - before) / 2)
            is_same = abs(ahead) <= _SAME_TIME + (after - before)
            self._ahead = timedelta(0) if is_same else ahead
        return hello

    # Running

    async def write(
        self, work: Callable[[Writing], Awaitable[T]], *, attempts: int | None = None
    ) -> T:
        """`work` as one transaction where there are any, else step by step.

        Raises `StorageUnavailableError`; repeating it is safe. It may be run again where another
        transaction got in the way, `attempts` times: it changes nothing but the database.
        """
        with self.calling():
            if self.has_transactions:
                return await in_transaction(self._client, work, attempts)
            return await work(Writing())

    async def write_at_once(self, work: Callable[[Writing], Awaitable[T]]) -> T:
        """`work` of which each step stands for itself, so that no transaction is needed."""
        with self.calling():
            return await work(Writing())

    @contextlib.contextmanager
    def calling(self) -> Iterator[None]:
        """Around calls of the driver: raises Taskloom's errors."""
        if not self._is_open:
            raise ConfigurationError(
                f"{self.place} is not open: use `async with`, or `await ....open()` first"
            )
        me = asyncio.current_task()
        assert me is not None
        cancelled = me.cancelling()
        try:
            with translated(self.place):
                yield
        finally:
            # The driver waits with `wait_for`, which up to Python 3.11 swallows a cancellation that
            # comes as the answer does; and a cancelled caller must not take it for an outage.
            if me.cancelling() > cancelled:
                raise asyncio.CancelledError

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run `work` to its end whatever becomes of the caller; `close` waits for it."""
        task = asyncio.ensure_future(work)
        self._aside.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._aside.discard(task)
        if not task.cancelled():
            task.exception()  # seen, though whoever asked may have given up by now


def database_of(source: AsyncDatabase[Any] | MongoDBDatabase) -> MongoDBDatabase:
    """The database that a part is made on. Parts that are to share one are given the same."""
    if isinstance(source, MongoDBDatabase):
        return source
    if not isinstance(source, AsyncDatabase):
        raise TypeError(
            f"an AsyncDatabase of pymongo or a MongoDBDatabase, not {type(source).__name__}"
        )
    return MongoDBDatabase(source)
