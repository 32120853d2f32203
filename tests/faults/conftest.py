"""One nursery for all tests here, and rigs on it. Helpers to import are in `rig`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from case import Rules
from nursery import Nursery
from rig import OpenRig, Rig, rig_on

from servers import url_of


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
        async with url_of(engine, request) as server:
            place = url or _OWN[engine].format(server=server, directory=directory, name=uuid4().hex)
            async with rig_on(nursery, directory, rules, engine, place) as rig:
                yield rig

    return opened


_OWN = {
    "sqlite": "sqlite:///{directory}/tasks.db",
    "postgresql": "{server}",
    "redis": "{server}?prefix=rig-{name}",
}
"""A place that is nobody else's, on a server that may be shared."""
