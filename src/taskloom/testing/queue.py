"""QueueConformance: what every MessageQueue does.

class TestMyQueue(QueueConformance):
    @pytest.fixture
    async def queue(self):
        async with MyQueue(...) as queue:
            yield queue
"""

from __future__ import annotations

from taskloom.testing.queue_carrying import CarryingCases
from taskloom.testing.queue_leases import LeaseCases
from taskloom.testing.queue_telling import TellingCases
from taskloom.testing.queue_waiting import WaitingCases

__all__ = ["QueueConformance"]


class QueueConformance(CarryingCases, LeaseCases, WaitingCases, TellingCases):
    """Subclass it with a fixture `queue`: an open queue. Needs pytest-asyncio in auto mode.

    Cases are skipped by what `queue.features` declares. Override `pass_time`, `now`, `patience`
    for a virtual clock, `lease` for a slow engine, `make_queue` where queues must be created.
    """
