"""The pulse of a worker: its life as events, its heartbeat, and its row among the living."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from taskloom.clock import seconds
from taskloom.config import TaskHandlerConfig
from taskloom.errors import UnavailableError
from taskloom.interfaces.task_storage import TaskArchive, TaskStorage, WorkerRecord
from taskloom.leases import Claim
from taskloom.lifecycle import (
    BatchCompleted,
    BatchStarted,
    ConsumerStarted,
    ConsumerStopped,
    WorkerHeartbeat,
    WorkerStarted,
    WorkerStopped,
)
from taskloom.listeners import Listeners
from taskloom.stats import Figures

__all__ = ["Pulse", "memory_usage"]

_log = logging.getLogger(__name__)

MISSED_BEATS = 3
"""A worker that has not reported for so many heartbeats counts as gone."""


class Pulse:
    """Tells the worker provider and the archive that, and how, this worker lives."""

    def __init__(
        self,
        worker_id: str,
        listeners: Listeners,
        storage: TaskStorage,
        running_ids: Callable[[], list[str]],
        figures: Figures,
        config: TaskHandlerConfig,
    ) -> None:
        self._worker_id = worker_id
        self._listeners = listeners
        self._archive = storage if isinstance(storage, TaskArchive) else None
        self._running_ids = running_ids
        self._figures = figures
        self._clock = config.clock
        self._interval = seconds(config.lifecycle.heartbeat_interval, "heartbeat_interval")
        self._started_at = self._clock.now()
        self._queues: list[str] = []
        self._consumers: dict[str, datetime] = {}

    async def started(self, queues: list[str]) -> None:
        """The worker begins to serve `queues`."""
        self._started_at = self._clock.now()
        self._queues = list(queues)
        await self._listeners.emit("on_worker_started", WorkerStarted(**self._worker()))
        await self._record(self._interval * MISSED_BEATS)

    async def run(self) -> None:
        """A heartbeat every interval, until cancelled."""
        while True:
            await self._clock.sleep(self._interval)
            await self._record(self._interval * MISSED_BEATS)
            if self._listeners.wants("on_worker_heartbeat"):
                event = WorkerHeartbeat(
                    **self._worker_stats(),
                    memory_usage=memory_usage(),
                    active_consumers=len(self._consumers),
                )
                await self._listeners.emit("on_worker_heartbeat", event)

    async def stopped(self, reason: str) -> None:
        """The worker has settled what it ran."""
        for queue_id in list(self._consumers):
            await self.consumer_stopped(queue_id)
        event = WorkerStopped(**self._worker_stats(), reason=reason)
        await self._listeners.emit("on_worker_stopped", event)
        await self._record(0)

    async def consumer_started(self, queue_id: str) -> None:
        """A queue's first delivery arrived."""
        self._consumers[queue_id] = self._clock.now()
        await self._listeners.emit("on_consumer_started", ConsumerStarted(**self._about(queue_id)))

    async def consumer_stopped(self, queue_id: str) -> None:
        """A queue is claimed no more."""
        about = self._about(queue_id) | self._figures.consumer_fields(queue_id)
        self._consumers.pop(queue_id, None)
        await self._listeners.emit("on_consumer_stopped", ConsumerStopped(**about))

    @property
    def wants_batches(self) -> bool:
        """Whether anyone wants to know of claims."""
        wants = self._listeners.wants
        return wants("on_batch_started") or wants("on_batch_completed")

    async def claim_started(self, claim: Claim, task_types: list[str]) -> None:
        """A claim came in."""
        event = BatchStarted(
            **self._worker(),
            queue_id=claim.queue_id,
            batch_size=claim.size,
            task_types=task_types,
        )
        await self._listeners.emit("on_batch_started", event)

    async def claim_completed(self, claim: Claim, duration: float) -> None:
        """All of a claim has ended."""
        tally = claim.tally
        event = BatchCompleted(
            **self._worker(),
            queue_id=claim.queue_id,
            batch_size=claim.size,
            succeeded=tally.get("succeeded", 0),
            failed=tally.get("failed", 0) + tally.get("retried", 0),
            batch_duration=duration,
        )
        await self._listeners.emit("on_batch_completed", event)

    def _about(self, queue_id: str) -> dict[str, Any]:
        return {
            "consumer_id": f"{self._worker_id}:{queue_id}",
            "queue_id": queue_id,
            "worker_id": self._worker_id,
            "started_at": self._consumers.get(queue_id, self._started_at),
        }

    def _worker(self) -> dict[str, Any]:
        return {
            "worker_id": self._worker_id,
            "hostname": socket.gethostname(),
            "pid": os.getpid(),
            "started_at": self._started_at,
            "enabled_queues": self._queues,
        }

    def _worker_stats(self) -> dict[str, Any]:
        ids = self._running_ids()
        running = {"tasks_running": len(ids), "current_task": ids[0] if len(ids) == 1 else None}
        return self._worker() | self._figures.worker_fields() | running

    async def _record(self, ttl: float) -> None:
        if self._archive is None:
            return
        record = WorkerRecord(
            worker_id=self._worker_id,
            hostname=socket.gethostname(),
            pid=os.getpid(),
            queues=self._queues,
            started_at=self._started_at,
            seen_at=self._clock.now(),
            running=len(self._running_ids()),
            processed=self._figures.succeeded + self._figures.failed,
        )
        try:
            await self._archive.record_worker(record, ttl)
        except UnavailableError as error:
            _log.debug("heartbeat not recorded: %s", error)


def memory_usage() -> int:
    """This process's resident memory in bytes; its peak where the system tells no more."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
