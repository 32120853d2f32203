"""Servers that tests of several folders run on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from servers import fresh_database, postgres


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a PostgreSQL server, started once for this process."""
    with postgres() as url:
        yield url


@pytest.fixture
async def postgres_url(postgres_server: str) -> AsyncIterator[str]:
    """The URL of an empty PostgreSQL database."""
    async with fresh_database(postgres_server) as url:
        yield url
