"""PostgreSQL does what engines promise."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from taskloom.sql import SqlCache, SqlFlowBarrier, SqlProjections, SqlQueue, SqlStorage
from taskloom.testing import (
    BarrierConformance,
    CacheConformance,
    ProjectionsConformance,
    QueueConformance,
    StorageConformance,
)


class TestPostgresQueue(QueueConformance):
    @pytest.fixture
    async def queue(self, postgres_tables: str) -> AsyncIterator[SqlQueue]:
        async with SqlQueue.from_url(postgres_tables) as queue:
            yield queue


class TestPostgresStorage(StorageConformance):
    @pytest.fixture
    async def storage(self, postgres_tables: str) -> AsyncIterator[SqlStorage]:
        async with SqlStorage.from_url(postgres_tables) as storage:
            yield storage


class TestPostgresCache(CacheConformance):
    @pytest.fixture
    async def cache(self, postgres_tables: str) -> AsyncIterator[SqlCache]:
        async with SqlCache.from_url(postgres_tables) as cache:
            yield cache


class TestPostgresFlowBarrier(BarrierConformance):
    @pytest.fixture
    async def barrier(self, postgres_tables: str) -> AsyncIterator[SqlFlowBarrier]:
        async with SqlFlowBarrier.from_url(postgres_tables) as barrier:
            yield barrier


class TestPostgresProjections(ProjectionsConformance):
    @pytest.fixture
    async def projections(self, postgres_tables: str) -> AsyncIterator[SqlProjections]:
        async with SqlProjections.from_url(postgres_tables) as projections:
            yield projections
