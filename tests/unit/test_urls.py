"""URLs become parts, and no password ever shows."""

from __future__ import annotations

import subprocess
import sys

import pytest

from taskloom.app import Loom
from taskloom.clock import SYSTEM_CLOCK
from taskloom.errors import ConfigurationError
from taskloom.memory import InMemoryCache, InMemoryQueue, InMemoryStorage
from taskloom.urls import parts_from_url, redacted


def test_memory() -> None:
    parts = parts_from_url("memory://", SYSTEM_CLOCK)
    assert isinstance(parts.queue, InMemoryQueue)
    assert isinstance(parts.storage, InMemoryStorage)
    assert isinstance(parts.cache, InMemoryCache)


@pytest.mark.parametrize("url", ["sqlite:///tasks.db", "sqlite:////tmp/tasks.db", "sqlite://"])
def test_sqlite_is_one_database_for_everything(url: str) -> None:
    from taskloom.sql import SqlCache, SqlQueue, SqlStorage

    parts = parts_from_url(url, SYSTEM_CLOCK)
    assert isinstance(parts.storage, SqlStorage)
    assert isinstance(parts.queue, SqlQueue)
    assert isinstance(parts.cache, SqlCache)
    assert parts.queue.storage is parts.storage


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+asyncpg"])
def test_postgresql_shares_one_storage_too(scheme: str) -> None:
    from taskloom.sql import SqlQueue, SqlStorage

    parts = parts_from_url(f"{scheme}://me:hunter2@host/db", SYSTEM_CLOCK)
    assert isinstance(parts.storage, SqlStorage)
    assert isinstance(parts.queue, SqlQueue)
    assert parts.queue.storage is parts.storage
    assert "hunter2" not in repr(parts.storage.database)


@pytest.mark.parametrize(
    "url",
    [
        "redis://:hunter2@host",
        "rediss://me:hunter2@host:6380/2?prefix=shop",
        "valkey://host",
        "redis+cluster://:hunter2@host:7000",
        "redis+sentinel://:hunter2@one:26379,two:26379/mymaster/1",
    ],
)
def test_redis_is_one_server_for_everything(url: str) -> None:
    from taskloom.redis import RedisCache, RedisFlowBarrier, RedisQueue, RedisStorage

    parts = parts_from_url(url, SYSTEM_CLOCK)
    assert isinstance(parts.queue, RedisQueue)
    assert isinstance(parts.storage, RedisStorage)
    assert isinstance(parts.cache, RedisCache)
    assert isinstance(parts.flow_barrier, RedisFlowBarrier)
    assert len({id(part.server) for part in parts[:4]}) == 1  # type: ignore[union-attr]
    assert parts.queue.server.keys.prefix == ("shop" if "shop" in url else "taskloom")
    assert "hunter2" not in repr(parts.queue.server)


@pytest.mark.parametrize(
    ("url", "engine"),
    [
        ("mysql://me:hunter2@host/db", "MySQL"),
        ("mariadb://me:hunter2@host/db", "MariaDB"),
    ],
)
def test_an_engine_of_a_later_version_is_named(url: str, engine: str) -> None:
    with pytest.raises(ConfigurationError, match=f"no engine for {engine} yet; use ") as caught:
        Loom(url)
    assert "sqlite:///" in str(caught.value)
    assert "memory://" in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("oracle://me:hunter2@host", "no engine is called 'oracle'; use sqlite:///"),
        ("me:hunter2@host://x", "no engine is called that; use sqlite:///"),
        ("me:hunter2@host/db", "has no scheme; write for example sqlite:///taskloom.db"),
        ("", "has no scheme"),
        ("sqlite://hunter2.db", "three slashes"),
        ("memory://hunter2", "takes nothing after it"),
        ("redis+sentinel://:hunter2@host:26379", "a sentinel url names its primary"),
        ("redis://:hunter2@host:port", "is no url of a Redis"),
    ],
)
def test_a_url_that_names_nothing_says_what_would(url: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words) as caught:
        parts_from_url(url, SYSTEM_CLOCK)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sqlite:///tasks.db", "sqlite:///tasks.db"),
        ("redis://me:hunter2@cache:6379/0", "redis://***@cache:6379/0"),
        ("redis://:hunter2@cache", "redis://***@cache"),
        ("redis://me:hunt@er/2?x#y@cache/0", "redis://***@cache/0"),
        ("mongodb://cache/db?password=hunter2", "mongodb://cache/db?***"),
        ("memory://", "memory://"),
    ],
)
def test_redacted(url: str, shown: str) -> None:
    assert redacted(url) == shown


def test_making_a_loom_imports_only_its_engine() -> None:
    code = (
        "import sys; from taskloom.app import Loom; Loom('memory://');"
        "unwanted = ('asyncpg', 'pydantic', 'pymongo', 'redis', 'sqlalchemy');"
        "print([name for name in sys.modules if name.split('.')[0] in unwanted])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (run.stdout.strip(), run.stderr) == ("[]", "")
