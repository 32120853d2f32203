"""Servers that tests of every folder use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from redis_server import free_port, redis_server


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis for the whole session: `TASKLOOM_TEST_REDIS_URL`, or one started here.

    Shared: every test takes a prefix of its own.
    """
    if given := os.environ.get("TASKLOOM_TEST_REDIS_URL"):
        yield given
        return
    folder: Path = tmp_path_factory.mktemp("redis")
    with redis_server(folder, free_port()) as url:
        yield url
