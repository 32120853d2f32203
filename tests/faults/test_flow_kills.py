"""Flows under `kill -9`: each has one join, with the first result of every step."""

from __future__ import annotations

from pathlib import Path

import pytest
from checker import Rules
from generator import Generator, add
from history import read_history
from msgspec.structs import replace
from nemesis import Nemesis
from recovery import recoveries
from rig import OpenRig, Rig, seed_of

STEPS = 10
KILLS = 15
CASES = [
    pytest.param("sqlite", False, 200, id="one file"),
    # With a barrier on a file of its own it takes more transactions.
    pytest.param("sqlite", True, 50, id="a barrier beside"),
    pytest.param("postgresql", False, 50, id="postgresql"),
    pytest.param("redis", True, 50, id="redis"),
    # A server that does some hundred operations a second.
    pytest.param("mongodb", False, 10, id="mongodb"),
    pytest.param("mongodb-steps", True, 10, id="mongodb, step by step"),
]
"""The engine, whether flows are outside the transactions of the tasks, and how many flows."""
WORKERS = 3
# A busy machine must not cost a living worker its lease, and no flow is what kills them.
RULES = Rules(lease=2.0, max_deliveries=KILLS + 3)
PACE, BUSY = 0.3, 0.1
"""Seconds between two kills, and of the longest body."""
# The server takes a second to claim or settle what a worker has in hand.
ON_MONGODB = Rules(lease=8.0, recovery=8.0, max_deliveries=KILLS + 3)
PACE_ON_MONGODB, BUSY_ON_MONGODB = 0.8, 2.0


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("engine", "beside", "flows"), CASES)
async def test_every_flow_has_one_join(
    tmp_path: Path, open_rig: OpenRig, engine: str, beside: bool, flows: int
) -> None:
    seed = seed_of(71)
    slow = engine.startswith("mongodb")
    pace, busy = (PACE_ON_MONGODB, BUSY_ON_MONGODB) if slow else (PACE, BUSY)
    rules = replace(ON_MONGODB if slow else RULES, beside=beside)
    async with open_rig(tmp_path / "rig", rules, engine=engine) as rig:
        generator = Generator(seed, busy=busy)
        await rig.keep_workers(WORKERS)
        for _ in range(flows // 10):
            made = [generator.make("flow", steps=STEPS, bad=[]) for _ in range(10)]
            await add(rig.loom, rig.recorder, made)
        await Nemesis(rig, seed, pace=pace, patient=True).kill(KILLS)
        violations = await rig.verdict()
        cut_short = list(recoveries(read_history(rig.reader.history())))
        print(f"seed {seed}: {KILLS} kills, {flows} flows, {len(cut_short)} runs cut short")
        assert not violations, f"seed {seed}:\n" + "\n".join(map(str, violations))
        assert cut_short, "no kill hit a run: the test shows nothing"
        await _each_is_complete(rig, flows)


async def _each_is_complete(rig: Rig, flows: int) -> None:
    joins = [f.flow for f in await rig.finals() if f.flow is not None and f.flow.kind == "join"]
    assert len(joins) == flows
    assert {len(join.steps) for join in joins} == {STEPS}
