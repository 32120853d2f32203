"""Errors as data: text and traceback of whatever user code raised, however broken it is."""

from __future__ import annotations

import traceback
from types import TracebackType
from typing import Any

from taskloom.codec import cut
from taskloom.errors import TaskFailedError
from taskloom.outcomes import Failure

__all__ = ["failure_of", "message_of", "repr_of"]

_TRACEBACK: Any = BaseException.__dict__["__traceback__"]


def failure_of(error: BaseException | str | None) -> Failure:
    """`error` as data: cut to 8 KiB, also when its `__str__` raises."""
    if isinstance(error, BaseException):
        return Failure(error, cut(message_of(error)), cut(_stack_of(error)))
    message = cut(error if isinstance(error, str) else "the executor gave no reason")
    return Failure(TaskFailedError(message), message)


def message_of(error: BaseException) -> str:
    """The text of an exception; its type's name where there is none or it cannot be made."""
    try:
        return str(error) or type(error).__name__
    except BaseException:  # its own code, which may raise anything: SystemExit must not get out
        return f"{type(error).__name__} (its message cannot be shown)"


def repr_of(error: BaseException) -> str:
    """Type and text of an exception, whatever its own methods do."""
    return cut(f"{type(error).__name__}: {message_of(error)}", 500)


def _stack_of(error: BaseException) -> str:
    # By the slot, not by the attribute: an exception can have a __getattribute__ of its own.
    trace = _users_part(_TRACEBACK.__get__(error))
    try:
        return "".join(traceback.format_exception(type(error), error, trace, limit=30))
    except BaseException:
        return "".join(traceback.format_tb(trace, limit=30))


def _users_part(trace: TracebackType | None) -> TracebackType | None:
    """The traceback from where user code begins; all of it when there is none in it."""
    part = trace
    while part is not None and _is_ours(part):
        part = part.tb_next
    return part or trace


def _is_ours(trace: TracebackType) -> bool:
    return str(trace.tb_frame.f_globals.get("__name__", "")).startswith("taskloom.")
