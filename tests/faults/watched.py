"""Storages that note what they answer, and at which a process can be made to die: on SQL."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, Concatenate, ParamSpec, TypeVar

from crashing import CrashPoint, Watch, retries
from sqlalchemy import Connection, event

from taskloom.outcomes import Delivery, Settlement, UnreadableRecord
from taskloom.sql import SqlDatabase, SqlStorage
from taskloom.task import Task, TaskStatus

__all__ = ["Arm", "NotingStorage", "WatchedStorage", "arm_postgres", "arm_sqlite", "make_storage"]

P = ParamSpec("P")
T = TypeVar("T")

Arm = Callable[[CrashPoint, Connection], None]
"""Lets a process die in the middle, or at the start, of a statement of this transaction."""

_BEGINNING = 30
"""Characters of a statement that say what it does: "WITH new AS (INSERT INTO" among them."""
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


def _is_at(crash: CrashPoint, statement: str) -> bool:
    inside = _INSIDE.get(crash.name)
    if inside is None:
        return False
    verb, table = inside
    return f"{verb} " in statement[:_BEGINNING] and table in statement


def arm_sqlite(crash: CrashPoint, conn: Connection) -> None:
    """In the middle: while SQLite's machine runs the statement."""
    if crash.name not in _INSIDE:
        return
    driver = conn.connection.dbapi_connection
    assert isinstance(driver, sqlite3.Connection)

    def die_within() -> int:
        crash.here(crash.name)
        return 0

    def watch(statement: str) -> None:
        wanted = _is_at(crash, statement)
        if wanted and crash.name.startswith("settle.at-"):
            crash.here(crash.name)
        driver.set_progress_handler(die_within if wanted else None, OPERATIONS)

    driver.set_trace_callback(watch)


def arm_postgres(crash: CrashPoint, conn: Connection) -> None:
    """In the middle: the server has done the statement, and gets no other one."""
    if crash.name not in _INSIDE:
        return
    starts = crash.name.startswith("settle.at-")

    def watch(conn: Connection, cursor: Any, statement: str, *rest: Any) -> None:
        if _is_at(crash, statement):
            crash.here(crash.name)

    event.listen(conn, "before_cursor_execute" if starts else "after_cursor_execute", watch)


class WatchedDatabase(SqlDatabase):
    """Dies, if told to, when a transaction is written and not committed."""

    crash: CrashPoint
    arm: Arm

    async def write(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        return await super().write(self._watched(work, *args, **kwargs))

    async def write_at_once(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """On PostgreSQL it is committed by then, and the crash point's name is not true."""
        return await super().write_at_once(self._watched(work, *args, **kwargs))

    def _watched(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> Callable[[Connection], T]:
        crash, arm = self.crash, self.arm
        name = work.__name__.removesuffix("_all")  # of a storage alone, or of a barrier with it

        def watched(conn: Connection) -> T:
            if name == "settle":
                arm(crash, conn)
            answer = work(conn, *args, **kwargs)
            crash.here(f"{name}.before-commit")
            return answer

        return watched


class NotingStorage:
    """Notes claims, renewals, releases and settles with what the storage beneath it answered."""

    watch: Watch

    async def add(self, tasks: Sequence[Task[Any]]) -> list[Task[Any]]:
        return (await self.watch.around("add", super().add(tasks)))[0]

    async def claim_records(
        self, limit: int, *, lease: float, queue_id: str | None = None, now: datetime | None = None
    ) -> list[Delivery | UnreadableRecord]:
        call = super().claim_records(limit, lease=lease, queue_id=queue_id, now=now)
        since = time.monotonic()
        found = await call
        self.watch.note_if_slow("claim", since)
        keys = [
            (each.task.id, each.receipt, str(each.delivery_count))
            for each in found
            if isinstance(each, Delivery)
        ]
        if keys:
            self.watch.note("claim", since=since, lease=lease, keys=keys)
            self.watch.here("claim.after")
        return found

    async def extend_leases(self, deliveries: Sequence[Delivery], lease: float) -> list[Delivery]:
        call = super().extend_leases(deliveries, lease)
        gone, since = await self.watch.around("extend", call)
        keys = _keys(deliveries, gone)
        if gone:
            self.watch.note("refused", word="extend", keys=_keys(gone, ()))
        self.watch.note("extend", since=since, lease=lease, keys=keys)
        return gone

    async def give_back(
        self, deliveries: Sequence[Delivery], *, delay: float = 0.0
    ) -> list[Delivery]:
        call = super().give_back(deliveries, delay=delay)
        gone, since = await self.watch.around("release", call)
        self.watch.note("release", since=since, keys=_keys(deliveries, gone))
        return gone

    async def settle(self, plan: Settlement) -> list[str]:
        refused, since = await self.watch.around("settle", super().settle(plan))
        self.note_settle(plan, refused, since)
        return refused

    def note_settle(self, plan: Settlement, refused: list[str], since: float) -> None:
        """Note what a settle that began at `since` came to; a barrier's is one too."""
        gone = set(refused)
        keys = [
            (e.delivery.task.id, e.delivery.receipt, _said(e.status, e.delivery.task.id in gone))
            for e in plan.endings
        ]
        self.watch.note("settle", since=since, keys=keys)
        if retries(plan.endings):
            self.watch.here("settle-retry.after")

    async def set_aside(self, records: Sequence[UnreadableRecord]) -> None:
        await self.watch.around("set-aside", super().set_aside(records))

    async def recover_stale(self, *, now: datetime, stale_after: float) -> int:
        call = super().recover_stale(now=now, stale_after=stale_after)
        return (await self.watch.around("recover", call))[0]


class WatchedStorage(NotingStorage, SqlStorage):
    """On a SQL database."""

    def __init__(self, database: WatchedDatabase, watch: Watch) -> None:
        super().__init__(database)
        self.watch = watch


def make_storage(url: str, watch: Watch, arm: Arm) -> WatchedStorage:
    """A watched storage by its URL."""
    database = WatchedDatabase.from_url(url)
    database.crash, database.arm = watch.crash, arm
    return WatchedStorage(database, watch)


def _said(status: TaskStatus, refused: bool) -> str:
    return f"{status.value} refused" if refused else status.value


def _keys(
    deliveries: Iterable[Delivery], without: Iterable[Delivery]
) -> list[tuple[str, int, str]]:
    gone = {id(delivery) for delivery in without}
    return [(d.task.id, d.receipt, "") for d in deliveries if id(d) not in gone]
