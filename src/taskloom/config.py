"""TaskHandlerConfig: everything about a worker that has a sensible default."""

from __future__ import annotations

import os
import secrets
import socket
import time
from dataclasses import dataclass, field

from taskloom.clock import SYSTEM_CLOCK, Clock, Seconds, seconds
from taskloom.flow_events import FlowLifecycleProvider
from taskloom.interfaces import EntityProjections, FlowBarrier
from taskloom.lifecycle import LifecycleConfig, TaskLifecycleProvider, WorkerLifecycleProvider

__all__ = ["Retention", "TaskHandlerConfig", "make_worker_id"]

_DAY = 86_400.0


@dataclass(frozen=True, kw_only=True)
class Retention:
    """How long ended tasks are kept, in seconds since their end; None: for ever."""

    executed: Seconds | None = _DAY
    failed: Seconds | None = None
    expired: Seconds | None = 7 * _DAY
    ignored: Seconds | None = None
    cancelled: Seconds | None = 7 * _DAY

    def __post_init__(self) -> None:
        for name in ("executed", "failed", "expired", "ignored", "cancelled"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, seconds(value, f"retention.{name}"))


@dataclass(frozen=True, kw_only=True)
class TaskHandlerConfig:
    """Options of a `TaskHandler`. Durations are seconds or `timedelta`s.

    Raises `ValueError` naming the option that makes no sense.
    """

    lifecycle_provider: TaskLifecycleProvider | None = None
    worker_provider: WorkerLifecycleProvider | None = None
    lifecycle: LifecycleConfig = field(default_factory=LifecycleConfig)
    flow_barrier: FlowBarrier | None = None
    """Counts the steps of flows; without one, starting a flow is an error."""
    flow_lifecycle_provider: FlowLifecycleProvider | None = None
    """Told about flows; a handler without a flow_barrier refuses it."""
    entity_projections: EntityProjections | None = None
    """Where to write what becomes of tasks that have an `entity`."""
    projection_include_payload: bool = False
    """Whether those rows hold the payload."""
    lease: Seconds = 60.0
    """How long a claim lasts without renewal; a dead worker's tasks run elsewhere after it."""
    storage_horizon: Seconds = 120.0
    """What is due later than this waits in the storage, not on the queue."""
    mature_interval: Seconds = 5.0
    """How often due tasks are moved from storage to queue, and ended ones are pruned."""
    stale_after: Seconds = 172_800.0
    """When a stored task that its queue never delivered is put there again."""
    max_deliveries: int = 5
    """Deliveries without an outcome before a task is failed as poison."""
    shutdown_grace_period: Seconds = 10.0
    """How long what runs may go on after `stop`."""
    max_children: int = 10_000
    """Tasks that one execution may add."""
    max_depth: int = 64
    """Tasks that add tasks that add tasks …"""
    retention: Retention = field(default_factory=Retention)
    stats_threshold: int = 1000
    """Tasks after which a queue's figures go to the notification provider."""
    stats_failure_threshold: int = 100
    """Failures after which they do."""
    instance_id: str = ""
    """Names this process in figures; empty: the worker's id."""
    clock: Clock = SYSTEM_CLOCK

    def __post_init__(self) -> None:
        for name in (
            "lease",
            "storage_horizon",
            "mature_interval",
            "stale_after",
            "shutdown_grace_period",
        ):
            object.__setattr__(self, name, seconds(getattr(self, name), name))
        for name in ("lease", "mature_interval"):
            if getattr(self, name) == 0:
                raise ValueError(f"{name} must be more than 0 seconds")
        for name in (
            "max_deliveries",
            "max_children",
            "max_depth",
            "stats_threshold",
            "stats_failure_threshold",
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}")


def make_worker_id() -> str:
    """`hostname-pid-start`, with a few random letters: a restart is never taken for its past."""
    start = int(time.time() * 1000)
    return f"{socket.gethostname()}-{os.getpid()}-{start}-{secrets.token_hex(3)}"
