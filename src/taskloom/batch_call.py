"""A batch call: one call of a multi executor, the `actions` it is given, and what it said."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import UNSET

from taskloom.actions import RunSettings, begin_flow, checked_task
from taskloom.attempt import Attempt
from taskloom.clock import Seconds
from taskloom.errors import ForeignTaskError, TaskloomError, TooManyChildrenError
from taskloom.flows import FlowStep, NewFlow
from taskloom.identity import FreshIds
from taskloom.log_context import ContextLogger
from taskloom.outcomes import Outcome
from taskloom.task import EntityRef, FailurePolicy, FlowJoin, Task

__all__ = ["BatchCall"]

_log = logging.getLogger("taskloom.task")


class BatchCall:
    """One call of a multi executor: the same words, each about one of its tasks."""

    __slots__ = ("_added", "_doom", "_flows", "_fresh", "_log", "_loose", "_settings", "attempts")

    def __init__(self, attempts: Sequence[Attempt], settings: RunSettings) -> None:
        self.attempts = {attempt.task.id: attempt for attempt in attempts}
        self._settings = settings
        self._fresh = FreshIds()
        self._loose: list[Task[Any]] = []
        self._flows: list[tuple[NewFlow, list[Task[Any]]]] = []
        self._added = 0
        self._log: ContextLogger | None = None
        self._doom: TaskloomError | None = None

    @property
    def log(self) -> ContextLogger:
        if self._log is None:
            self._log = ContextLogger(_log, self.log_fields())
        return self._log

    def success(self, task: Task[Any], result: Any = UNSET) -> None:
        self._attempt(task).success(task, result)

    def fail(
        self,
        task: Task[Any],
        error: BaseException | str | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> None:
        self._attempt(task).fail(task, error, meta)

    def add_tasks(self, tasks: Iterable[Task[Any]], *, parent: Task[Any] | None = None) -> None:
        given = list(tasks)
        if parent is not None:
            attempt = self._attempt(parent)
            attempt.add_tasks([self._derived(checked_task(task), attempt) for task in given])
            return
        own = [task for task in given if checked_task(task).id in self.attempts]
        others = [task for task in given if task.id not in self.attempts]
        self.claim_room(len(others))
        self._loose.extend(self._settings.admit(task) for task in others)
        for task in own:
            self.attempts[task.id].reschedule(task)

    def start_flow(
        self,
        steps: Sequence[FlowStep],
        *,
        join: FlowJoin,
        failure_policy: FailurePolicy = "continue",
        timeout: Seconds | None = None,
        entity: EntityRef | None = None,
        parent: Task[Any] | None = None,
    ) -> str:
        options: dict[str, Any] = {"failure_policy": failure_policy, "timeout": timeout}
        if parent is not None:
            return self._attempt(parent).start_flow(steps, join=join, entity=entity, **options)
        flow, tasks = self.make_flow(steps, join, entity=entity, **options)
        self._flows.append((flow, tasks))
        return flow.flow_id

    def make_flow(
        self, steps: Sequence[FlowStep], join: FlowJoin, **options: Any
    ) -> tuple[NewFlow, list[Task[Any]]]:
        """A flow of the call's own; nobody knows it yet."""
        return begin_flow(self, self._settings, steps, join, **options)

    def next_id(self, type: str, queue_id: str, payload: Any) -> str:
        """A new id: no single task of the call is the parent (an `IdSource`)."""
        return self._fresh.next_id(type, queue_id, payload)

    def adopt(self, task: Task[Any]) -> Task[Any]:
        """`task` checked; it inherits nothing, for no single task is its parent."""
        return self._settings.admit(checked_task(task))

    def claim_room(self, count: int) -> None:
        """As of an attempt, for each task of the call; too many fail all of them."""
        limit = self._settings.max_children * max(1, len(self.attempts))
        self._added += count
        if self._added > limit:
            self._doom = TooManyChildrenError(
                f"a batch of {len(self.attempts)} tasks added more than {limit:,} tasks in one "
                "call. None of them was added"
            )
            raise self._doom

    def log_fields(self) -> dict[str, str]:
        """The log context of the call: no single task's."""
        return {"worker_id": self._settings.worker_id, "batch_size": str(len(self.attempts))}

    def end(self, error: BaseException | None, ended: float) -> list[Outcome]:
        """How each task ended. Tasks added without a parent go with the first that spoke."""
        if self._doom is not None:
            for attempt in self.attempts.values():
                attempt.doom(self._doom)
        spoke = next((a for a in self.attempts.values() if a.word is not None), None)
        if spoke is not None:
            if self._loose:
                spoke.take_children(self._loose)
            for flow, tasks in self._flows:
                spoke.take_flow(flow, tasks)
        return [
            attempt.end(error if attempt.word is None else None, ended)
            for attempt in self.attempts.values()
        ]

    def _attempt(self, task: Task[Any]) -> Attempt:
        attempt = self.attempts.get(checked_task(task).id)
        if attempt is None:
            raise ForeignTaskError(f"task {task.id} is not part of this call")
        return attempt

    def _derived(self, task: Task[Any], attempt: Attempt) -> Task[Any]:
        if task.id not in self._fresh.given:
            return task  # its id was chosen; it stays
        id = attempt.next_id(task.type, task.queue_id, task.payload)
        return msgspec.structs.replace(task, id=id)
