"""F10: SIGTERM under full load, once and twice."""

from __future__ import annotations

import signal
import time
from pathlib import Path

from checker import Rules
from generator import Generator, add
from nemesis import Nemesis
from rig import OpenRig, Rig, seed_of

GRACE = 8.0
RULES = Rules(lease=20.0)
QUICK = 8.0
"""Seconds. The promise is 1 for what waits and 2 for the end; where the machine stands still it
takes longer, and without it the lease of 20 or the grace of 60 passes."""


async def test_sigterm_under_full_load(tmp_path: Path, open_rig: OpenRig) -> None:
    """Out with 0 within the grace; nothing lost or run twice; what waited goes on at once."""
    seed = seed_of(41)
    generator = Generator(seed)
    async with open_rig(tmp_path / "rig", RULES) as rig:
        first = await rig.start_alone(grace=GRACE)
        made = [generator.make("plain", **{"for": 0.3}) for _ in range(90)]
        await add(rig.loom, rig.recorder, made)
        await rig.until("run.end", lambda event: event.pid == first, count=4)
        second = await rig.start()
        await rig.until("worker.ready", lambda event: event.pid == second)
        sent = time.monotonic()
        rig.signal(first, signal.SIGTERM, "term")
        assert await rig.ended(first) == 0
        assert time.monotonic() - sent < GRACE
        violations = await rig.verdict()
        assert not violations, f"seed {seed}:\n" + "\n".join(map(str, violations))
        _check_handover(rig, first, second)


def _check_handover(rig: Rig, first: int, second: int) -> None:
    [heard] = [event.t for event in rig.of("worker.stopping") if event.pid == first]
    given = [event for event in rig.of("release") if event.pid == first]
    released = {id: event.t for event in given for id, _, _ in event.keys}
    assert len(released) > 8, "it had work waiting"
    starts = [e for e in rig.of("run.start") if e.pid == second and e.task in released]
    assert starts[0].t - heard < QUICK
    ends = [event.task for event in rig.of("run.end")]
    assert len(ends) == len(set(ends)) == 90, "each ended once, none was cancelled"
    late = [e for e in rig.of("run.start") if e.pid == first and e.t > heard + 0.2]
    assert not late, "it started nothing after it heard the signal"


async def test_a_second_sigterm_means_now(tmp_path: Path, open_rig: OpenRig) -> None:
    """Out whatever runs; that runs elsewhere at once, not after its lease."""
    async with open_rig(tmp_path / "rig", RULES) as rig:
        first = await rig.start_alone(grace=60.0)
        await add(rig.loom, rig.recorder, [Generator(0).make("lingers")])
        await rig.until("run.start")
        second = await rig.start()
        await rig.until("worker.ready", lambda event: event.pid == second)
        rig.signal(first, signal.SIGTERM, "term")
        await rig.until("worker.stopping")  # or the system makes one signal of the two
        sent = time.monotonic()
        rig.signal(first, signal.SIGTERM, "insist")
        assert await rig.ended(first) == 0
        assert time.monotonic() - sent < QUICK
        [_, again] = await rig.until("run.start", count=2)
        assert again.pid == second
        assert again.t - sent < QUICK
        assert not await rig.verdict()


async def test_sigterm_again_and_again(tmp_path: Path, open_rig: OpenRig) -> None:
    """Workers come and go while tasks of all kinds are added; no task notices."""
    seed = seed_of(43)
    async with open_rig(tmp_path / "rig") as rig:
        await rig.keep_workers(3, grace=GRACE)
        client = await rig.start("client", seed=seed, count=400, pause=0.02)
        codes = await Nemesis(rig, seed, pace=0.2).terminate(8)
        assert set(codes) == {0}
        assert await rig.ended(client) == 0
        violations = await rig.verdict()
        assert not violations, f"seed {seed}:\n" + "\n".join(map(str, violations))
