"""The way to one Redis: while it is away, one call at a time asks whether it is back."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, ConnectionError, ResponseError, TimeoutError

__all__ = ["Reach"]

CALL_LIMIT = 5.0
"""Seconds within which every answer must come; longer than any call here blocks."""
SHORTEST, LONGEST = 0.1, 0.5
"""Seconds between two attempts of one process to connect."""


class Reach:
    """Stands around every call to one server.

    After a connection broke, the next call asks first whether the server answers, and all others
    wait for that answer: however many loops need it, a server that is away is tried at most ten
    times a second. (A cluster has several servers, and a driver that asks around by itself.)
    """

    def __init__(self, client: Any, spawn: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self._client = client
        self._spawn = spawn
        self._away = False
        self._delay = 0.0
        self._question: asyncio.Task[Exception | None] | None = None

    @asynccontextmanager
    async def calling(self) -> AsyncIterator[None]:
        """Around one call. Raises what redis-py raises, and `TimeoutError` after `CALL_LIMIT`."""
        if self._away:
            await self._wait_for_answer()
        me = asyncio.current_task()
        assert me is not None
        cancelled = me.cancelling()
        try:
            async with asyncio.timeout(CALL_LIMIT):
                yield
        except (ConnectionError, TimeoutError, OSError) as error:
            if isinstance(self._client, Redis) and not isinstance(error, AuthenticationError):
                self._away = True
            raise
        except ResponseError as error:
            if "READONLY" in str(error):
                await self._look_for_the_primary()
            raise
        finally:
            # With a `socket_timeout` redis-py sends under `wait_for`, which up to Python 3.11
            # swallows a cancellation that comes as the sending ends.
            if me.cancelling() > cancelled:
                raise asyncio.CancelledError

    async def _wait_for_answer(self) -> None:
        if self._question is None:
            self._question = self._spawn(self._ask())
        error = await asyncio.shield(self._question)
        if error is not None:
            raise error

    async def _ask(self) -> Exception | None:
        try:
            # Jitter: many workers must not come back in step (not a secret, so `random` will do).
            await asyncio.sleep(self._delay * random.uniform(1.0, 1.5))
            async with asyncio.timeout(CALL_LIMIT):
                await self._client.ping()
        except Exception as error:
            self._delay = min(LONGEST, self._delay * 2 or SHORTEST)
            return error
        else:
            self._away, self._delay = False, 0.0
            return None
        finally:
            self._question = None

    async def _look_for_the_primary(self) -> None:
        # A replica keeps its connections when it was demoted; only a new one is led elsewhere, by
        # Sentinel or by the name of the host.
        if isinstance(self._client, Redis):
            await self._client.connection_pool.disconnect(inuse_connections=False)
