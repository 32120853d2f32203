"""Values that nobody else holds: what memory engines keep and give out.

Everything goes through JSON, as it would in an engine outside the process, so that code tested
here sees the same values there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import UNSET
from msgspec.structs import force_setattr

from taskloom.codec import decode, encode, to_builtins
from taskloom.task import Task

__all__ = ["copied", "copied_task", "keep", "thaw"]

_decode_task = msgspec.json.Decoder(Task[Any]).decode
# In msgspec, not in its stubs; a third of the price of `copy.copy`.
_copy: Callable[[Task[Any]], Task[Any]] = Task.__copy__  # type: ignore[attr-defined]


def copied(value: Any) -> Any:
    """`value` after a trip through JSON; UNSET and None stay what they are."""
    return value if value is UNSET or value is None else to_builtins(value)


def copied_task(task: Task[Any]) -> Task[Any]:
    """The same task, sharing nothing that can change."""
    return _decode_task(encode(task))


def keep(task: Task[Any]) -> tuple[Task[Any] | None, bytes]:
    """What `thaw` makes the task from, whatever its maker does to the payload later.

    Most tasks have only one part that can change, their payload: then the task stays and only the
    payload is encoded, a third of the price. Otherwise all of it is.
    """
    if (
        task.execution_stats
        or task.execution_result is not UNSET
        or task.metadata.log_context is not None
    ):
        return None, encode(task)
    return task, encode(task.payload)


def thaw(shell: Task[Any] | None, raw: bytes) -> Task[Any]:
    """A new copy for someone who may change it."""
    if shell is None:
        return _decode_task(raw)
    # Not `structs.replace`, which costs twice as much and would check the task again.
    task = _copy(shell)
    force_setattr(task, "payload", decode(raw))
    force_setattr(task, "execution_stats", {})
    return task
