"""Logging of a worker: one line per record, with the context of the task it belongs to."""

from __future__ import annotations

import logging
from enum import StrEnum

from taskloom.codec import one_line
from taskloom.log_context import LogContextFilter

__all__ = ["LogLevel", "set_up_logging"]

_FORMAT = "%(asctime)s %(levelname)-7s %(process)d %(name)s: %(message)s %(log_context_text)s"


class LogLevel(StrEnum):
    """What is logged: this, and what is worse."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class _OneLine(logging.Formatter):
    """A message stays one line, whatever a task put into it; a traceback follows on its own."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return one_line(super().formatMessage(record).rstrip())


def set_up_logging(level: LogLevel) -> None:
    """Log to stderr, unless the application has set up logging itself when it was imported."""
    root = logging.getLogger()
    if root.handlers:
        return
    handler = logging.StreamHandler()
    handler.addFilter(LogContextFilter())
    handler.setFormatter(_OneLine(_FORMAT))
    root.addHandler(handler)
    root.setLevel(level.value.upper())
