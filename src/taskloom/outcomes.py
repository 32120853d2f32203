"""How runs ended, and what is to be written: values only.

Those made once per task are not tracked by the garbage collector (`gc=False`): nothing they hold
refers back to them, and tracking would cost more than making them.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from msgspec import UNSET, Struct

from taskloom.flows import FlowStepResult, NewFlow
from taskloom.projections import EntityTaskProjection
from taskloom.task import Task, TaskStatus

__all__ = ["Delivery", "Ending", "Failure", "Outcome", "Settlement", "UnreadableRecord", "Word"]


class Delivery(Struct, frozen=True, eq=False, gc=False):
    """A claimed task: ours until its lease ends.

    `receipt` belongs to the engine that made it. `delivery_count` is 1 at the first delivery and
    grows with each lease that ran out; a release does not count, a settle starts it again.
    """

    task: Task[Any]
    receipt: Any
    delivery_count: int = 1


class UnreadableRecord(Struct, frozen=True, eq=False):
    """A claimed record that is not a task: to be set aside with its bytes, never dropped."""

    raw: bytes
    reason: str
    receipt: Any
    delivery_count: int
    queue_id: str


class Word(StrEnum):
    """How one delivery ended for the worker that held it."""

    SUCCESS = "success"
    FAILURE = "failure"
    RESCHEDULED = "rescheduled"
    """The task gave itself a new time; the attempt neither succeeded nor failed."""
    IGNORED = "ignored"
    """No executor is registered for it."""
    EXPIRED = "expired"
    POISON = "poison"
    """Delivered too often without ever being settled."""
    CANCELLED = "cancelled"
    """Not run, and nobody is to run it: the flow of this step has ended."""
    RELEASED = "released"
    """Not run, or cancelled in the middle: someone else is to run it."""
    LOST = "lost"
    """The lease is gone: whatever happened counts for nothing."""


class Failure(Struct, frozen=True, eq=False):
    """An error as data, and the exception itself while it is still in this process."""

    error: BaseException
    message: str
    stack: str | None = None
    """The traceback; None where a text was given."""


class Outcome(Struct, frozen=True, eq=False, gc=False):
    """How one delivery ended, before anyone has decided what follows from it."""

    delivery: Delivery
    word: Word
    result: Any = UNSET
    """UNSET, or JSON as `msgspec.Raw`: encoded once, and nobody can change it afterwards."""
    failure: Failure | None = None
    meta: dict[str, Any] | None = None
    """What the executor added to `execution_stats`; cannot overwrite the library's own keys."""
    notes: dict[str, Any] | None = None
    """What the library adds to `execution_stats`."""
    children: tuple[Task[Any], ...] = ()
    next: Task[Any] | None = None
    """The task as it rescheduled itself."""
    delay: float = 0.0
    """How long a released task is to rest, in seconds."""
    flows: tuple[NewFlow, ...] = ()
    """Flows it started; their steps are among `children`."""
    started: float = 0.0
    """When the run began, on the clock's monotonic scale; 0: it never ran."""
    ended: float = 0.0


class Ending(Struct, frozen=True, eq=False, gc=False):
    """What is to be written about one delivery."""

    delivery: Delivery
    status: TaskStatus
    """Terminal; or SCHEDULED / QUEUED, when `next` says how the task goes on."""
    result: Any = UNSET
    stats: dict[str, Any] | None = None
    """All of `execution_stats` as it is now; None: as the record has it."""
    next: Task[Any] | None = None
    children: tuple[Task[Any], ...] = ()
    """Tasks that exist exactly if this ending was accepted."""
    flows: tuple[NewFlow, ...] = ()
    """Flows that exist exactly if it was."""
    step: FlowStepResult | None = None
    """How the step of a flow ended for good; the flow is in the task's metadata."""
    projections: tuple[EntityTaskProjection, ...] = ()
    """Rows for the projections of the same engine, written exactly if it was accepted."""


class Settlement(Struct, frozen=True, eq=False):
    """One atomic write of a storage. Its parts are independent of each other.

    - `endings` are fenced by the lease of their delivery where the storage gave it (`fenced`).
      Otherwise the delivery belongs to a queue of its own: the stored row is written whatever its
      lease, made when it is not there and `next` or a terminal status asks for it, but never
      changed once it is terminal.
    - `cancelled` ids end as CANCELLED if they are SCHEDULED or QUEUED; `reason` is kept in their
      `execution_stats` as `cancelled_reason`.
    - `revived` tasks go from a terminal status back to waiting, as they stand here.
    - `unqueued` ids go from QUEUED back to SCHEDULED: the queue did not take them.
    - `added` tasks are new; an id that is known is left as it is.
    - `flows` are new; one that is known is left as it is.

    What flows and steps say is for `FlowBarrier.settle`; a storage alone passes over it.
    """

    endings: tuple[Ending, ...] = ()
    fenced: bool = True
    added: tuple[Task[Any], ...] = ()
    flows: tuple[NewFlow, ...] = ()
    cancelled: tuple[str, ...] = ()
    reason: str = ""
    projecting: bool = False
    """Whether rows of `EntityProjections` are to be written for flows that end by this plan."""
    revived: tuple[Task[Any], ...] = ()
    unqueued: tuple[str, ...] = ()
