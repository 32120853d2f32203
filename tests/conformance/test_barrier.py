"""Flow barriers do what engines promise: in memory, on SQLite in a file and in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from test_memory import Virtual

from taskloom.memory import InMemoryFlowBarrier
from taskloom.sql import SqlFlowBarrier
from taskloom.testing import BarrierConformance


class TestInMemoryFlowBarrier(Virtual, BarrierConformance):
    @pytest.fixture
    def barrier(self) -> InMemoryFlowBarrier:
        return InMemoryFlowBarrier(self.clock)


class TestSqliteFlowBarrier(BarrierConformance):
    @pytest.fixture
    async def barrier(self, tmp_path: Path) -> AsyncIterator[SqlFlowBarrier]:
        async with SqlFlowBarrier.from_url(f"sqlite:///{tmp_path}/tasks.db") as barrier:
            yield barrier


class TestSqliteFlowBarrierInMemory(Virtual, BarrierConformance):
    @pytest.fixture
    async def barrier(self) -> AsyncIterator[SqlFlowBarrier]:
        async with SqlFlowBarrier.from_url("sqlite://", clock=self.clock) as barrier:
            yield barrier
