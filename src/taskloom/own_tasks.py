"""The tasks of one decorated function: how they are made, and where they go in."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol

from taskloom.clock import Clock
from taskloom.current import running
from taskloom.enqueue_options import EnqueueOptions, TaskFields
from taskloom.flows import FlowStep
from taskloom.identity import new_id
from taskloom.task import Task

if TYPE_CHECKING:
    from taskloom.interfaces.transaction import SqlConnection

__all__ = ["Door", "OwnTasks", "place_of", "tasks_of"]


class Door(Protocol):
    """Where a function's tasks go in: a Loom."""

    @property
    def clock(self) -> Clock:
        """What `delay` and `expires_in` count from."""
        ...

    async def add_tasks(
        self, tasks: Iterable[Task[Any]], *, connection: SqlConnection | None = None
    ) -> list[Task[Any]]:
        """As on the handler."""
        ...


class OwnTasks:
    """Makes and adds the tasks of one function, with one set of options."""

    def __init__(self, type: str, queue: str, door: Door, fields: TaskFields) -> None:
        self.type = type
        self.queue = queue
        self.door = door
        self._fields = fields

    def with_options(self, options: EnqueueOptions) -> OwnTasks:
        return OwnTasks(self.type, self.queue, self.door, TaskFields(options))

    async def add(self, payloads: list[Any]) -> list[Task[Any]]:
        """One task per payload, in one call of `add_tasks`; none for none."""
        if not payloads:
            return []
        fields = self._fields.at(self.door.clock.now())
        fields |= {"type": self.type, "queue_id": self.queue}
        if running.get() is None:
            # A task that is made whole is checked once, when the door admits it.
            tasks = [Task(id=new_id(), payload=payload, **fields) for payload in payloads]
        else:
            tasks = [Task(payload=payload, **fields) for payload in payloads]
        return await self.door.add_tasks(tasks, connection=self._fields.connection)

    def step(self, payload: Any, where: str) -> FlowStep:
        """A step with this payload; `TypeError` for options that no step has."""
        for name in self._fields.given - {"entity"}:
            raise TypeError(f"{where}: a step has no {name!r}; of the options it takes only entity")
        return FlowStep(self.type, self.queue, payload, self._fields.entity)


def tasks_of(type: str, queue: str, door: Door) -> OwnTasks:
    """What a decorated function adds its tasks with, before any options."""
    return OwnTasks(type, queue, door, TaskFields({}))


def place_of(function: Callable[..., Any]) -> str:
    """Where a function is defined, for people."""
    return f"{function.__module__}.{function.__qualname__}"
