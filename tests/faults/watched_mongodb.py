"""MongoDB's parts that note what they answer, and at which a process can die between two commands.

`settle.at-NAME` is before a command of a settle, `settle.mid-NAME` after its answer: in a
transaction all of it is undone, without one the next steps are missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from crashing import CrashPoint, Watch
from pymongo import monitoring
from watched import NotingStorage
from watched_flows import Projecting

from taskloom.interfaces import FlowSettled
from taskloom.mongodb import (
    MongoDBDatabase,
    MongoDBFlowBarrier,
    MongoDBProjections,
    MongoDBStorage,
)
from taskloom.outcomes import Settlement

__all__ = [
    "WatchedMongoDBBarrier",
    "WatchedMongoDBProjections",
    "WatchedMongoDBStorage",
    "between_commands",
]

_COMMANDS = {
    ("insert", "taskloom_tasks"): "insert",
    ("update", "taskloom_tasks"): "update",
    ("insert", "taskloom_flows"): "open",
    ("findAndModify", "taskloom_flows"): "count",
    ("update", "taskloom_flows"): "sent",
    ("insert", "taskloom_flow_steps"): "result",
    ("insert", "taskloom_projections"): "project",
    ("update", "taskloom_projections"): "project",
}
"""What a settle writes: tasks that are new, then endings; flows; results of steps; projections."""

_settling: ContextVar[bool] = ContextVar("_settling", default=False)


@contextmanager
def _as_settle() -> Iterator[None]:
    token = _settling.set(True)
    try:
        yield
    finally:
        _settling.reset(token)


class _Between(monitoring.CommandListener):
    """Is told of every command of every client, in the task that sends it."""

    def __init__(self, crash: CrashPoint) -> None:
        self._crash = crash
        self._sent: dict[int, str] = {}

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        if not _settling.get():
            return
        if event.command_name == "commitTransaction":
            self._crash.here("settle.before-commit")
            return
        name = _COMMANDS.get((event.command_name, str(event.command[event.command_name])))
        if name is not None:
            self._sent[event.request_id] = name
            self._crash.here(f"settle.at-{name}")

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        name = self._sent.pop(event.request_id, None)
        if name is not None:
            self._crash.here(f"settle.mid-{name}")

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        self._sent.pop(event.request_id, None)


def between_commands(crash: CrashPoint) -> None:
    """Let this process die between two commands of a settle, if that is its crash point."""
    if crash.name.startswith(("settle.at-", "settle.mid-", "settle.before-commit")):
        monitoring.register(_Between(crash))


class WatchedMongoDBStorage(NotingStorage, MongoDBStorage):
    """Notes what it answers."""

    def __init__(self, database: MongoDBDatabase, watch: Watch) -> None:
        super().__init__(database)
        self.watch = watch

    async def settle(self, plan: Settlement) -> list[str]:
        with _as_settle():
            return await super().settle(plan)


class WatchedMongoDBBarrier(MongoDBFlowBarrier):
    """Beside a watched storage, and noted as its own settles are."""

    def __init__(self, storage: WatchedMongoDBStorage) -> None:
        super().__init__(storage)
        self._watched = storage

    async def settle(self, plan: Settlement) -> FlowSettled:
        with _as_settle():
            settled, since = await self._watched.watch.around("settle", super().settle(plan))
        self._watched.note_settle(plan, settled.refused, since)
        return settled


class WatchedMongoDBProjections(Projecting, MongoDBProjections):
    """Dies, if told to, before or after a call."""

    def __init__(self, storage: MongoDBStorage, watch: Watch) -> None:
        super().__init__(storage)
        self.watch = watch
