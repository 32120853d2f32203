"""The nemesis: does harm to workers at random, from a seed, and heals in the end."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from functools import partial

from generator import Generator, add
from recorder import Event
from rig import Rig

__all__ = ["LAST_WORD", "Nemesis", "stopped_in_its_body"]

STOPPED_FOR = 1.5
"""Leases of a stopped process that pass before it goes on."""
AT_WORK_WITHIN = 2.0
"""Seconds in which a worker will run something, while tasks are added."""
LAST_WORD = {
    "postgresql": "settle.before",
    "redis": "ack.before",
    "kinesis": "ack.before",
    "mongodb": "settle.before",
    "mongodb-steps": "settle.at-update",
}
"""Where a worker has trusted its lease, and the engine has not heard of it.

Not on SQLite: a process that stops anywhere but in a body may have locked the file.
"""


class Nemesis:
    """One kind of harm at a time, to the workers of a rig that replaces what ends."""

    def __init__(self, rig: Rig, seed: int, *, pace: float, patient: bool = False) -> None:
        self._rig = rig
        self._random = random.Random(seed)
        self._pace = pace
        self._patient = patient
        self.harmed: list[int] = []

    async def kill(self, count: int) -> None:
        """`kill -9` of so many workers that have something in hand, `pace` seconds apart.

        One that is `patient` waits until those that ended are replaced, too.
        """
        while len(self.harmed) < count:
            await self._pause()
            if self._patient:
                await self._rig.all_ready()
            victim = self._victim()
            if victim is not None:
                self._rig.kill(victim)
                self.harmed.append(victim)
                await self._rig.ended(victim)  # nobody dies twice

    async def stop_and_continue(self, count: int) -> None:
        """SIGSTOP past the lease, then SIGCONT: one worker after the other, each at work."""
        for _ in range(count):
            victim = await self._at_work() or self._victim()
            while victim is None:
                await self._pause()
                victim = self._victim()
            self._rig.signal(victim, signal.SIGSTOP, "stop")
            self.harmed.append(victim)
            try:
                await asyncio.sleep(STOPPED_FOR * self._rig.rules.lease)
            finally:
                self._rig.signal(victim, signal.SIGCONT, "cont")

    async def terminate(self, count: int) -> list[int]:
        """SIGTERM of so many workers, each to its end; their exit codes."""
        codes = []
        for _ in range(count):
            await self._pause()
            victim = self._victim()
            if victim is not None:
                self._rig.signal(victim, signal.SIGTERM, "term")
                self.harmed.append(victim)
                codes.append(await self._rig.ended(victim))
        return codes

    async def _pause(self) -> None:
        await asyncio.sleep(self._random.uniform(0.5, 1.5) * self._pace)

    async def _at_work(self) -> int | None:
        """A worker that runs something just now, chosen at random; None if none does for long."""
        end = time.monotonic() + AT_WORK_WITHIN
        while time.monotonic() < end:
            self._rig.reader.read()
            events = self._rig.reader.events
            over = {event.run for event in events if event.kind == "run.end"}
            runs = [
                event for event in events if event.kind == "run.start" and event.run not in over
            ]
            if choice := sorted({event.pid for event in runs} & self._rig.alive.keys()):
                return self._random.choice(choice)
            await asyncio.sleep(0.01)
        return None

    def _victim(self) -> int | None:
        """A worker that has run something, else one that could; None if there is none just now."""
        self._rig.reader.read()
        events = self._rig.reader.events
        for kind in ("run.start", "worker.ready"):
            seen = {event.pid for event in events if event.kind == kind}
            if choice := sorted(seen & self._rig.alive.keys()):
                return self._random.choice(choice)
        return None


async def stopped_in_its_body(rig: Rig, **options: str) -> int:
    """A worker that has stopped in a task's body, between two transactions of its own.

    One that stops within a transaction locks the file for everybody until it goes on; that is
    SQLite's nature, and not what is looked at here. Then the worker goes on, and another one is
    tried.
    """
    while True:
        pid = await rig.start(**options)
        made = Generator(0).make("stops-itself")
        await add(rig.loom, rig.recorder, [made])
        await rig.until("fault", partial(_stops, pid))
        if rig.place.is_free():
            return pid
        rig.signal(pid, signal.SIGCONT, "cont")
        await rig.drain()
        rig.kill(pid)
        await rig.ended(pid)


def _stops(pid: int, event: Event) -> bool:
    return event.word == "stop" and event.pid == pid
