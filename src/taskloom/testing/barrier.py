"""BarrierConformance: what every FlowBarrier does.

class TestMyBarrier(BarrierConformance):
    @pytest.fixture
    async def barrier(self):
        async with MyBarrier(...) as barrier:
            yield barrier
"""

from __future__ import annotations

from taskloom.testing.barrier_counting import CountingCases
from taskloom.testing.barrier_ending import EndingCases
from taskloom.testing.barrier_settling import SettlingFlowCases

__all__ = ["BarrierConformance"]


class BarrierConformance(CountingCases, EndingCases, SettlingFlowCases):
    """Subclass it with a fixture `barrier`: an open, empty barrier. Needs pytest-asyncio in auto
    mode.

    Only the cases of `settle` are skipped, by a barrier whose `storage` is None. Override
    `pass_time` and `now` for a virtual clock.
    """
