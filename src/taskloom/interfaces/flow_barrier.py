"""FlowBarrier: counts the steps of flows, each once, and knows which joins are to be handed over.

A flow is `open` while steps are missing, `ready` when its join is to be handed over (all counted,
or aborted, or timed out), `sent` when that was done. It never goes back.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

from msgspec import Struct

from taskloom.flows import FlowEnd, FlowStepResult, NewFlow
from taskloom.interfaces.opening import Opening
from taskloom.interfaces.task_storage import TaskStorage
from taskloom.outcomes import Settlement
from taskloom.task import Task

__all__ = ["BarrierState", "FlowBarrier", "FlowNews", "FlowRecord", "FlowSettled"]


class BarrierState(Struct, frozen=True):
    """Where a flow stands after its steps were recorded."""

    remaining: int
    """Steps that have not counted. 0: all have (also afterwards). -1: the flow is unknown, aborted
    or timed out, and nothing was counted; or it was aborted just now."""
    joined: bool = False
    """The join was handed over, and this was noted."""
    aborted: bool = False
    """Aborted or timed out."""
    timed_out: bool = False
    known: bool = True
    """False: there is no such flow (any more)."""


class FlowRecord(Struct, frozen=True):
    """A flow as its barrier knows it."""

    flow: NewFlow
    state: Literal["open", "ready", "sent"]
    end: FlowEnd | None
    """None while it is open."""
    counted: int
    """Steps that have counted."""
    failed: int
    """Those of them that failed."""
    started_at: datetime
    ended_at: datetime | None
    """When it left `open`."""
    trigger: int | None = None
    """The index of the step whose failure aborted it."""


class FlowNews(Struct, frozen=True):
    """A flow whose join was handed over just now."""

    record: FlowRecord
    join: Task[Any]
    cancelled: tuple[str, ...] = ()
    """Ids of its steps that had not started and were cancelled."""


class FlowSettled(Struct, frozen=True):
    """What a settle with flows came to."""

    refused: list[str]
    """As `TaskStorage.settle` returns."""
    news: list[FlowNews]


class FlowBarrier(Opening, ABC):
    """What flows need of an engine.

    Every method is one atomic write and safe to repeat. All raise `StorageUnavailableError` when
    the engine cannot be reached.
    """

    storage: TaskStorage | None = None
    """The storage that this barrier shares its transactions with; then `settle` is there."""

    @abstractmethod
    async def init_barrier(
        self, flow_id: str, total_steps: int, *, join: Task[Any] | None = None
    ) -> None:
        """Open a flow; a known one is left as it is, whatever its state.

        `join` is kept for `unsent`: a flow without one is never found there.
        """

    @abstractmethod
    async def record_steps(
        self, flow_id: str, results: Sequence[FlowStepResult], *, abort: bool = False
    ) -> BarrierState:
        """Count steps of an open flow; of each index the first result stays.

        `abort`: then abort it, if it was still open before this call, also when the last step is
        among `results`. A flow that is complete stays complete; one that is aborted or timed out
        counts nothing. An index outside the flow is a `ValueError`.
        """

    @abstractmethod
    async def get_step_results(self, flow_id: str) -> list[FlowStepResult]:
        """What counted, ordered by index; empty for an unknown flow."""

    @abstractmethod
    async def mark_aborted(self, flow_id: str, *, timed_out: bool = False) -> bool:
        """End an open flow early. True the first time only; False once complete, or unknown."""

    @abstractmethod
    async def mark_joined(self, flow_id: str) -> bool:
        """Note that the join of a `ready` flow was handed over. True the first time only."""

    @abstractmethod
    async def is_complete(self, flow_id: str) -> bool:
        """Whether the flow ended with all its steps counted: one that was aborted never is."""

    @abstractmethod
    async def get_started_at(self, flow_id: str) -> datetime | None:
        """When the flow was opened; None for an unknown one."""

    @abstractmethod
    async def get_flow(self, flow_id: str) -> FlowRecord | None:
        """The flow; None for an unknown one, or one that was opened without a join."""

    @abstractmethod
    async def search(self, *, limit: int = 50, after: str | None = None) -> list[FlowRecord]:
        """Flows, the newest first. `after`: the last id of the page before."""

    @abstractmethod
    async def unsent(self, *, ready_before: datetime, limit: int) -> list[FlowRecord]:
        """Flows that have been `ready` since before that time, and whose join nobody noted.

        Whoever was to hand it over died: hand it over again, its id makes it one.
        """

    @abstractmethod
    async def prune(self, *, sent_before: datetime, limit: int) -> int:
        """Forget at most `limit` flows whose join was handed over before a time. How many."""

    def within(self, storage: TaskStorage) -> FlowBarrier:
        """This barrier on `storage.within(...)`, in the same transaction; no I/O."""
        raise NotImplementedError(f"{type(self).__name__} shares no storage")

    async def settle(self, plan: Settlement) -> FlowSettled:
        """`plan`, its flows and its steps in one transaction of `storage`.

        Opens the flows, counts the steps of endings that were accepted, first all steps, then
        sentinels (`metadata.flow.is_timeout`); steps among `cancelled` count as failed. Hands over
        the joins that are ready by adding them, and cancels the steps of aborted and timed-out
        flows that have not started.
        """
        raise NotImplementedError(f"{type(self).__name__} shares no storage")
