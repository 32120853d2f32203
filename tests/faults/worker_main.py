"""The processes of the rig: workers and clients, forked from one that has everything imported.

    python worker_main.py nursery              # reads orders, one JSON object per line, and forks
    python worker_main.py run '{"role": …}'    # one process, from a fresh interpreter

Answers on stdout: `{"born": pid, "order": n}` and `{"ended": pid, "code": n}`, negative for a
signal. The nursery kills its children when its stdin closes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any

import accounts
import msgspec
import planted
from bodies import register
from crashing import CrashPoint, Watch
from generator import client
from msgspec import Struct
from places import PLACES
from recorder import Recorder
from sqlalchemy.dialects.postgresql import asyncpg as _asyncpg  # noqa: F401

from taskloom import LifecycleConfig, Loom, TaskHandlerConfig, TaskLifecycleProvider, maturity
from taskloom.cli.serving import Moment, serve
from taskloom.cli.stopping import Stops
from taskloom.sql import postgres_connections as _postgres  # noqa: F401 (once, not in each process)

STALL = 0.25
"""Seconds by which a turn of the loop may be late before that counts as a fault."""

NEAR = 1.0
"""Seconds from which a delayed task waits in the storage, where that is not the queue."""
UPKEEP = 1.0, 3.0
"""Seconds that the lock on upkeep lasts, and the lease on what moves from storage to queue."""


class Order(Struct):
    """What a process is to be."""

    directory: str
    engine: str
    url: str
    role: str = "worker"
    number: int = 0
    lease: float = 1.0
    max_deliveries: int = 5
    grace: float = 10.0
    stale_after: float = 172_800.0
    crash: str = ""
    nth: int = 1
    stops: bool = False
    """It stops at the crash point, and does not die there."""
    without: str = ""
    """The guard that is taken out of the library."""
    seed: int = 0
    count: int = 0
    pause: float = 0.0
    beside: bool = False
    """Flows and projections are outside the transactions of the tasks."""


class RecordingHandler(logging.Handler):
    """Every warning and error of the library becomes an event."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__(logging.WARNING)
        self._recorder = recorder

    def emit(self, record: logging.LogRecord) -> None:
        text = f"{record.levelname} {record.getMessage()}"
        if record.exc_info:
            text += f": {record.exc_info[1]!r}"
        self._recorder.write("log", word=text)


class BeforeUserCode(TaskLifecycleProvider):
    """The moment between the claim and the executor."""

    def __init__(self, crash: CrashPoint) -> None:
        self._crash = crash

    def on_task_started(self, event: Any) -> None:
        self._crash.here("body.before")


class Process:
    """A worker or a client, with everything that belongs to it."""

    def __init__(self, order: Order) -> None:
        self.order = order
        directory = Path(order.directory)
        self.recorder = Recorder(directory / "events", order.role)
        _log_to(self.recorder)
        planted.remove_guard(order.without)
        self.crash = CrashPoint(order.crash, order.nth, self.recorder, stops=order.stops)
        place = PLACES[order.engine](order.url, directory, beside=order.beside)
        parts = place.watched(Watch(self.recorder, self.crash))
        before = BeforeUserCode(self.crash) if order.crash == "body.before" else None
        self.loom = Loom(
            None,
            **parts._asdict(),
            config=TaskHandlerConfig(
                lease=order.lease,
                max_deliveries=order.max_deliveries,
                shutdown_grace_period=order.grace,
                mature_interval=place.upkeep,
                storage_horizon=NEAR,
                stale_after=order.stale_after,
                lifecycle=LifecycleConfig(mode="sync", heartbeat_interval=1.0),
                lifecycle_provider=before,
            ),
        )
        if place.hurries:
            maturity.LOCK_TTL, maturity.MOVE_LEASE = UPKEEP
        register(self.loom, self.recorder, directory / "marks")

    def run(self) -> None:
        """Be it, to the end."""
        open_files = _open_files()
        if self.order.role == "client":
            asyncio.run(self._add_tasks())
        else:
            serve(self.loom, self.loom.queues.get_queues(), Stops(), self._said)
        if left := _open_files() - open_files:
            self.recorder.write("left", word=f"open files {sorted(left)}")
        self.recorder.write("process.end")

    async def _add_tasks(self) -> None:
        order = self.order
        async with self.loom:
            await client(self.loom, self.recorder, order.seed, order.count, pause=order.pause)

    def _said(self, moment: Moment) -> None:
        if moment == "stopping":
            self.crash.draining = True
            self.recorder.write("worker.stopping")
            return
        loop = asyncio.get_running_loop()
        loop.call_later(0.05, self._tick, time.monotonic() + 0.05)
        self.recorder.write("worker.ready")

    def _tick(self, due: float) -> None:
        """Note when the loop could not turn: the process was starved, stopped or blocked."""
        now = time.monotonic()
        if now - due > STALL:
            self.recorder.write("fault", word="stall", target=os.getpid(), since=due)
        asyncio.get_running_loop().call_later(0.05, self._tick, now + 0.05)


def _log_to(recorder: Recorder) -> None:
    logger = logging.getLogger("taskloom")
    logger.handlers[:] = [RecordingHandler(recorder)]
    logger.propagate = False
    logging.getLogger("asyncio").handlers[:] = [RecordingHandler(recorder)]


def _open_files() -> set[str]:
    """Databases and connections that this process has open, by name."""
    names = set()
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            names.add(os.readlink(f"/proc/self/fd/{fd}"))
    return {name for name in names if ".db" in Path(name).name or name.startswith("socket:")}


# The nursery.


class Nursery:
    """Forks a process per order, and says when it ends."""

    def __init__(self) -> None:
        self._children: set[int] = set()
        self._read, self._wake = os.pipe()
        os.set_blocking(self._wake, False)
        signal.set_wakeup_fd(self._wake)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)

    def serve(self) -> Order | None:
        """Returns in each child, with its order, and in the nursery when stdin is closed."""
        rest = b""
        while True:
            ready, _, _ = select.select([0, self._read], [], [])
            if self._read in ready:
                os.read(self._read, 4096)
                self._reap()
            if 0 not in ready:
                continue
            chunk = os.read(0, 65536)
            if not chunk:
                self._end()
                return None
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                order = msgspec.json.decode(line, type=Order)
                if self._fork(order):
                    return order

    def _fork(self, order: Order) -> bool:
        pid = os.fork()
        if pid:
            self._children.add(pid)
            _say({"born": pid, "order": order.number})
            return False
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.close(self._read)
        os.close(self._wake)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        os.dup2(2, 1)
        return True

    def _reap(self) -> None:
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            self._children.discard(pid)
            _say({"ended": pid, "code": os.waitstatus_to_exitcode(status)})

    def _end(self) -> None:
        for pid in self._children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _say(word: dict[str, int]) -> None:
    os.write(1, json.dumps(word).encode() + b"\n")


def main() -> None:
    """As the arguments say."""
    if sys.argv[1] == "nursery":
        accounts.warm()
        order = Nursery().serve()
        if order is None:
            return
    else:
        order = msgspec.json.decode(sys.argv[2], type=Order)
    Process(order).run()


if __name__ == "__main__":
    main()
