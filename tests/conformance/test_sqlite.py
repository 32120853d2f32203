"""SQLite does what engines promise: on a file, and in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from taskloom.sql import SqlCache, SqlQueue, SqlStorage
from taskloom.testing import CacheConformance, QueueConformance, StorageConformance


class TestSqliteQueue(QueueConformance):
    @pytest.fixture
    async def queue(self, tmp_path: Path) -> AsyncIterator[SqlQueue]:
        async with SqlQueue.from_url(f"sqlite:///{tmp_path}/tasks.db") as queue:
            yield queue


class TestSqliteQueueInMemory(QueueConformance):
    @pytest.fixture
    async def queue(self) -> AsyncIterator[SqlQueue]:
        async with SqlQueue.from_url("sqlite://") as queue:
            yield queue


class TestSqliteStorage(StorageConformance):
    @pytest.fixture
    async def storage(self, tmp_path: Path) -> AsyncIterator[SqlStorage]:
        async with SqlStorage.from_url(f"sqlite:///{tmp_path}/tasks.db") as storage:
            yield storage


class TestSqliteStorageInMemory(StorageConformance):
    @pytest.fixture
    async def storage(self) -> AsyncIterator[SqlStorage]:
        async with SqlStorage.from_url("sqlite://") as storage:
            yield storage


class TestSqliteCache(CacheConformance):
    @pytest.fixture
    async def cache(self, tmp_path: Path) -> AsyncIterator[SqlCache]:
        async with SqlCache.from_url(f"sqlite:///{tmp_path}/tasks.db") as cache:
            yield cache


class TestSqliteCacheInMemory(CacheConformance):
    @pytest.fixture
    async def cache(self) -> AsyncIterator[SqlCache]:
        async with SqlCache.from_url("sqlite://") as cache:
            yield cache
