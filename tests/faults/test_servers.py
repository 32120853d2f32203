"""F7 to F9: the server is killed, hangs, or comes back empty, while tasks are added and run.

`TASKLOOM_TEST_LONG=1` kills it ten times, `TASKLOOM_TEST_SEED` makes another run of it.
"""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path

import pytest
from generator import Generator
from nursery import Nursery
from proxy import Proxy, proxy_to
from rig import Rig, rig_on, seed_of
from server_control import ENGINES, ServerControl, server
from under_load import MAKES_AGAIN, adding, away, rules_on, settled, size

pytestmark = pytest.mark.usefixtures("forgotten_sockets")

WORKERS = 3
KILLS = size(3, 10)
STOPPED_FOR = 20.0
AGAIN_WITHIN = {"mongodb": 15.0}
"""Seconds from the server's first answer until each worker has claimed, if not five. Tasks for all
of them are fewer where the server does some hundred operations a second."""
RECONNECTS = 20
"""In a second, of one process: fewer than this."""


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def through(control: ServerControl, proxy: Proxy) -> str:
    """The server's URL, by way of a proxy."""
    return control.url.replace(f":{control.port}/", f":{proxy.port}/")


@pytest.mark.timeout(60 + 30 * KILLS)
async def test_nothing_accepted_is_lost_when_the_server_is_killed(
    tmp_path: Path, nursery: Nursery, engine: str
) -> None:
    seed = seed_of(20261122)
    rng = random.Random(seed)
    async with server(engine) as control, proxy_to(control.port, engine) as proxy:
        async with rig_on(nursery, tmp_path / "rig", rules_on(engine), engine, control.url) as rig:
            first = await rig.start(url=through(control, proxy))
            pids = {first, *[await rig.start() for _ in range(WORKERS - 1)]}
            await rig.until("worker.ready", count=WORKERS)
            again: list[float] = []
            begun = len(proxy.opened)
            async with adding(rig, rig.loom, seed, pause=0.02) as client:
                for _ in range(KILLS):
                    await asyncio.sleep(rng.uniform(0.5, 1.5))
                    async with away(rig):
                        await control.kill()
                        await asyncio.sleep(rng.uniform(0, 1))
                        back = await control.start()
                    again += [await claimed_after(rig, pid, back) - back for pid in pids]
            await settled(rig)
            violations = await rig.verdict()
        fastest = most_in_a_second(proxy.opened[begun:])
    print(
        f"{engine}, seed {seed}: {KILLS} kills, {client.accepted} tasks, {client.refused} calls "
        f"made again, {len(rig.of('run.start'))} runs, claimed again after at most "
        f"{max(again):.2f} s, {fastest} connections in a second at most"
    )
    assert not violations, "\n".join(map(str, violations))
    assert client.refused or engine in MAKES_AGAIN, "no call was hit: the test shows nothing"
    assert max(again) < AGAIN_WITHIN.get(engine, 5.0)
    assert fastest < RECONNECTS


async def claimed_after(rig: Rig, pid: int, t: float) -> float:
    """When this worker first claimed something after `t`."""
    claims = await rig.until("claim", lambda event: event.pid == pid and event.since > t)
    return claims[0].t


def most_in_a_second(times: list[float]) -> int:
    """How many of these fall into one second at most."""
    return max(sum(t <= each < t + 1 for each in times) for t in times)


@pytest.mark.timeout(120)
async def test_a_server_that_hangs(tmp_path: Path, nursery: Nursery, engine: str) -> None:
    """What was in hand has lost its lease when it goes on: it runs again, and counts once."""
    seed = seed_of(20261123)
    generator = Generator(seed)
    async with (
        server(engine) as control,
        rig_on(nursery, tmp_path / "rig", rules_on(engine), engine, control.url) as rig,
    ):
        pids = [await rig.start() for _ in range(WORKERS)]
        await rig.until("worker.ready", count=WORKERS)
        async with adding(rig, rig.loom, seed, pause=0.02) as client:
            made = [generator.make("plain", **{"for": 1.0}) for _ in range(WORKERS)]
            await client.add(made)
            ids = {spec.id for spec, _ in made}
            await rig.until("run.start", lambda event: event.task in ids, count=len(ids))
            async with away(rig):
                control.stop()
                stopped = time.monotonic()
                await asyncio.sleep(STOPPED_FOR)
                control.go_on()
                back = time.monotonic()
            again = [await claimed_after(rig, pid, back) - back for pid in pids]
        await settled(rig)
        violations = await rig.verdict()
    ends = [event for event in rig.of("run.end") if stopped < event.t < back]
    twice = {event.task for event in rig.of("run.start") if event.t > back}
    late = [event for event in ends if event.task in twice]
    refused = [text for text in rig.told() if "refused" in text or "settled in time" in text]
    print(
        f"{engine}, seed {seed}: {client.accepted} tasks, {client.refused} calls made again, "
        f"{len(ends)} runs ended while it hung, {len(late)} ran again, claimed again after at most "
        f"{max(again):.2f} s; told: {refused}"
    )
    assert not violations, "\n".join(map(str, violations))
    # Not `late`: a settle that the server had been sent may be done before anybody can take over.
    assert ends, "nothing was in hand: the test shows nothing"
