"""F1: workers are killed at random while tasks of every kind are added. Nothing may go wrong.

`TASKLOOM_TEST_KILLS=1000` makes a long run of it, `TASKLOOM_TEST_SEED` another one.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from checker import Rules
from generator import Generator, add
from history import read_history
from nemesis import Nemesis
from recovery import recoveries
from rig import OpenRig, seed_of

KILLS = int(os.environ.get("TASKLOOM_TEST_KILLS", "60"))
WORKERS = 4
PACE = 0.3
"""Seconds between two kills; with four workers each of them lives about 1.2 s."""
PACES = {"kinesis": 1.2, "mongodb": 0.6, "mongodb-steps": 0.6}
"""Where that is too little: a shard is nobody's for as long as the lock of its last holder, and the
server of MongoDB takes about a second for what a worker begins with."""
RULES = Rules(max_deliveries=8)
# A server wants the processor, too: a living worker is to keep its lease all the same.
ON_SERVERS = Rules(lease=2.0, recovery=4.0, max_deliveries=8)
# The one of MongoDB does some hundred operations a second for all of them together. A claim takes
# it so long that those who find a task may be killed before they have noted it, one after another.
ON_MONGODB = Rules(lease=4.0, recovery=20.0, max_deliveries=12)
# What was in hand comes again when the lock of its shard is over: before leases on rows are.
ON_STREAMS = Rules(lease=15.0, recovery=-5.0, max_deliveries=12)
CASES = [
    pytest.param("sqlite", RULES, 25, False, id="sqlite"),
    pytest.param("postgresql", ON_SERVERS, 10, True, id="postgresql"),
    pytest.param("redis", ON_SERVERS, 10, True, id="redis"),
    pytest.param("kinesis", ON_STREAMS, 4, True, id="kinesis"),
    pytest.param("mongodb", ON_MONGODB, 2, True, id="mongodb"),
    pytest.param("mongodb-steps", ON_MONGODB, 2, True, id="mongodb, step by step"),
]
"""The engine, the rules, how many tasks for each kill, and whether they wait for replacements."""


@pytest.mark.timeout(90 + 3 * KILLS)
@pytest.mark.parametrize(("engine", "rules", "tasks_per_kill", "patient"), CASES)
async def test_nothing_is_lost_and_nothing_doubled(
    tmp_path: Path,
    open_rig: OpenRig,
    engine: str,
    rules: Rules,
    tasks_per_kill: int,
    patient: bool,
) -> None:
    seed = seed_of(20261121)
    async with open_rig(tmp_path / "rig", rules, engine=engine) as rig:
        await rig.keep_workers(WORKERS)
        pace = PACES.get(engine, PACE)
        nemesis = Nemesis(rig, seed, pace=pace, patient=patient)
        tasks = KILLS * tasks_per_kill
        clients = [
            await rig.start(
                "client", seed=seed + n, count=tasks // 2, pause=KILLS * pace / tasks * 6
            )
            for n in range(2)
        ]
        await add(rig.loom, rig.recorder, [Generator(seed).make("poison")])
        await nemesis.kill(KILLS)
        for pid in clients:
            assert await rig.ended(pid, 60 + KILLS) == 0
        violations = await rig.verdict()
        history = read_history(rig.reader.history())
        times = sorted(again - died for _, died, again in recoveries(history) if again < 1e9)
        print(
            f"seed {seed}: {len(nemesis.harmed)} kills, {len(history.specs)} tasks and "
            f"{len(history.spawned)} children, {len(times)} runs cut short, found again after at "
            f"most {max(times):.2f} s; events: {len(rig.reader.events)}"
        )
        assert not violations, "\n".join(map(str, violations))
        assert times, "no kill hit a run: the test shows nothing"
