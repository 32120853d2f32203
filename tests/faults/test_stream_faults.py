"""F4 and C20 on Kinesis: what kills its worker, and what is no task, each set aside by itself.

Every delivery is to another process: only the checkpoint knows of those before.
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from checker import Rules
from generator import Generator, add
from rig import OpenRig

KILLED = -signal.SIGKILL
RULES = Rules(lease=5.0, recovery=10.0, max_deliveries=3)


async def test_what_kills_its_worker_is_set_aside_and_its_neighbours_are_not(
    tmp_path: Path, open_rig: OpenRig
) -> None:
    generator = Generator(4)
    async with open_rig(tmp_path / "rig", RULES, engine="kinesis") as rig:
        poison, task = generator.make("poison", way="kill", **{"for": 0.0})
        # Its key says to which shard a task goes, and its type if it has none: all are in one.
        task = task.replace(partition_key="plain")
        others = [generator.make("plain", **{"for": 0.02}) for _ in range(20)]
        await add(rig.loom, rig.recorder, [*others[:10], (poison, task), *others[10:]])
        await rig.keep_workers(1)
        violations = await rig.verdict()
        ended = {final.id: final for final in await rig.finals()}
        assert (ended[poison.id].status, ended[poison.id].poison) == ("failed", True)
        runs = [event.pid for event in rig.of("run.start") if event.task == poison.id]
        assert len(runs) == len(set(runs)) == RULES.max_deliveries
        assert {ended[spec.id].status for spec, _ in others} == {"executed"}
        assert not violations, "\n".join(map(str, violations))


@pytest.mark.parametrize("point", ["set-aside.before", "set-aside.after"])
async def test_a_worker_dies_while_it_sets_a_record_aside(
    tmp_path: Path, open_rig: OpenRig, point: str
) -> None:
    """The record is kept with its bytes, once, and its neighbours go on."""
    generator = Generator(3, {"plain": 1}, busy=0.02)
    async with open_rig(tmp_path / "rig", RULES, engine="kinesis") as rig:
        await rig.place.spoil("any")
        made = [generator.make() for _ in range(5)]
        await add(rig.loom, rig.recorder, made)
        assert await rig.ended(await rig.start(crash=point)) == KILLED
        await rig.start()
        violations = await rig.verdict()
        dead = await rig.loom.handler.storage.dead_records()  # type: ignore[attr-defined]
        assert [record.raw for record in dead] == [b"{spoilt"]
        assert not violations, "\n".join(map(str, violations))
