"""J6, C16 and C17: workers that die with handed-off tasks in their hands."""

from __future__ import annotations

import signal
from functools import partial
from pathlib import Path

import pytest
from bodies import HANDED_OFF_AFTER, SLOTS
from checker import Rules
from generator import Generator, Made, add
from recorder import Event
from rig import OpenRig, Rig, seed_of

MANY = 100
KILLED = -signal.SIGKILL


def _by(pid: int, event: Event) -> bool:
    return event.pid == pid


async def test_a_worker_dies_with_100_handed_off_tasks(tmp_path: Path, open_rig: OpenRig) -> None:
    """J6: all of them run again within lease + 2 s."""
    generator = Generator(seed_of(51))
    async with open_rig(tmp_path / "rig") as rig:
        first = await rig.start()
        made = [generator.make("handed-off-lingers") for _ in range(MANY)]
        await add(rig.loom, rig.recorder, made)
        await rig.until("run.start", partial(_by, first), count=MANY)
        assert not rig.of("run.end"), "its 8 slots had room for all of them"
        second = await rig.start()
        await rig.until("worker.ready", partial(_by, second))
        rig.kill(first)
        starts = await rig.until("run.start", partial(_by, second), count=MANY)
        [fault] = [event for event in rig.of("fault") if event.word == "kill"]
        assert {event.task for event in starts} == {spec.id for spec, _ in made}
        assert max(event.t for event in starts) - fault.t < rig.rules.lease + rig.rules.recovery
        assert not await rig.verdict()


async def test_a_living_worker_keeps_handed_off_tasks_beyond_their_lease(
    tmp_path: Path, open_rig: OpenRig
) -> None:
    """Another worker stands by and gets none of them: each runs once, two leases long."""
    generator = Generator(seed_of(52))
    async with open_rig(tmp_path / "rig") as rig:
        first = await rig.start()
        long = 2 * rig.rules.lease
        made = [generator.make("handed-off", **{"for": long}) for _ in range(3 * SLOTS)]
        await add(rig.loom, rig.recorder, made)
        await rig.until("run.start", partial(_by, first), count=len(made))
        await rig.start()
        assert not await rig.verdict()
        assert len(rig.of("run.start")) == len(made)


@pytest.mark.parametrize("point", ["settle.before", "settle.before-commit", "settle.after"])
async def test_a_worker_dies_with_handed_off_tasks_that_have_ended(
    tmp_path: Path, open_rig: OpenRig, point: str
) -> None:
    """C17: they have ended and are not written, or written and nobody has heard of it."""
    async with open_rig(tmp_path / "rig", Rules(max_deliveries=10, recovery=10.0)) as rig:
        await add(rig.loom, rig.recorder, _long(seed_of(53), 2 * SLOTS))
        pid = await rig.start(crash=point)
        assert await rig.ended(pid) == KILLED
        await _all_is_well(rig)


async def test_a_worker_dies_while_it_hands_off(tmp_path: Path, open_rig: OpenRig) -> None:
    """C16: nothing is written by a handoff; killed as each slot starts its second task."""
    async with open_rig(tmp_path / "rig", Rules(max_deliveries=10, recovery=10.0)) as rig:
        await add(rig.loom, rig.recorder, _long(seed_of(54), 4 * SLOTS))
        for _ in range(3):
            pid = await rig.start()
            await rig.until("run.start", partial(_by, pid), count=SLOTS + 1)
            rig.kill(pid)
            assert await rig.ended(pid) == KILLED
        await _all_is_well(rig)


def _long(seed: int, count: int) -> list[Made]:
    generator = Generator(seed)
    return [generator.make("handed-off", **{"for": 8 * HANDED_OFF_AFTER}) for _ in range(count)]


async def _all_is_well(rig: Rig) -> None:
    await rig.start()
    violations = await rig.verdict()
    assert not violations, "\n".join(map(str, violations))
