"""RedisServer: the connections that all parts on one Redis share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, Self, TypeVar

from redis.asyncio import Redis
from redis.exceptions import NoScriptError

from taskloom.clock import SYSTEM_CLOCK, Clock, SystemClock
from taskloom.errors import ConfigurationError, StorageUnavailableError, UnavailableError
from taskloom.interfaces.opening import Opening
from taskloom.redacting import redacted
from taskloom.redis.checks import check_server
from taskloom.redis.clients import Client, client_from_url, close_client, split_options
from taskloom.redis.entries import micros
from taskloom.redis.faults import translated
from taskloom.redis.keys import Keys
from taskloom.redis.reach import Reach
from taskloom.redis.scripts import script

__all__ = ["RedisServer", "server_of"]

T = TypeVar("T")


class RedisServer(Opening):
    """One Redis (or Valkey), 6.2 or later: a server, a primary behind Sentinel, or a cluster.

    `prefix` starts the name of every key. Times are those of the server, so that workers whose
    clocks differ agree; with a `clock` of your own its time is handed in with each script (what the
    cache keeps for a while is still forgotten by the server's). `open` and `close` count their
    holders: the last one closes, a client that was given excepted. It belongs to one event loop.

    server = RedisServer.from_url("redis://localhost:6379/0", prefix="shop")
    queue, cache = RedisQueue(server), RedisCache(server)
    """

    def __init__(
        self,
        client: Client,
        *,
        prefix: str = "taskloom",
        remember: float = 86_400.0,
        clock: Clock = SYSTEM_CLOCK,
        place: str = "Redis",
        owned: bool = False,
    ) -> None:
        self.client: Any = client  # its methods are annotated for both worlds, sync and async
        self.keys = Keys(prefix)
        self.remember = remember
        """For how many seconds a queue knows the ids that were acknowledged, unless it is told."""
        self.clock = clock
        self.place = place
        self._owned = owned
        self._holders: set[int] = set()
        self._opening = asyncio.Lock()
        self._checked = False
        self._aside: set[asyncio.Task[Any]] = set()
        self._reach = Reach(client, self.spawn)

    @classmethod
    def from_url(cls, url: str, *, prefix: str = "taskloom", clock: Clock = SYSTEM_CLOCK) -> Self:
        """A server by its URL, see `client_from_url`; nothing is connected yet.

        `?prefix=name` in the URL wins over `prefix`; `?remember=seconds` is for `RedisQueue`.
        """
        plain, ours = split_options(url)
        remember = _seconds(ours.get("remember", "86400"))
        try:
            client = client_from_url(plain)
        except ConfigurationError:
            raise
        except ValueError:
            # What the driver says may quote the URL, and with it a password.
            raise ConfigurationError(f"{redacted(url)} is no url of a Redis") from None
        prefix = ours.get("prefix", prefix)
        place = redacted(url)
        return cls(client, prefix=prefix, remember=remember, clock=clock, place=place, owned=True)

    def __repr__(self) -> str:
        return f"RedisServer({self.place!r})"

    async def open(self, holder: object = None) -> None:
        """Connect for `holder`, and say what this Redis will not do. Safe to repeat.

        Raises `ConfigurationError` for a version or credentials that cannot work, and
        `StorageUnavailableError`.
        """
        async with self._opening:
            if not self._checked:
                async with self.calling():
                    await check_server(self.client, self.place)
                self._checked = True
            self._holders.add(id(holder))

    async def close(self, holder: object = None) -> None:
        """Let go, once every holder has. Safe to repeat."""
        async with self._opening:
            self._holders.discard(id(holder))
            if self._holders:
                return
            while self._aside:
                await asyncio.wait(self._aside)
            if self._owned:
                self._checked = False
                await close_client(self.client)

    async def run(
        self,
        name: str,
        keys: Sequence[str],
        *args: Any,
        unavailable: type[UnavailableError] = StorageUnavailableError,
    ) -> Any:
        """Run a script: one atomic step. Cancelled while it runs, it may still be done."""
        lua = script(name)
        given = (len(keys), *keys, self._time(), *args)
        async with self.calling(unavailable):
            try:
                return await self.client.evalsha(lua.sha, *given)
            except NoScriptError:  # a new server, or one that forgot
                return await self.client.eval(lua.text, *given)

    async def run_when(
        self,
        stream: str,
        seen: bytes,
        seconds: float,
        name: str,
        keys: Sequence[str],
        *args: Any,
        unavailable: type[UnavailableError] = StorageUnavailableError,
    ) -> Any:
        """`run`, once `stream` has an entry after `seen`, or after so many seconds.

        Where one server has both, the script is sent along and waits there: it has run before
        anyone could tell us to send it. Whoever gives up the waiting must `ring` and see what came.
        """
        millis = max(1, round(seconds * 1000))  # 0 would be for ever
        if not isinstance(self.client, Redis) or not isinstance(self.clock, SystemClock):
            async with self.calling(unavailable):
                await self.client.xread({stream: seen}, count=1, block=millis)
            return await self.run(name, keys, *args, unavailable=unavailable)
        both = self.client.pipeline(transaction=False)
        both.xread({stream: seen}, count=1, block=millis)
        both.evalsha(script(name).sha, len(keys), *keys, self._time(), *args)
        async with self.calling(unavailable):
            _, answer = await both.execute(raise_on_error=False)
            if not isinstance(answer, Exception):
                return answer
            if not isinstance(answer, NoScriptError):
                raise answer
        return await self.run(name, keys, *args, unavailable=unavailable)

    async def ring(self, stream: str, unavailable: type[UnavailableError]) -> None:
        """End every `run_when` that waits for this stream."""
        async with self.calling(unavailable):
            await self.client.xadd(stream, {"r": ""}, maxlen=1, approximate=False)

    @asynccontextmanager
    async def calling(
        self, unavailable: type[UnavailableError] = StorageUnavailableError
    ) -> AsyncIterator[None]:
        """Around each call of the client: raises `unavailable` for what may pass."""
        with translated(self.place, unavailable):
            async with self._reach.calling():
                yield

    def _time(self) -> int | str:
        """What `lua/time.lua` is told."""
        return "" if isinstance(self.clock, SystemClock) else micros(self.clock.now())

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


def server_of(source: Client | RedisServer) -> RedisServer:
    """The server that a part is made on. Parts that are to share one are given the same."""
    return source if isinstance(source, RedisServer) else RedisServer(source)


def _seconds(remember: str) -> float:
    if not remember.isdecimal() or int(remember) == 0:
        raise ConfigurationError(f"remember={remember}: a whole number of seconds, more than 0")
    return float(remember)
