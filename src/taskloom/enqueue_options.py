"""What `with_` can say about tasks beyond their arguments, and the task fields it becomes."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypedDict

from taskloom.clock import Seconds, seconds
from taskloom.task import EntityRef, TaskMetadata

if TYPE_CHECKING:
    from taskloom.interfaces.transaction import SqlConnection

__all__ = ["EnqueueOptions", "TaskFields"]


class EnqueueOptions(TypedDict, total=False):
    """The arguments of `with_`; None is as if not given."""

    delay: Seconds | None
    """Due so many seconds from now."""
    at: datetime | None
    """Due at this time; aware. Not together with `delay`."""
    expires_in: Seconds | None
    """Not started within so many seconds from now: expired, never run."""
    entity: EntityRef | None
    """The thing of your domain that the task works on."""
    log_context: Mapping[str, str] | None
    """Keys that follow the task into every log line."""
    partition_key: str | None
    """Tasks with equal keys are kept in order where the queue can do that."""
    task_hash: str | None
    """Of the tasks with one hash, one runs at a time."""
    force_store: bool | None
    """Keep the task in the storage even when it is due now."""
    retries: int | None
    """How many retries, in place of the function's."""
    retry_after: Seconds | None
    """Base delay of the retries."""
    connection: SqlConnection | None
    """Added in the transaction of this connection or session, if and when it is committed."""


_COPIED = ("entity", "partition_key", "task_hash", "force_store", "retries", "retry_after")
_KNOWN = EnqueueOptions.__annotations__.keys()


class TaskFields:
    """Checked options; `at(now)` makes them fields of tasks that are added now.

    Raises `TypeError` for an option that does not exist, `ValueError` naming the option for a
    naive time, a negative duration, `delay` with `at`, or an expiry before the task is due.
    """

    def __init__(self, options: EnqueueOptions) -> None:
        given: dict[str, Any] = {key: value for key, value in options.items() if value is not None}
        for name in options.keys() - _KNOWN:
            raise TypeError(f"with_() got an unexpected keyword argument {name!r}")
        if "delay" in given and "at" in given:
            raise ValueError("delay and at: give one of them, not both")
        self.given = given.keys()
        """The names of the options that are not None."""
        self.entity: EntityRef | None = given.get("entity")
        self.connection: SqlConnection | None = given.get("connection")
        self._delay = _duration(given, "delay") or 0.0
        self._expires_in = _duration(given, "expires_in")
        self._at = _moment(given.get("at"))
        self._fixed = {name: given[name] for name in _COPIED if name in given}
        if given.get("log_context"):
            context = dict(given["log_context"])
            self._fixed["metadata"] = TaskMetadata(log_context=context)

    def at(self, now: datetime) -> dict[str, Any]:
        """Keyword arguments for `Task`; all tasks of one call share them."""
        due = self._at or (now + timedelta(seconds=self._delay) if self._delay else now)
        fields = {"execute_at": due, "created_at": now, "updated_at": now, **self._fixed}
        if self._expires_in is not None:
            fields["expires_at"] = now + timedelta(seconds=self._expires_in)
            if fields["expires_at"] <= due and due > now:
                raise ValueError("expires_in: counts from now and ends before the task is due")
        return fields


def _duration(given: Mapping[str, Any], name: str) -> float | None:
    return seconds(given[name], name) if name in given else None


def _moment(value: object) -> datetime | None:
    if value is None:
        return None
    if not isinstance(value, datetime):
        raise TypeError(f"at must be a datetime, not {type(value).__name__}")
    if value.tzinfo is None:
        raise ValueError(f"at: {value.isoformat()} has no time zone; use datetime.now(UTC)")
    return value.astimezone(UTC)
