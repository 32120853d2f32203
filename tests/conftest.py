"""Servers that tests of several folders run on."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator

import pytest
from hypothesis import HealthCheck, settings

from redis_server import free_port, redis_server
from servers import empty_database, fresh_database, postgres

# Time says nothing of an example: the machine may have stood still in the middle of it.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a PostgreSQL server, started once for this process."""
    with postgres() as url:
        yield url


@pytest.fixture
async def postgres_url(postgres_server: str) -> AsyncIterator[str]:
    """The URL of a new PostgreSQL database, without tables."""
    async with fresh_database(postgres_server) as url:
        yield url


@pytest.fixture
async def postgres_tables(postgres_server: str) -> AsyncIterator[str]:
    """The URL of a PostgreSQL database without rows, made much quicker than a new one."""
    async with empty_database(postgres_server) as url:
        yield url


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis for the whole session: `TASKLOOM_TEST_REDIS_URL`, or one started here.

    Shared: every test takes a prefix of its own.
    """
    if given := os.environ.get("TASKLOOM_TEST_REDIS_URL"):
        yield given
        return
    with redis_server(tmp_path_factory.mktemp("redis"), free_port()) as url:
        yield url
