"""AdaptiveStrategy: how much to read of a shard at once, and how soon again."""

from __future__ import annotations

from abc import ABC, abstractmethod

from msgspec import Struct

__all__ = ["AdaptiveSnapshot", "AdaptiveStrategy", "BatchResult"]


class BatchResult(Struct, frozen=True):
    """What became of some records of a shard."""

    succeeded: int = 0
    failed: int = 0
    throttled: bool = False
    """The engine refused a call because there were too many."""
    poison_pill: bool = False
    """A record was set aside."""
    succeeded_types: tuple[str, ...] = ()
    failed_types: tuple[str, ...] = ()
    """The task types among them, each once."""

    @property
    def is_good(self) -> bool:
        """Whether nothing went wrong."""
        return not (self.failed or self.throttled or self.poison_pill)


class AdaptiveSnapshot(Struct, frozen=True):
    """Where a strategy stands, for one shard or for all: then averages, sums and the latest."""

    batch_size: int
    processing_delay: float
    """Seconds."""
    consecutive_successes: int
    consecutive_failures: int
    backoff_remaining: float
    """Seconds; 0: it does not back off."""
    hot_types: tuple[str, ...]
    """Task types that fail more often than not, sorted."""


class AdaptiveStrategy(ABC):
    """Learns from results, by shard. A shard that was never heard of has the strategy's defaults.

    No I/O; called on the event loop.
    """

    @abstractmethod
    def get_batch_size(self, shard_id: str) -> int:
        """How many records to read at once."""

    @abstractmethod
    def get_processing_delay(self, shard_id: str) -> float:
        """Seconds before the next look at a shard that had nothing."""

    @abstractmethod
    def should_backoff(self, shard_id: str) -> bool:
        """Whether to leave the shard alone for now."""

    @abstractmethod
    def record_batch_result(self, shard_id: str, result: BatchResult) -> None:
        """Learn."""

    @abstractmethod
    def get_snapshot(self, shard_id: str | None = None) -> AdaptiveSnapshot:
        """Where it stands with one shard, or with all."""
