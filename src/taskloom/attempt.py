"""An attempt: one run of one task, the `actions` its executor is given, and what it said."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import UNSET

from taskloom.actions import RunSettings, begin_flow, checked_task
from taskloom.clock import Seconds
from taskloom.codec import MAX_RESULT_BYTES, encode_checked, one_line
from taskloom.errors import (
    ForeignTaskError,
    InvalidTaskError,
    NestingError,
    NoOutcomeError,
    TaskloomError,
    TooManyChildrenError,
)
from taskloom.failures import failure_of, repr_of
from taskloom.flows import FlowStep, NewFlow
from taskloom.identity import DerivedIds
from taskloom.log_context import ContextLogger, merge_log_context
from taskloom.outcomes import Delivery, Failure, Outcome, Word
from taskloom.task import EntityRef, FailurePolicy, FlowJoin, Task

__all__ = ["Attempt"]

_log = logging.getLogger("taskloom.task")

NOTHING = msgspec.Raw(b"null")
"""The result None."""


class Attempt(msgspec.Struct, eq=False):
    """One run of one task: its `ExecutorActions`, and what was said through them.

    A struct, for one is made per task.
    """

    delivery: Delivery
    task: Task[Any]
    started: float
    _settings: RunSettings
    word: Word | None = None
    result: Any = UNSET
    failure: Failure | None = None
    _meta: dict[str, Any] | None = None
    _notes: dict[str, Any] | None = None
    _children: list[Task[Any]] | None = None
    _flows: list[NewFlow] | None = None
    _next: Task[Any] | None = None
    _ids: DerivedIds | None = None
    _log: ContextLogger | None = None
    _doom: TaskloomError | None = None
    _added: int = 0
    _closed: bool = False

    # What the executor says.

    @property
    def log(self) -> ContextLogger:
        if self._log is None:
            self._log = ContextLogger(_log, self.log_fields())
        return self._log

    def success(self, task: Task[Any], result: Any = UNSET) -> None:
        if task is not self.task:
            self._own(task)
        if self._first_word(Word.SUCCESS) and result is not UNSET:
            self._keep_result(result)

    def fail(
        self,
        task: Task[Any],
        error: BaseException | str | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> None:
        self._own(task)
        if self._first_word(Word.FAILURE):
            self.failure = failure_of(error)
            self._meta = _kept_meta(meta, self.task)

    def add_tasks(self, tasks: Iterable[Task[Any]], *, parent: Task[Any] | None = None) -> None:
        if parent is not None:
            self._own(parent)
        given = list(tasks)
        if self._closed:
            _log.warning("task %s added %d tasks after its end; ignored", self.task.id, len(given))
            return
        self.claim_room(len(given))
        own = [task for task in given if checked_task(task).id == self.task.id]
        self.take_children([self.adopt(task) for task in given if task.id != self.task.id])
        for task in own:
            self.reschedule(task)

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
        if parent is not None:
            self._own(parent)
        flow, tasks = self.make_flow(
            steps, join, failure_policy=failure_policy, timeout=timeout, entity=entity
        )
        if self._closed:
            _log.warning("task %s started a flow after its end; ignored", self.task.id)
        else:
            self.take_flow(flow, tasks)
        return flow.flow_id

    def make_flow(
        self, steps: Sequence[FlowStep], join: FlowJoin, **options: Any
    ) -> tuple[NewFlow, list[Task[Any]]]:
        """A flow as a child of this attempt; nobody knows it yet."""
        return begin_flow(self, self._settings, steps, join, **options)

    def take_flow(self, flow: NewFlow, tasks: Sequence[Task[Any]]) -> None:
        """Keep a flow until this task settles."""
        self._flows = [*(self._flows or ()), flow]
        self.take_children(tasks)

    def reschedule(self, task: Task[Any]) -> None:
        """The task gives itself another time, or other fields, instead of an outcome."""
        if self._first_word(Word.RESCHEDULED):
            self._next = self._settings.admit(task)

    # What the runner and `add_tasks` of the handler ask.

    def next_id(self, type: str, queue_id: str, payload: Any) -> str:
        """The id of a task made while this one runs (an `IdSource`)."""
        if self._ids is None:
            task = self.task
            # The time of the attempt is part of its name: a task that rescheduled itself, or was
            # retried by hand, makes new children; one whose worker died has kept its time.
            at = task.execute_at.isoformat()
            self._ids = DerivedIds(f"{task.id}:{task.retry_count}:{at}")
        return self._ids.next_id(type, queue_id, payload)

    def adopt(self, task: Task[Any]) -> Task[Any]:
        """`task` as a child of this one: with its log context, one level deeper, checked."""
        metadata, parent = checked_task(task).metadata, self.task.metadata
        depth = parent.depth + 1
        if depth > self._settings.max_depth:
            self._doom = NestingError(
                f"{self.task.type!r} is {parent.depth} tasks deep and max_depth is "
                f"{self._settings.max_depth}: a task that adds itself without end? To repeat a "
                "task, let it add itself under its own id"
            )
            raise self._doom
        context = merge_log_context(parent.log_context, metadata.log_context)
        grown = msgspec.structs.replace(metadata, log_context=context, depth=depth)
        return self._settings.admit(msgspec.structs.replace(task, metadata=grown))

    def claim_room(self, count: int) -> None:
        """Count children before any of them is taken; too many fail the attempt."""
        self._added += count
        if self._added > self._settings.max_children:
            self._doom = TooManyChildrenError(
                f"{self.task.type!r} added {self._added:,} tasks in one execution; "
                f"max_children is {self._settings.max_children:,}. None of them was added"
            )
            raise self._doom

    def take_children(self, children: Sequence[Task[Any]]) -> None:
        """Keep tasks until this one settles."""
        if self._children is None:
            self._children = []
        self._children.extend(children)

    def log_fields(self) -> dict[str, str]:
        """The log context of this run; the library's keys win over the user's."""
        fields = dict(self.task.metadata.log_context or ())
        fields["task_id"] = self.task.id
        fields["task_type"] = self.task.type
        fields["worker_id"] = self._settings.worker_id
        return fields

    def doom(self, error: TaskloomError) -> None:
        """Whatever was or will be said: the attempt fails with `error`."""
        self._doom = error

    def end(self, error: BaseException | None, ended: float) -> Outcome:
        """How the run ended: by its first word, else by `error`, else by saying nothing.

        Too many children fail it in any case, also when the executor caught that error. Words that
        come later (from a thread that could not be stopped) change nothing.
        """
        self._closed = True
        if self.word is None or self._doom is not None:
            self.word, self.result, self._next, self._notes = Word.FAILURE, UNSET, None, None
            self.failure = failure_of(self._doom or error or _silence(self.task))
            self._children = self._flows = None
        elif error is not None:
            _log.warning(
                "task %s (%s) raised %s after it had said %s; its word counts",
                self.task.id,
                one_line(self.task.type),
                one_line(repr_of(error)),
                self.word.value,
            )
        return Outcome(
            self.delivery,
            self.word,
            self.result,
            self.failure,
            self._meta,
            self._notes,
            tuple(self._children) if self._children else (),
            self._next,
            0.0,
            tuple(self._flows) if self._flows else (),
            self.started,
            ended,
        )

    def _own(self, task: Task[Any]) -> None:
        if checked_task(task).id != self.task.id:
            raise ForeignTaskError(
                f"task {task.id} is not the one this executor was given ({self.task.id})"
            )

    def _first_word(self, word: Word) -> bool:
        if self.word is None and not self._closed:
            self.word = word
            return True
        if self._closed:
            _log.warning("task %s said %s after its end; ignored", self.task.id, word.value)
        elif self.word is not None:
            _log.warning(
                "task %s said %s after %s; the first word counts",
                self.task.id,
                word.value,
                self.word.value,
            )
        return False

    def _keep_result(self, result: Any) -> None:
        if result is None:  # what most functions return
            self.result = NOTHING
            return
        try:
            raw = encode_checked(result, "result", limit=2**62)
        except InvalidTaskError as error:
            self._notes = {"result_dropped": 0}
            _log.warning("task %s: %s; the result is dropped", self.task.id, error)
            return
        if len(raw) > MAX_RESULT_BYTES:
            self._notes = {"result_dropped": len(raw)}
            _log.warning(
                "task %s: its result has %d bytes, more than %d, and is dropped",
                self.task.id,
                len(raw),
                MAX_RESULT_BYTES,
            )
            return
        self.result = msgspec.Raw(raw)


def _silence(task: Task[Any]) -> NoOutcomeError:
    return NoOutcomeError(
        f"the executor of {task.type!r} returned without calling actions.success or actions.fail"
    )


def _kept_meta(meta: Mapping[str, Any] | None, task: Task[Any]) -> dict[str, Any] | None:
    if meta is None:
        return None
    kept = {str(key): value for key, value in meta.items()}
    try:
        encode_checked(kept, "meta", limit=MAX_RESULT_BYTES)
    except InvalidTaskError as error:
        _log.warning("task %s: %s; the meta is dropped", task.id, error)
        return None
    return kept
