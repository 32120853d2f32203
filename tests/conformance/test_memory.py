"""The memory engines do what engines promise."""

from __future__ import annotations

from datetime import datetime

import pytest

from taskloom.memory import ImmediateQueue, InMemoryCache, InMemoryQueue, InMemoryStorage
from taskloom.testing import (
    CacheConformance,
    ManualClock,
    QueueConformance,
    StorageConformance,
)
from taskloom.testing.queue_waiting import WaitingCases


class Virtual:
    """Time that a case moves: nothing waits in earnest."""

    patience = 0.0

    @pytest.fixture(autouse=True)
    def _clock(self) -> None:
        self.clock = ManualClock()

    async def pass_time(self, seconds: float) -> None:
        await self.clock.advance(seconds)

    def now(self) -> datetime:
        return self.clock.now()


class TestInMemoryQueue(Virtual, QueueConformance):
    @pytest.fixture
    def queue(self) -> InMemoryQueue:
        return InMemoryQueue(self.clock)


class TestInMemoryQueueInRealTime(WaitingCases):
    """The rest differs by nothing but the clock."""

    lease = 0.06
    patience = 0.0

    @pytest.fixture
    def queue(self) -> InMemoryQueue:
        return InMemoryQueue()


class TestImmediateQueue(Virtual, QueueConformance):
    @pytest.fixture
    def queue(self) -> ImmediateQueue:
        return ImmediateQueue(self.clock)


class TestInMemoryStorage(Virtual, StorageConformance):
    @pytest.fixture
    def storage(self) -> InMemoryStorage:
        return InMemoryStorage(self.clock)


class TestInMemoryCache(Virtual, CacheConformance):
    @pytest.fixture
    def cache(self) -> InMemoryCache:
        return InMemoryCache(self.clock)
