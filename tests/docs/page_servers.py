"""Where the servers of a page are: each URL that it names is a database of its own, here."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, AsyncExitStack, ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self, TypeAlias
from uuid import uuid4

import pytest
from pymongo import MongoClient

from redis_server import free_port, redis_binary, redis_server
from servers import fresh_database, postgres_binary
from taskloom.redacting import redacted

__all__ = ["CLIENTS", "PageServers", "servers_for"]

_URL = re.compile(r"\b(postgresql|redis|mongodb)://[^\s\"'`?)]+")

Make: TypeAlias = Callable[[], AbstractContextManager[str]]

CLIENTS: Mapping[str, Callable[[], Path]] = {
    "psql": lambda: postgres_binary("psql"),
    "redis-cli": lambda: redis_binary().with_name("redis-cli"),
}
"""Programs that come with the servers, and need not be installed."""


class PageServers:
    """Databases for the URLs of one page, made when a URL is first seen and gone at the end.

    `make` says how, by scheme. Options after a `?` stay as they are. Other URLs (`rediss://`,
    `redis+cluster://`) are left alone: a page may show them, but not run anything on them.
    """

    def __init__(self, make: Mapping[str, Make]) -> None:
        self._make = make
        self._held = ExitStack()
        self._places: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._held.close()

    def real(self, text: str) -> str:
        """What a page says, with the URLs that its databases have here."""
        return _URL.sub(self._place, text)

    def shown(self, printed: str) -> str:
        """What was printed, with the URLs of the page."""
        for shown, real in self._places.items():
            printed = printed.replace(real, shown).replace(redacted(real), redacted(shown))
        return printed

    def _place(self, url: re.Match[str]) -> str:
        if url[0] not in self._places:
            self._places[url[0]] = self._held.enter_context(self._make[url[1]]())
        return self._places[url[0]]


def servers_for(
    runner: asyncio.Runner, request: pytest.FixtureRequest, folder: Path
) -> PageServers:
    """Databases on the servers of all tests; of Redis, whose keys pages name, servers."""

    @contextmanager
    def postgres() -> Iterator[str]:
        held = AsyncExitStack()
        database = fresh_database(request.getfixturevalue("postgres_server"))
        url = runner.run(held.enter_async_context(database))
        try:
            yield url
        finally:
            runner.run(held.aclose())

    @contextmanager
    def redis() -> Iterator[str]:
        port = free_port()
        place = folder / str(port)
        place.mkdir(parents=True)
        with redis_server(place, port, config="appendonly yes") as url:
            yield url

    @contextmanager
    def mongodb() -> Iterator[str]:
        server, name = request.getfixturevalue("mongodb_server_url"), f"taskloom_{uuid4().hex}"
        yield f"{server}/{name}"
        with MongoClient[dict[str, object]](server) as client:
            client.drop_database(name)

    return PageServers({"postgresql": postgres, "redis": redis, "mongodb": mongodb})
