"""BatchSummary: what `process_batch` answers."""

from __future__ import annotations

from msgspec import Struct

__all__ = ["BatchSummary"]


class BatchSummary(Struct, frozen=True):
    """What became of one claim."""

    claimed: int = 0
    succeeded: int = 0
    failed: int = 0
    """Failed for good."""
    retried: int = 0
    """Failed, or rescheduled itself, and will run again."""
    ignored: int = 0
    """Without an executor, or expired."""
    released: int = 0
    """Not run, or no longer ours."""
    handed_off: int = 0
    """Still running, with the `AsyncTaskManager`."""
