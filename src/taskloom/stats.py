"""Figures: what a worker, its queues and its consumers have done."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from taskloom.lifecycle import QueueStats
from taskloom.outcomes import Word

__all__ = ["Figures", "QueueFigures"]


@dataclass(slots=True)
class QueueFigures:
    """One queue, since the figures were last told."""

    success: int = 0
    failed: int = 0
    ignored: int = 0
    handed_off: int = 0

    @property
    def total(self) -> int:
        return self.success + self.failed + self.ignored


@dataclass(slots=True)
class ConsumerFigures:
    """One queue's consumer, since it started."""

    succeeded: int = 0
    failed: int = 0
    last_task_at: datetime | None = None


class Figures:
    """Counts outcomes as they are settled, a batch at a time."""

    def __init__(self, instance_id: str, *, threshold: int, failure_threshold: int) -> None:
        self.succeeded = 0
        self.failed = 0
        self.busy_time = 0.0
        """Seconds all runs took together."""
        self.fenced = 0
        """Outcomes that changed nothing because their lease was gone."""
        self._instance_id = instance_id
        self._threshold = threshold
        self._failure_threshold = failure_threshold
        self._queues: dict[str, QueueFigures] = {}
        self._consumers: dict[str, ConsumerFigures] = {}

    def count(self, queue_id: str, words: dict[Word, int], busy_time: float, at: datetime) -> None:
        """Add what happened on one queue: how often each word, and how long the runs took."""
        success, failed = words.get(Word.SUCCESS, 0), words.get(Word.FAILURE, 0)
        failed += words.get(Word.POISON, 0)
        self.succeeded += success
        self.failed += failed
        self.busy_time += busy_time
        queue = self._queues.setdefault(queue_id, QueueFigures())
        queue.success += success
        queue.failed += failed
        queue.ignored += words.get(Word.IGNORED, 0)
        consumer = self.consumer(queue_id)
        consumer.succeeded += success
        consumer.failed += failed
        consumer.last_task_at = at

    def count_handed_off(self, queue_id: str) -> None:
        """A run left its slot."""
        self._queues.setdefault(queue_id, QueueFigures()).handed_off += 1

    def consumer(self, queue_id: str) -> ConsumerFigures:
        """The figures of a queue's consumer."""
        return self._consumers.setdefault(queue_id, ConsumerFigures())

    def due_stats(self) -> list[QueueStats]:
        """Queues with enough to tell; they start again at zero."""
        due = [
            queue_id
            for queue_id, figures in self._queues.items()
            if figures.total >= self._threshold or figures.failed >= self._failure_threshold
        ]
        return [self._told(queue_id) for queue_id in due]

    @property
    def untold(self) -> bool:
        """Whether anything happened since the figures were last told."""
        return any(figures.total for figures in self._queues.values())

    def final_stats(self) -> list[QueueStats]:
        """What has not been told yet, one entry per queue; they start again at zero."""
        return [self._told(queue_id) for queue_id in list(self._queues)]

    def _told(self, queue_id: str) -> QueueStats:
        figures = self._queues[queue_id]
        self._queues[queue_id] = QueueFigures()
        return QueueStats(
            queue_id=queue_id,
            success=figures.success,
            failed=figures.failed,
            handed_off=figures.handed_off,
            ignored=figures.ignored,
            instance_id=self._instance_id,
        )

    def worker_fields(self) -> dict[str, Any]:
        """The fields of `WorkerStats` that are counted here."""
        processed = self.succeeded + self.failed
        return {
            "tasks_processed": processed,
            "tasks_succeeded": self.succeeded,
            "tasks_failed": self.failed,
            "avg_processing_duration": self.busy_time / processed if processed else 0.0,
        }

    def consumer_fields(self, queue_id: str) -> dict[str, Any]:
        """The fields of `ConsumerStats`."""
        figures = self.consumer(queue_id)
        return {
            "tasks_processed": figures.succeeded + figures.failed,
            "tasks_succeeded": figures.succeeded,
            "tasks_failed": figures.failed,
            "last_task_at": figures.last_task_at,
        }
