"""A SQLite storage that notes what it answers, and at which a process can be made to die.

The parts of Taskloom are subclassed at their public methods; the library itself has no hooks.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from datetime import datetime
from typing import Any, Concatenate, ParamSpec, TypeVar

from recorder import Recorder
from sqlalchemy import Connection

from taskloom.outcomes import Delivery, Settlement, UnreadableRecord
from taskloom.sql import SqlDatabase, SqlStorage
from taskloom.task import Task, TaskStatus

__all__ = ["CrashPoint", "WatchedDatabase", "WatchedStorage"]

P = ParamSpec("P")
T = TypeVar("T")

SLOW = 0.3
"""Seconds from which a call counts as a stall of its process: a third of a lease of one second."""

OPERATIONS = 5
"""Steps of SQLite's machine between two looks at whether to die inside a statement."""


_INSIDE = {
    "settle.mid-insert": ("INSERT", "taskloom_tasks"),
    "settle.mid-update": ("UPDATE", "taskloom_tasks"),
    "settle.mid-count": ("INSERT", "taskloom_flow_steps"),
    "settle.at-flow": ("UPDATE", "taskloom_flows"),
    "settle.at-project": ("INSERT", "taskloom_projections"),
}
"""Statements of a settle that a process can die in the middle of, or at whose start."""


class CrashPoint:
    """`kill -9` of this process at the `nth` time it comes to `name`; "" never."""

    def __init__(self, name: str, nth: int, recorder: Recorder) -> None:
        self.name = name
        self._left = nth
        self._recorder = recorder
        self.in_transaction: str = ""
        """The call whose transaction is under way, for points inside of it."""

    def here(self, name: str) -> None:
        """The process is at `name`."""
        if name != self.name:
            return
        self._left -= 1
        if self._left <= 0:
            self.die()

    def die(self) -> None:
        """End as a `kill -9` from outside would."""
        self._recorder.write("fault", word="own-end", target=os.getpid(), call=self.name)
        os.kill(os.getpid(), signal.SIGKILL)

    def arm(self, driver: sqlite3.Connection) -> None:
        """Inside a transaction: die in the middle, or at the start, of a statement of a kind."""
        inside = _INSIDE.get(self.name)
        if inside is None:
            return
        verb, table = inside

        def die_within() -> int:
            self.here(self.name)
            return 0

        def watch(statement: str) -> None:
            wanted = statement.lstrip().startswith(f"{verb} ") and table in statement
            if wanted and self.name.startswith("settle.at-"):
                self.here(self.name)
            driver.set_progress_handler(die_within if wanted else None, OPERATIONS)

        driver.set_trace_callback(watch)


class WatchedDatabase(SqlDatabase):
    """Dies, if told to, when a transaction is written and not committed."""

    crash: CrashPoint

    async def write(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        crash, name = self.crash, work.__name__

        def watched(conn: Connection) -> T:
            driver = conn.connection.dbapi_connection
            assert isinstance(driver, sqlite3.Connection)
            if name == "settle":
                crash.arm(driver)
            answer = work(conn, *args, **kwargs)
            crash.here(f"{name}.before-commit")
            return answer

        return await super().write(watched)


class WatchedStorage(SqlStorage):
    """Notes claims, renewals, releases and settles with what the storage answered."""

    def __init__(self, database: WatchedDatabase, recorder: Recorder, crash: CrashPoint) -> None:
        super().__init__(database)
        database.crash = crash
        self._recorder = recorder
        self._crash = crash
        self.draining = False

    async def call(self, name: str, call: Coroutine[Any, Any, T]) -> tuple[T, float]:
        """Await `call`, dying before or after it if told to; its answer, and when it began."""
        since = time.monotonic()
        try:
            self._here(f"{name}.before")
        except BaseException:
            call.close()
            raise
        answer = await call
        self._here(f"{name}.after")
        if time.monotonic() - since > SLOW:
            self._recorder.write("fault", word="stall", target=os.getpid(), since=since, call=name)
        return answer, since

    def _here(self, point: str) -> None:
        self._crash.here(point)
        if self.draining:
            self._crash.here(f"drain.{point}")

    async def add(self, tasks: Sequence[Task[Any]]) -> list[Task[Any]]:
        return (await self.call("add", super().add(tasks)))[0]

    async def claim_records(
        self, limit: int, *, lease: float, queue_id: str | None = None, now: datetime | None = None
    ) -> list[Delivery | UnreadableRecord]:
        call = super().claim_records(limit, lease=lease, queue_id=queue_id, now=now)
        since = time.monotonic()
        found = await call
        keys = [
            (each.task.id, each.receipt, str(each.delivery_count))
            for each in found
            if isinstance(each, Delivery)
        ]
        if keys:
            self._recorder.write("claim", since=since, lease=lease, keys=keys)
            self._here("claim.after")
        return found

    async def extend_leases(self, deliveries: Sequence[Delivery], lease: float) -> list[Delivery]:
        call = super().extend_leases(deliveries, lease)
        gone, since = await self.call("extend", call)
        keys = _keys(deliveries, gone)
        if gone:
            self._recorder.write("refused", word="extend", keys=_keys(gone, ()))
        self._recorder.write("extend", since=since, lease=lease, keys=keys)
        return gone

    async def give_back(
        self, deliveries: Sequence[Delivery], *, delay: float = 0.0
    ) -> list[Delivery]:
        gone, since = await self.call("release", super().give_back(deliveries, delay=delay))
        self._recorder.write("release", since=since, keys=_keys(deliveries, gone))
        return gone

    async def settle(self, plan: Settlement) -> list[str]:
        refused, since = await self.call("settle", super().settle(plan))
        self.note_settle(plan, refused, since)
        return refused

    def note_settle(self, plan: Settlement, refused: list[str], since: float) -> None:
        """Note what a settle that began at `since` came to; a barrier's is one too."""
        gone = set(refused)
        keys = [
            (e.delivery.task.id, e.delivery.receipt, _said(e.status, e.delivery.task.id in gone))
            for e in plan.endings
        ]
        self._recorder.write("settle", since=since, keys=keys)
        if any(ending.status is TaskStatus.SCHEDULED for ending in plan.endings):
            self._here("settle-retry.after")

    async def set_aside(self, records: Sequence[UnreadableRecord]) -> None:
        await self.call("set-aside", super().set_aside(records))

    async def recover_stale(self, *, now: datetime, stale_after: float) -> int:
        call = super().recover_stale(now=now, stale_after=stale_after)
        return (await self.call("recover", call))[0]


def make_storage(url: str, recorder: Recorder, crash: CrashPoint) -> WatchedStorage:
    """A watched storage on a SQLite URL."""
    database = WatchedDatabase.from_url(url)
    return WatchedStorage(database, recorder, crash)


def _said(status: TaskStatus, refused: bool) -> str:
    return f"{status.value} refused" if refused else status.value


def _keys(
    deliveries: Iterable[Delivery], without: Iterable[Delivery]
) -> list[tuple[str, int, str]]:
    gone = {id(delivery) for delivery in without}
    return [(d.task.id, d.receipt, "") for d in deliveries if id(d) not in gone]
