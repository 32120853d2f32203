"""What is told about flows: event values and the provider that receives them."""

from __future__ import annotations

from collections.abc import Awaitable
from datetime import datetime
from typing import TypeAlias

from msgspec import Struct

from taskloom.task import EntityRef, FailurePolicy, FlowJoin

__all__ = [
    "FlowAborted",
    "FlowCompleted",
    "FlowContext",
    "FlowLifecycleProvider",
    "FlowStarted",
    "FlowTimedOut",
]

Reply: TypeAlias = Awaitable[None] | None


class FlowContext(Struct, frozen=True, kw_only=True):
    """Which flow. `consumer_id` is there when a task started it, and only when it starts."""

    flow_id: str
    total_steps: int
    join: FlowJoin
    failure_policy: FailurePolicy
    entity: EntityRef | None = None
    worker_id: str | None = None
    consumer_id: str | None = None


class FlowStarted(FlowContext, frozen=True, kw_only=True):
    """A flow exists: told when the task that started it settles, or `start_flow` returns."""

    started_at: datetime
    step_types: list[str]
    """Each type once, in the order of the steps."""


class FlowCompleted(FlowContext, frozen=True, kw_only=True):
    """All steps have counted and the join is handed over."""

    flow_duration: float
    """Since the flow started."""
    steps_succeeded: int
    steps_failed: int


class FlowAborted(FlowContext, frozen=True, kw_only=True):
    """A step failed for good, and that ends the flow."""

    flow_duration: float
    steps_completed: int
    trigger_step_index: int | None
    """The step that failed."""


class FlowTimedOut(FlowContext, frozen=True, kw_only=True):
    """Its time was over before all steps had counted."""

    flow_duration: float
    steps_completed: int


class FlowLifecycleProvider:
    """Told what happens to flows. Override what you need, as `def` or `async def`."""

    def on_flow_started(self, event: FlowStarted) -> Reply: ...
    def on_flow_completed(self, event: FlowCompleted) -> Reply: ...
    def on_flow_aborted(self, event: FlowAborted) -> Reply: ...
    def on_flow_timed_out(self, event: FlowTimedOut) -> Reply: ...
