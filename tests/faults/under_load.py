"""Load for a rig whose server is harmed: tasks added until they are accepted, and a record."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from case import Rules
from generator import KINDS, Generator, Made
from rig import Rig

from taskloom import Loom
from taskloom.errors import UnavailableError

__all__ = ["MAKES_AGAIN", "Adding", "adding", "away", "note_away", "rules_on", "settled", "size"]

CALM_KINDS = {kind: weight for kind, weight in KINDS.items() if kind != "expiring"}
"""Whether a task expires while its server is away is nobody's fault."""
SOON = 0.05
_SLOWER = {"mongodb": 15}
"""Times as long between two calls: its server does some hundred operations a second."""
_LEASES = {"mongodb": 5.0}
MAKES_AGAIN = {"mongodb"}
"""Their drivers make a call again by themselves, once: all of the client's may have been hidden."""


def size(short: int, long: int) -> int:
    """How much of something; `TASKLOOM_TEST_LONG` makes it the long version."""
    return long if os.environ.get("TASKLOOM_TEST_LONG") else short


def rules_on(engine: str) -> Rules:
    """Of workers whose server is harmed again and again; no task is what kills them."""
    return Rules(lease=_LEASES.get(engine, 2.0), max_deliveries=100)


class Adding:
    """A client that adds tasks of all kinds, and the same ones again until they are accepted."""

    def __init__(self, rig: Rig, loom: Loom, seed: int, kinds: Mapping[str, int]) -> None:
        self._rig = rig
        self._loom = loom
        self._generator = Generator(seed, kinds)
        self._random = random.Random(seed + 1)
        self._enough = asyncio.Event()
        self.accepted = 0
        """Tasks."""
        self.refused = 0
        """Calls that raised, and were made again."""

    async def run(self, pause: float) -> None:
        """Add until `stop`, with so many seconds in between on average."""
        while not self._enough.is_set():
            count = self._random.randint(1, 6)
            await self.add([self._generator.make() for _ in range(count)])
            await asyncio.sleep(self._random.uniform(0, 2 * pause))

    def stop(self) -> None:
        """Add no more; what is being added is, to its end."""
        self._enough.set()

    async def add(self, made: Sequence[Made]) -> None:
        """Return when these are accepted. Whether they were before, a call that fails cannot say.

        They are added again under the same ids, which must not make others of them.
        """
        call, recorder = made[0][0].id, self._rig.recorder
        recorder.write("add.invoke", call=call, specs=[spec for spec, _ in made])
        while True:
            try:
                await self._loom.add_tasks([task for _, task in made])
                break
            except UnavailableError:
                self.refused += 1
                await asyncio.sleep(SOON)
        recorder.write("add.ok", call=call)
        self.accepted += len(made)


@asynccontextmanager
async def adding(
    rig: Rig, loom: Loom, seed: int, *, pause: float, kinds: Mapping[str, int] = CALM_KINDS
) -> AsyncIterator[Adding]:
    """Tasks are added, `pause` seconds apart where the server is quick; when this is left, all of
    them were accepted."""
    client = Adding(rig, loom, seed, kinds)
    work = asyncio.create_task(client.run(pause * _SLOWER.get(rig.engine, 1)))
    try:
        yield client
        client.stop()
        await work
    finally:
        work.cancel()


@asynccontextmanager
async def away(rig: Rig) -> AsyncIterator[None]:
    """Meanwhile no process of the rig reaches the server: what runs again has a reason."""
    noting = asyncio.create_task(_note(rig))
    try:
        yield
    finally:
        noting.cancel()
        _note_once(rig)


async def _note(rig: Rig) -> None:
    while True:
        _note_once(rig)
        await asyncio.sleep(SOON)


def _note_once(rig: Rig) -> None:
    for pid in rig.alive:
        note_away(rig, pid)


def note_away(rig: Rig, pid: int) -> None:
    """Just now a process did not reach its server, or did not hear what it answered."""
    rig.recorder.write("fault", word="cut", target=pid)


async def settled(rig: Rig, limit: float = 60.0) -> None:
    """Wait until the rig's own Loom reaches the server again, and nothing is left to do."""
    async with asyncio.timeout(limit):
        while True:
            try:
                await rig.drain(limit)
            except UnavailableError:
                await asyncio.sleep(SOON)
            else:
                return
