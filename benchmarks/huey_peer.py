"""huey's SqliteHuey with a consumer of one worker thread, its default."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter, sleep
from typing import Any

from huey import Huey  # type: ignore[import-untyped,import-not-found,unused-ignore]
from huey.storage import (  # type: ignore[import-untyped,import-not-found,unused-ignore]
    SqliteStorage,
)

from benchmarks.harness import Result, percentile
from benchmarks.work import Tally, calls, payload

__all__ = ["drain", "fill", "latency"]


class _NormalStorage(SqliteStorage):  # type: ignore[misc,unused-ignore]  # huey has no types
    """As SqliteHuey's, with synchronous NORMAL as everyone has it here; its options lack that."""

    def _create_connection(self) -> sqlite3.Connection:
        conn: sqlite3.Connection = super()._create_connection()
        conn.execute("PRAGMA synchronous = NORMAL")
        return conn


def _huey(
    path: str, ran: Callable[[int], object], *, as_it_comes: bool = False
) -> tuple[Huey, Any]:
    storage = SqliteStorage if as_it_comes else _NormalStorage
    huey = Huey("bench", storage_class=storage, filename=path)

    @huey.task()  # type: ignore[untyped-decorator,unused-ignore]
    def noop(number: int, text: str) -> None:
        ran(number)

    return huey, noop


def fill(path: str, tasks: int) -> Result:
    """Put `tasks` tasks into a new SQLite file."""
    _, noop = _huey(path, print)
    for call in calls(0, tasks):
        noop(**call)
    return {}


def drain(path: str, tasks: int, as_it_comes: bool = False) -> Result:
    """Run what `fill` has put there: `rate` in tasks a second.

    `as_it_comes`: with SQLite's own default, synchronous FULL: a commit waits for the disk.
    """
    done = threading.Event()
    tally = Tally(tasks, done.set)
    huey, _ = _huey(path, tally.ran, as_it_comes=as_it_comes)
    start = perf_counter()
    with _consumer(huey):
        done.wait()
        seconds = perf_counter() - start
    tally.check_once()
    return {"rate": tasks / seconds}


def latency(path: str, gaps: list[float]) -> Result:
    """Milliseconds from enqueueing to the first line, p50 and p99, one task after each gap."""
    started: list[float] = []
    arrived = threading.Event()

    def ran(_: int) -> None:
        started.append(perf_counter())
        arrived.set()

    huey, noop = _huey(path, ran)
    waits = []
    with _consumer(huey):
        for index, gap in enumerate(gaps):
            sleep(gap)
            arrived.clear()
            start = perf_counter()
            noop(**payload(index))
            arrived.wait()
            waits.append((started[-1] - start) * 1000)
    return {"p50": percentile(waits, 0.5), "p99": percentile(waits, 0.99)}


@contextmanager
def _consumer(huey: Huey) -> Iterator[None]:
    consumer = huey.create_consumer()
    consumer.start()
    try:
        yield
    finally:
        consumer.stop(graceful=True)
