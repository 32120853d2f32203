"""One nursery for all tests here, and rigs on it. Helpers to import are in `rig`."""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from uuid import uuid4

import pytest
from case import Rules
from nursery import Nursery
from rig import OpenRig, Rig, rig_on

from mongodb_server import MONGODB_URL, mongodb_server
from redis_server import free_port
from servers import fresh_database


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What runs on MongoDB, in a stage of its own."""
    for item in items:
        if "mongodb" in item.name:
            item.add_marker("mongodb")


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """The process that workers are forked from."""
    nursery = Nursery()
    try:
        yield nursery
    finally:
        nursery.end()


@pytest.fixture
def open_rig(nursery: Nursery, request: pytest.FixtureRequest) -> OpenRig:
    """Makes rigs; every process of one has ended when it is left, on failure too."""

    @asynccontextmanager
    async def opened(
        directory: Path, rules: Rules | None = None, *, engine: str = "sqlite", url: str = ""
    ) -> AsyncIterator[Rig]:
        own = nullcontext(url) if url else _OWN[engine](request, directory)
        async with own as place, rig_on(nursery, directory, rules, engine, place) as rig:
            yield rig

    return opened


@pytest.fixture
def forgotten_sockets(engine: str) -> Iterator[None]:
    """pymongo 4.20 does not close the socket of a connection that was cut while it was made."""
    yield
    if engine == "mongodb":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()


@asynccontextmanager
async def _file(request: pytest.FixtureRequest, directory: Path) -> AsyncIterator[str]:
    yield f"sqlite:///{directory}/tasks.db"


@asynccontextmanager
async def _database(request: pytest.FixtureRequest, directory: Path) -> AsyncIterator[str]:
    # Not one for tests that leave it as it was: the rig makes tables and triggers of its own.
    async with fresh_database(request.getfixturevalue("postgres_server")) as url:
        yield url


@asynccontextmanager
async def _prefix(request: pytest.FixtureRequest, directory: Path) -> AsyncIterator[str]:
    yield f"{request.getfixturevalue('redis_url')}?prefix=rig-{uuid4().hex}"


@asynccontextmanager
async def _account(request: pytest.FixtureRequest, directory: Path) -> AsyncIterator[str]:
    yield f"{request.getfixturevalue('kinesis_url')}?account={uuid4().int % 10**12:012}"


@asynccontextmanager
async def _documents(request: pytest.FixtureRequest, directory: Path) -> AsyncIterator[str]:
    # Directly: the driver would look for its server past a proxy.
    place = f"rig_{uuid4().hex}?directConnection=true"
    if given := os.environ.get(MONGODB_URL):
        yield f"{given}/{place}"  # the rig takes its database away
        return
    # One of its own: this server may stand still after many kills, and would for all that follow.
    with mongodb_server(directory.parent, free_port()) as server:
        yield f"{server}/{place}"


_OWN = {
    "sqlite": _file,
    "postgresql": _database,
    "redis": _prefix,
    "kinesis": _account,
    "mongodb": _documents,
    "mongodb-steps": _documents,
}
"""A place that is nobody else's, on a server that may be shared."""
