"""F3 and F6: workers that stop, or block, past their lease and go on. They change nothing more."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from checker import Rules
from generator import Generator, add
from nemesis import LAST_WORD, Nemesis, stopped_in_its_body
from rig import OpenRig, seed_of

ENGINES = ["sqlite", "postgresql", "redis", "kinesis", "mongodb"]
LEASES = {"kinesis": 2.0, "mongodb": 3.0}
"""Where a worker must be stopped for longer than a shard's lock lasts, or the server is slow."""
TASKS = {"mongodb": 120}
REFUSED = "WARNING 1 outcomes came after their lease was lost; refused"


def _refusals(told: list[str]) -> list[str]:
    return [text for text in told if "refused" in text]


@pytest.mark.parametrize("engine", ENGINES)
async def test_what_a_stopped_worker_reports_later_is_refused(
    tmp_path: Path, open_rig: OpenRig, engine: str
) -> None:
    """The body ends the moment it goes on: its outcome is on the way before anything else is."""
    async with open_rig(tmp_path / "rig", engine=engine) as rig:
        first = await stopped_in_its_body(rig)
        second = await rig.start()
        await rig.until("run.end", lambda event: event.pid == second)
        await rig.drain()  # the second one's outcome stands
        rig.signal(first, signal.SIGCONT, "cont")
        await rig.until("log", lambda event: event.pid == first and event.word == REFUSED)
        said = [event.keys for event in rig.of("settle") if event.pid == first]
        words = [word for keys in said for _, _, word in keys]
        assert words == ["done refused" if rig.place.apart else "executed refused"]
        assert not await rig.verdict()
        assert [event.pid for event in rig.of("run.end")][-2:] == [second, first]


@pytest.mark.parametrize("engine", list(LAST_WORD))
async def test_an_acknowledgement_that_comes_too_late_is_refused(
    tmp_path: Path, open_rig: OpenRig, engine: str
) -> None:
    """It trusted its lease when it began the call, and stopped before the engine had it."""
    async with open_rig(tmp_path / "rig", engine=engine) as rig:
        first = await rig.start(crash=LAST_WORD[engine], stops=True)
        spec, task = Generator(0).make("plain", **{"for": 0.0})
        await add(rig.loom, rig.recorder, [(spec, task)])
        await rig.until("fault", lambda event: event.word == "stop")
        second = await rig.start()
        await rig.until("settle", lambda event: event.pid == second)
        rig.signal(first, signal.SIGCONT, "cont")
        [late] = await rig.until("settle", lambda event: event.pid == first)
        [(id, _, word)] = late.keys
        assert id == spec.id
        assert word.endswith(" refused")
        await rig.until("log", lambda event: event.pid == first and event.word == REFUSED)
        assert not await rig.verdict()


@pytest.mark.parametrize("engine", ENGINES)
async def test_workers_are_stopped_at_random_under_load(
    tmp_path: Path, open_rig: OpenRig, engine: str
) -> None:
    seed = seed_of(31)
    rules = Rules(lease=LEASES.get(engine, 1.0), max_deliveries=8)
    count = TASKS.get(engine, 500)
    async with open_rig(tmp_path / "rig", rules, engine=engine) as rig:
        for _ in range(3):
            await rig.start()
        client = await rig.start("client", seed=seed, count=count, pause=15.0 / count)
        # Nobody opens a file that a stopped process holds.
        await rig.all_ready()
        await rig.until("add.ok", lambda event: event.pid == client)
        nemesis = Nemesis(rig, seed, pace=0.1)
        await nemesis.stop_and_continue(3)
        for _ in range(6):  # one that is stopped may just have nothing in hand
            if _refusals(rig.told()):
                break
            await nemesis.stop_and_continue(1)
        assert await rig.ended(client) == 0
        violations = await rig.verdict()
        assert not violations, f"seed {seed}:\n" + "\n".join(map(str, violations))
        assert _refusals(rig.told()), "no stopped worker held anything: the test shows nothing"


@pytest.mark.parametrize(("blocked", "lease", "runs"), [(0.45, 5.0, 1), (1.6, 1.0, 2)])
async def test_a_blocked_event_loop(
    tmp_path: Path, open_rig: OpenRig, blocked: float, lease: float, runs: int
) -> None:
    """Shorter than the lease: no duplicate. Longer: it runs elsewhere, and that stands."""
    async with open_rig(tmp_path / "rig", Rules(lease=lease)) as rig:
        spec, task = Generator(0).make("blocks", block=blocked)
        await rig.start()
        await add(rig.loom, rig.recorder, [(spec, task)])
        [fault] = await rig.until("fault", lambda event: event.word == "block")
        await rig.start()
        await rig.until("run.end", lambda event: event.pid == fault.pid)
        assert not await rig.verdict()
        assert len(rig.of("run.start")) == runs
        assert bool(_refusals(rig.told())) == (runs == 2)
        [end] = [event.t for event in rig.of("run.end") if event.pid == fault.pid]
        said = [text for text in rig.told() if "event loop has been blocked" in text]
        said = [text for text in said if "in blocks" in text]
        # A process that stood still in the middle of it was blocked for longer.
        assert len(said) == runs - 1 or end - fault.t > blocked + 0.15
