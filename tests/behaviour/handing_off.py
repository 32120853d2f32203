"""What tests of handoff share: handlers with a manager, and runs that go on until told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from harness import QUEUE, TYPE, Diary, Engines, Notes, serving
from taskloom import (
    Executor,
    LifecycleConfig,
    Task,
    TaskHandler,
    TaskHandlerConfig,
    TaskQueuesManager,
)
from taskloom.executors import AsyncConfig
from taskloom.handoff import AsyncTaskManager

__all__ = ["SOON", "Held", "Noted", "at_work", "make_handler"]

SOON = AsyncConfig(handoff_timeout=0.02)


class Noted(AsyncTaskManager):
    """Notes the ids it takes over, and what it answers when it is asked for room."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.taken: Notes[str] = Notes()
        self.asked: Notes[bool] = Notes()

    def handoff_task(self, task: Task[Any], *args: Any, **options: Any) -> bool:
        taken = super().handoff_task(task, *args, **options)
        if taken:
            self.taken.note(task.id)
        return taken

    def can_accept_task(self) -> bool:
        answer = super().can_accept_task()
        self.asked.note(answer)
        return answer


class Held:
    """An executor function: each task goes on until `end` names it, then it succeeds.

    The payload is the name. `starts`, `cancelled` and `ended` note names.
    """

    def __init__(self) -> None:
        self.starts: Notes[str] = Notes()
        self.cancelled: Notes[str] = Notes()
        self.ended: Notes[str] = Notes()
        self.gates: dict[str, asyncio.Event] = {}

    async def __call__(self, task: Task[Any], actions: Any) -> None:
        name = task.payload
        gate = self.gates.setdefault(name, asyncio.Event())
        self.starts.note(name)
        try:
            await gate.wait()
        except asyncio.CancelledError:
            self.cancelled.note(name)
            raise
        actions.success(task, name)
        self.ended.note(name)

    def end(self, *names: str) -> None:
        for name in names:
            self.gates.setdefault(name, asyncio.Event()).set()


def make_handler(
    engines: Engines,
    executor: Executor,
    manager: AsyncTaskManager | None,
    *,
    parts: Any = None,
    diary: Diary | None = None,
    **config: Any,
) -> TaskHandler:
    """A handler with a manager; `diary` is told everything, in place."""
    parts = parts or engines.parts
    queues = TaskQueuesManager(parts.queue)
    queues.register(QUEUE, TYPE, executor)
    if diary is not None:
        config |= {"lifecycle_provider": diary, "lifecycle": LifecycleConfig(mode="sync")}
    config = {"clock": engines.clock} | config
    return TaskHandler(
        parts.queue,
        queues,
        parts.storage,
        parts.cache,
        manager,
        config=TaskHandlerConfig(**config),
    )


@asynccontextmanager
async def at_work(handler: TaskHandler) -> AsyncIterator[asyncio.Event]:
    """The handler open, and serving until the end; yields its `stop`."""
    async with handler, serving(handler) as stop:
        yield stop
