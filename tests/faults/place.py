"""What a rig needs of the place where its tasks are: all that differs between the engines.

A place gives the rig its own Loom's parts, gives a worker parts that are watched, and reads, beside
the library, what is left at the end.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from crashing import Watch

from taskloom.urls import Parts

__all__ = ["Place"]


class Place(ABC):
    """One engine at a URL. Flows and projections can be in a SQLite file beside it."""

    apart: ClassVar[bool]
    """Queue and storage are two things: what is due now may have no row."""
    in_steps: ClassVar[bool] = False
    """There are no transactions: what is added in one call may be kept in part."""
    forgets: ClassVar[bool] = False
    """A task that its parent puts again, and that has no row, is another one to the queue."""
    upkeep: ClassVar[float] = 0.5
    """Seconds between two passes of upkeep of one worker."""
    hurries: ClassVar[bool] = True
    """What a dead process held of the upkeep is free in seconds: its end is waited for here."""

    outlast: ClassVar[float] = 0.0
    """Seconds for which locks of a killed process may last when all of its tasks have ended."""

    def __init__(self, url: str, directory: Path, *, beside: bool) -> None:
        self.url = url
        self.beside = beside
        """Whether flows and projections are outside the transactions of the tasks."""
        self._file = directory / "flows.db"

    @abstractmethod
    def parts(self) -> Parts:
        """Parts as the library makes them, for the rig itself. Nothing is open yet."""

    @abstractmethod
    def watched(self, watch: Watch) -> Parts:
        """Parts that note what they answer, for a process that may die."""

    @abstractmethod
    async def begin(self) -> None:
        """Log changes of rows from now on; the tables exist."""

    @abstractmethod
    async def changes(self) -> Sequence[Sequence[Any]]:
        """How rows of flows and projections changed: kind, id, before and after, in order."""

    @abstractmethod
    async def flows(self) -> dict[str, str]:
        """The state of each flow."""

    @abstractmethod
    async def projections(self) -> dict[str, str]:
        """The status of each row of projections."""

    @abstractmethod
    async def held(self) -> list[str]:
        """Leases, locks and pending entries, by what they are on."""

    @abstractmethod
    async def spoil(self, id: str) -> None:
        """Make a task that waits unreadable."""

    async def waiting(self) -> int:
        """How many tasks a queue apart from the storage holds, those in flight included."""
        return 0

    async def acknowledged(self) -> set[str]:
        """Tasks that a queue apart from the storage remembers as done; they may have no row."""
        return set()

    def is_free(self) -> bool:
        """Whether a process that has just stopped holds nobody up."""
        return True

    @abstractmethod
    async def clear(self) -> None:
        """Take away what would stay on a server that is shared."""
