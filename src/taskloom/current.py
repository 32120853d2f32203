"""What runs here: the one context variable that everything inside an executor follows."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any, Protocol

__all__ = ["Running", "running"]


class Running(Protocol):
    """One attempt of a task, or one call of a multi executor."""

    def log_fields(self) -> dict[str, str]:
        """The task's own keys, then task_id, task_type and worker_id, which win.

        In a multi executor worker_id and batch_size only.
        """
        ...

    def next_id(self, type: str, queue_id: str, payload: Any) -> str:
        """The id of a task that is made here."""
        ...


running: ContextVar[Running | None] = ContextVar("taskloom_running", default=None)
"""Set around each call of an executor. It follows `await`, child asyncio tasks and `to_thread`."""
