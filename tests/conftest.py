"""Servers that tests of several folders run on."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, settings
from pymongo import AsyncMongoClient, MongoClient

from kinesis_server import KINESIS_URL, kinesis_server
from mongodb_server import MONGODB_URL, SharedDatabase, emptied, mongodb_server
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


@pytest.fixture(scope="session")
def kinesis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Kinesis for the whole session: `TASKLOOM_TEST_KINESIS_URL`, or one started here.

    Shared: every test makes a stream of its own.
    """
    if given := os.environ.get(KINESIS_URL):
        yield given
        return
    with kinesis_server(tmp_path_factory.mktemp("kinesis")) as url:
        yield url


@pytest.fixture(scope="session")
def mongodb_server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A MongoDB for the whole session: `TASKLOOM_TEST_MONGODB_URL`, or one started here."""
    if given := os.environ.get(MONGODB_URL):
        yield given
        return
    with mongodb_server(tmp_path_factory.mktemp("mongodb"), free_port()) as url:
        yield url


@pytest.fixture
async def mongodb_url(mongodb_server_url: str) -> AsyncIterator[str]:
    """The URL of a MongoDB database that no other test uses, dropped at the end."""
    name = f"taskloom_test_{uuid4().hex}"
    yield _mongodb_database(mongodb_server_url, name)
    async with AsyncMongoClient[dict[str, object]](mongodb_server_url) as client:
        await client.drop_database(name)


@pytest.fixture(scope="session")
def mongodb_shared(mongodb_server_url: str) -> Iterator[SharedDatabase]:
    """One MongoDB database for the whole session, dropped at its end."""
    name = f"taskloom_test_{uuid4().hex}"
    with MongoClient[dict[str, object]](mongodb_server_url) as client:
        yield SharedDatabase(_mongodb_database(mongodb_server_url, name), client[name])
        client.drop_database(name)


@pytest.fixture
def mongodb_emptied(mongodb_shared: SharedDatabase) -> Iterator[str]:
    """The URL of a MongoDB database without documents, made much quicker than a new one."""
    with emptied(mongodb_shared) as url:
        yield url


def _mongodb_database(server: str, name: str) -> str:
    return urlunsplit(urlsplit(server)._replace(path=f"/{name}"))
