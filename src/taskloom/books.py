"""The books of a worker: what was settled is counted, logged and told."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence

from taskloom.clock import Clock
from taskloom.codec import one_line
from taskloom.discards import Discards
from taskloom.failures import repr_of
from taskloom.flow_reporter import FlowReporter
from taskloom.interfaces.cache import Cache
from taskloom.listeners import Listeners
from taskloom.outcomes import Word
from taskloom.reporter import ExecutorOf, Reporter
from taskloom.settlement import Verdict
from taskloom.stats import Figures

__all__ = ["Books"]

_log = logging.getLogger(__name__)


class Books:
    """Hears of every settled batch, once."""

    def __init__(
        self,
        figures: Figures,
        reporter: Reporter,
        listeners: Listeners,
        executor_of: ExecutorOf,
        cache: Cache,
        clock: Clock,
        flows: FlowReporter,
    ) -> None:
        self._flows = flows
        self._figures = figures
        self._reporter = reporter
        self._listeners = listeners
        self._executor_of = executor_of
        self._discards = Discards(cache, listeners, clock)
        self._clock = clock

    async def report(self, done: Sequence[Verdict], fenced: Sequence[Verdict]) -> None:
        """These were carried out, and those came after their lease was lost."""
        self._count(done)
        if fenced:
            self._figures.fenced += len(fenced)
            _log.warning("%d outcomes came after their lease was lost; refused", len(fenced))
        _log_failures(done)
        if self._reporter.wants_ends:
            for verdict in done:
                executor = self._executor_of(verdict.outcome.delivery.task)
                await self._reporter.ended(verdict, executor)
        for verdict in done:
            outcome = verdict.outcome
            for flow in outcome.flows:
                starter = outcome.delivery.task
                await self._flows.started(flow, outcome.children, starter=starter)
        if discarded := sum(verdict.discarded for verdict in done):
            await self._discards.count(discarded)
        if self._listeners.wants("on_queue_stats"):
            for stats in self._figures.due_stats():
                await self._listeners.emit("on_queue_stats", stats)

    async def tell_final_stats(self) -> None:
        """At shutdown: what has not been told yet."""
        if self._listeners.wants("on_final_stats"):
            await self._listeners.emit("on_final_stats", self._figures.final_stats())

    def _count(self, verdicts: Sequence[Verdict]) -> None:
        queues: dict[str, QueueCount] = {}
        for verdict in verdicts:
            outcome = verdict.outcome
            queue_id = outcome.delivery.task.queue_id
            count = queues.get(queue_id)
            if count is None:
                count = queues[queue_id] = QueueCount()
            if outcome.word is Word.SUCCESS:  # the rule, and a member of an enum is slow to hash
                count.succeeded += 1
            else:
                count.words[outcome.word] += 1
            if outcome.started:
                count.busy += outcome.ended - outcome.started
        now = self._clock.now()
        for queue_id, count in queues.items():
            count.words[Word.SUCCESS] = count.succeeded
            self._figures.fenced += count.words[Word.LOST]
            self._figures.count(queue_id, count.words, count.busy, now)


class QueueCount:
    """What one settle did on one queue."""

    __slots__ = ("busy", "succeeded", "words")

    def __init__(self) -> None:
        self.succeeded = 0
        self.busy = 0.0
        self.words: Counter[Word] = Counter()


def _log_failures(verdicts: Sequence[Verdict]) -> None:
    for verdict in verdicts:
        outcome = verdict.outcome
        if outcome.failure is None:
            continue
        task, error = outcome.delivery.task, one_line(repr_of(outcome.failure.error))
        attempt = f"task {task.id} ({task.type}) failed, attempt {task.retry_count + 1}"
        if verdict.next_attempt_at is not None and verdict.will_retry:
            when = verdict.next_attempt_at.isoformat(timespec="milliseconds")
            _log.info("%s, again at %s: %s", attempt, when, error)
        else:
            _log.warning("%s, for good: %s", attempt, error)
