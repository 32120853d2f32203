"""StorageConformance: what every storage does, TaskStorage and TaskArchive.

class TestMyStorage(StorageConformance):
    @pytest.fixture
    async def storage(self):
        async with MyStorage(...) as storage:
            yield storage
"""

from __future__ import annotations

from taskloom.testing.storage_archive import ArchiveCases
from taskloom.testing.storage_keeping import KeepingCases
from taskloom.testing.storage_leases import LeaseCases
from taskloom.testing.storage_settling import SettlingCases

__all__ = ["StorageConformance"]


class StorageConformance(KeepingCases, LeaseCases, SettlingCases, ArchiveCases):
    """Subclass it with a fixture `storage`: an open, empty storage that is both. Needs
    pytest-asyncio in auto mode.

    No case can be skipped. Override `pass_time` and `now` for a virtual clock, `lease` for a slow
    engine.
    """
