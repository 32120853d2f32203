"""The rig: real processes on one engine, a recorder outside of them, and the verdict."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import msgspec
from checker import Rules, Violation, check
from endings import final_of, without_rows
from history import read_history
from msgspec.structs import replace
from nursery import MAIN, Nursery
from places import PLACES, Place
from recorder import Event, Final, Reader, Recorder
from worker_main import NEAR, Order

from taskloom import Loom, Task, TaskHandlerConfig

__all__ = ["OpenRig", "Rig", "rig_on", "seed_of"]

PATIENCE = 30.0
"""Seconds until something that must happen counts as missing."""


def seed_of(default: int) -> int:
    """The seed of a test: `TASKLOOM_TEST_SEED`, or its own. Print it when something is wrong."""
    return int(os.environ.get("TASKLOOM_TEST_SEED", default))


class Rig:
    """Processes by their pid, and what they did. Made by `rig_on`."""

    def __init__(
        self, nursery: Nursery, directory: Path, rules: Rules, engine: str, url: str
    ) -> None:
        self._nursery = nursery
        self.directory = directory
        for name in ("events", "marks"):
            (directory / name).mkdir(parents=True)
        self.recorder = Recorder(directory / "events", "rig")
        self.reader = Reader(directory / "events")
        self.engine = engine
        self.place: Place = PLACES[engine](url, directory, beside=rules.beside)
        place = {"beside": self.place.beside, "apart": self.place.apart}
        place["forgets"] = self.place.forgets
        self.rules = replace(rules, in_steps=self.place.in_steps, **place)
        config = TaskHandlerConfig(storage_horizon=NEAR)
        self.loom = Loom(None, **self.place.parts()._asdict(), config=config)
        self.alive: dict[int, asyncio.Future[int]] = {}
        """Workers and clients that have not ended; each result is the exit code."""
        self.kept: Callable[[], Order] | None = None
        """What a worker that ended is replaced with; None: it is not."""
        self._born: dict[int, asyncio.Future[int]] = {}
        self._clients: set[int] = set()
        self._broken: list[int] = []
        """Processes that ended with an exception: nothing here asks for that."""
        self._orders = 0
        self._single: set[asyncio.Task[None]] = set()

    # Processes

    async def close(self) -> None:
        """End every process, by its pid."""
        self.kept = None
        if self._born:
            await asyncio.wait(list(self._born.values()))
        while self.alive:
            for pid in list(self.alive):  # those born meanwhile among them
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            await asyncio.wait(list(self.alive.values()))
        if self._single:
            await asyncio.wait(self._single)
        self._nursery.ignore()
        self.recorder.close()

    def hear(self, word: dict[str, int]) -> None:
        """What the nursery says."""
        if "born" in word:
            self.alive[word["born"]] = asyncio.get_running_loop().create_future()
            self._born.pop(word["order"]).set_result(word["born"])
        else:
            self._ended(word["ended"], word["code"])

    def _ended(self, pid: int, code: int) -> None:
        self.recorder.write("process.ended", target=pid, word=str(code))
        self.alive.pop(pid).set_result(code)
        if code == 1:
            self._broken.append(pid)
        if self.kept is not None and pid not in self._clients:
            self._give(self.kept())

    def order(self, role: str = "worker", **options: Any) -> Order:
        """What a process of this rig is to be, with its rules."""
        rules = {"lease": self.rules.lease, "max_deliveries": self.rules.max_deliveries}
        place = {"directory": str(self.directory), "engine": self.engine, "url": self.place.url}
        place["beside"] = self.rules.beside
        return Order(**({"role": role} | place | rules | options))

    def _give(self, order: Order) -> asyncio.Future[int]:
        self._orders += 1
        order.number = self._orders
        born = self._born[order.number] = asyncio.get_running_loop().create_future()
        self._nursery.order(msgspec.json.encode(order))
        return born

    async def start(self, role: str = "worker", **options: Any) -> int:
        """Fork a process; its pid. It may not be ready yet."""
        pid = await self._give(self.order(role, **options))
        if role == "client":
            self._clients.add(pid)
        return pid

    async def start_alone(self, **options: Any) -> int:
        """A worker in an interpreter of its own, ready: its whole end can be watched."""
        raw = msgspec.json.encode(self.order(**options)).decode()
        process = await asyncio.create_subprocess_exec(sys.executable, str(MAIN), "run", raw)
        self.alive[process.pid] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(self._wait(process))
        self._single.add(task)
        await self.until("worker.ready", lambda event: event.pid == process.pid)
        return process.pid

    async def _wait(self, process: asyncio.subprocess.Process) -> None:
        self._ended(process.pid, await process.wait())

    async def keep_workers(self, count: int, **options: Any) -> list[int]:
        """`count` workers; whichever ends is replaced, until `heal` or `stop`."""
        pids = [await self.start(**options) for _ in range(count)]
        self.kept = lambda: self.order(**options)
        return pids

    def signal(self, pid: int, number: signal.Signals, word: str) -> None:
        """Do something to a process, noted before: kill, stop, cont, term, insist."""
        if pid in self.alive:
            self.recorder.write("fault", word=word, target=pid)
            with contextlib.suppress(ProcessLookupError):  # it was quicker, and is not reaped yet
                os.kill(pid, number)

    def kill(self, pid: int) -> None:
        """`kill -9`."""
        self.signal(pid, signal.SIGKILL, "kill")

    async def ended(self, pid: int, limit: float = PATIENCE) -> int:
        """The exit code of a process, once it has ended."""
        future = self.alive.get(pid)
        if future is None:
            codes = [e.word for e in self.reader.history() if e.target == pid]
            return int(codes[-1])
        async with asyncio.timeout(limit):
            return await asyncio.shield(future)

    # Events

    async def until(
        self, kind: str, fits: Callable[[Event], bool] = lambda event: True, count: int = 1
    ) -> list[Event]:
        """Wait until so many events fit; all that do."""
        async with asyncio.timeout(PATIENCE):
            while True:
                assert not self._broken, f"processes {self._broken} ended with an exception"
                self.reader.read()
                found = [e for e in self.reader.events if e.kind == kind and fits(e)]
                if len(found) >= count:
                    return found
                await asyncio.sleep(0.01)  # another process's file: nothing tells us

    async def all_ready(self) -> None:
        """Wait until every worker that lives is ready, those that were asked for included."""
        async with asyncio.timeout(PATIENCE):
            while self._born or self.alive.keys() - self._clients - self._ready():  # noqa: ASYNC110
                await asyncio.sleep(0.01)  # another process's file: nothing tells us

    def _ready(self) -> set[int]:
        self.reader.read()
        return {event.pid for event in self.reader.events if event.kind == "worker.ready"}

    def of(self, kind: str) -> list[Event]:
        """All events of a kind so far, in order."""
        return [event for event in self.reader.history() if event.kind == kind]

    # The end

    async def drain(self, limit: float = PATIENCE) -> None:
        """Wait until storage and queue hold nothing that has not ended."""
        async with asyncio.timeout(limit):
            while await self._open_tasks():
                assert not self._broken, f"processes {self._broken} ended with an exception"
                await asyncio.sleep(0.05)  # the storage of other processes: nothing tells us

    async def _open_tasks(self) -> int:
        counts = await self.loom.handler.storage.counts()  # type: ignore[attr-defined]
        open_rows = sum(n for (_, status), n in counts.items() if not status.terminal)
        return open_rows + await self.place.waiting()

    async def stop_workers(self) -> None:
        """SIGTERM to all; each must end with 0."""
        self.kept = None
        # Before it is ready, a process just forked has no handler for signals yet.
        await self.all_ready()
        waiting = dict(self.alive)
        for pid in waiting:
            self.signal(pid, signal.SIGTERM, "term")
        async with asyncio.timeout(PATIENCE):
            codes = dict(zip(waiting, await asyncio.gather(*waiting.values()), strict=True))
        assert set(codes.values()) <= {0}, codes

    async def finals(self) -> list[Final]:
        """Every task that storage knows, or a queue apart from it."""
        storage: Any = self.loom.handler.storage
        told = await self.place.projections()
        tasks: list[Task[Any]] = []
        while page := await storage.search(limit=500, after=tasks[-1].id if tasks else None):
            tasks += page
        known = {task.id for task in tasks}
        others = await self.place.acknowledged() - known
        history = read_history(self.reader.history())
        return [final_of(task, told) for task in tasks] + list(without_rows(others, history))

    async def figures(self) -> Counter[str]:
        """The public figures: tasks by status."""
        counts = await self.loom.handler.storage.counts()  # type: ignore[attr-defined]
        figures: Counter[str] = Counter()
        for (_, status), count in counts.items():
            figures[status.value] += count
        return figures

    async def verdict(self) -> list[Violation]:
        """Drain, stop, and check everything."""
        await self.drain()
        await self.stop_workers()
        await self._note_the_rest()
        events, finals = self.reader.history(), await self.finals()
        return check(events, finals, self.rules, await self.figures())

    async def _note_the_rest(self) -> None:
        """Leases and locks that outlived the drain; how flows and projections changed and ended."""
        if await self.place.held():
            await asyncio.sleep(self.place.outlast)
        for name in await self.place.held():
            self.recorder.write("left", task=name, word="a lease or a lock")
        for kind, id, old, new in await self.place.changes():
            self.recorder.write("change", call=kind, task=id, word=f"{old} {new}")
        for id, state in (await self.place.flows()).items():
            if state != "sent":
                self.recorder.write("left", task=id, word=f"a flow that is {state}")

    def told(self) -> list[str]:
        """What the library logged, warnings and errors, of every process."""
        return [event.word for event in self.of("log")]


class OpenRig(Protocol):
    """`async with open_rig(directory, rules, engine="postgresql") as rig`.

    `url` is where the tasks are, empty and nobody else's; without one a place is found.
    """

    def __call__(
        self, directory: Path, rules: Rules | None = None, *, engine: str = "sqlite", url: str = ""
    ) -> AbstractAsyncContextManager[Rig]: ...


@asynccontextmanager
async def rig_on(
    nursery: Nursery, directory: Path, rules: Rules | None, engine: str, url: str
) -> AsyncIterator[Rig]:
    """A rig, open; every process it started has ended when this is left."""
    rig = Rig(nursery, directory, rules or Rules(), engine, url)
    nursery.listen(rig.hear)
    try:
        async with rig.loom:
            await rig.place.begin()
            yield rig
    finally:
        await rig.close()
        await rig.place.clear()
