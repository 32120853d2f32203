"""Errors as data: text and traceback of whatever user code raised, however broken it is."""

from __future__ import annotations

import traceback

from taskloom.codec import cut
from taskloom.errors import TaskFailedError
from taskloom.outcomes import Failure

__all__ = ["failure_of", "message_of", "repr_of"]


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
    except Exception:
        return f"{type(error).__name__} (its message cannot be shown)"


def repr_of(error: BaseException) -> str:
    """Type and text of an exception, whatever its own methods do."""
    return cut(f"{type(error).__name__}: {message_of(error)}", 500)


def _stack_of(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(error, limit=30, chain=True))
    except Exception:
        return "".join(traceback.format_tb(error.__traceback__, limit=30))
