"""MongoDB does what engines promise, with transactions and without."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from taskloom.mongodb import (
    MongoDBCache,
    MongoDBDatabase,
    MongoDBFlowBarrier,
    MongoDBProjections,
    MongoDBQueue,
    MongoDBStorage,
)
from taskloom.testing import (
    BarrierConformance,
    CacheConformance,
    ProjectionsConformance,
    QueueConformance,
    StorageConformance,
)

SLOW = 5
"""The wheel's server takes long for each record; what goes by the hundred does so all the same."""


@pytest.fixture(params=[True, False], ids=["transactions", "steps"])
async def database(
    mongodb_emptied: str, request: pytest.FixtureRequest
) -> AsyncIterator[MongoDBDatabase]:
    """A database of its own, with transactions or as if the server had none."""
    transactions: bool = request.param
    database = MongoDBDatabase.from_url(mongodb_emptied, _transactions=transactions)
    async with database:
        assert database.has_transactions == transactions
        yield database


class TestMongoDBQueue(QueueConformance):
    lease = 0.5

    @pytest.fixture
    async def queue(self, mongodb_emptied: str) -> AsyncIterator[MongoDBQueue]:
        async with MongoDBQueue.from_url(mongodb_emptied) as queue:
            yield queue


class TestMongoDBStorage(StorageConformance):
    lease = 0.5

    @pytest.fixture
    async def storage(self, database: MongoDBDatabase) -> AsyncIterator[MongoDBStorage]:
        async with MongoDBStorage(database) as storage:
            yield storage


class TestMongoDBCache(CacheConformance):
    @pytest.fixture
    async def cache(self, mongodb_emptied: str) -> AsyncIterator[MongoDBCache]:
        async with MongoDBCache.from_url(mongodb_emptied) as cache:
            yield cache


class TestMongoDBFlowBarrier(BarrierConformance):
    shrink = SLOW

    @pytest.fixture
    async def barrier(self, database: MongoDBDatabase) -> AsyncIterator[MongoDBFlowBarrier]:
        async with MongoDBFlowBarrier(MongoDBStorage(database)) as barrier:
            yield barrier


class TestMongoDBProjections(ProjectionsConformance):
    shrink = SLOW

    @pytest.fixture
    async def projections(self, mongodb_emptied: str) -> AsyncIterator[MongoDBProjections]:
        async with MongoDBProjections.from_url(mongodb_emptied) as projections:
            yield projections
