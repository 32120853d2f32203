"""F2: `kill -9` of a worker at each named point that exists where storage and queue are one.

On SQLite a claim is one UPDATE and a settle one transaction, so some of the points of FAULTS.md
have no place between two calls. They are reached inside the transaction, or fall together:

- C01: the claim records the lease. Killed when it is committed and nobody has its answer.
- C06, C07, C08, C13: children, outcomes and acknowledgements are one transaction. Killed in the
  middle of its UPDATE, in the middle of its INSERT, and before its COMMIT.
- C12, C14: nothing lies between settle and acknowledgement, or retry and acknowledgement. Killed
  when the settle is committed and its answer is not there.
- C15: nothing moves from storage to queue. Killed in the upkeep that makes lost tasks due again.
- C02, C09, C10, C11: projections and flows, in `test_flow_crash_points`.
- C16, C17: handoff, in `test_handoff_kill`.
"""

from __future__ import annotations

import signal
from functools import partial
from pathlib import Path

import pytest
from checker import Rules
from generator import Generator, add
from recorder import Event
from rig import OpenRig, Rig, seed_of

TIMES = 3
RULES = Rules(max_deliveries=10, recovery=10.0)  # a healthy worker comes only after the third death
KILLED = -signal.SIGKILL
MIXED = {"plain": 3, "parent": 3, "flaky": 2, "batch": 2, "eager": 1, "keyed": 1}

POINTS = [
    ("C01", "claim.after", MIXED),
    ("C03", "body.before", MIXED),
    ("C06", "settle.mid-insert", {"parent": 1}),
    ("C07", "settle.before-commit", {"parent": 1}),
    ("C07", "settle.before", MIXED),
    ("C08, C13", "settle.mid-update", MIXED),
    ("C12", "settle.after", MIXED),
    ("C14", "settle-retry.after", {"flaky": 1}),
    ("C19", "extend.before", {"plain": 1}),
    ("C19", "extend.before-commit", {"plain": 1}),
    ("C19", "extend.after", {"plain": 1}),
]


@pytest.mark.parametrize(
    ("point", "kinds"),
    [pytest.param(point, kinds, id=f"{name} {point}") for name, point, kinds in POINTS],
)
async def test_a_worker_dies_there(
    tmp_path: Path, open_rig: OpenRig, point: str, kinds: dict[str, int]
) -> None:
    seed = seed_of(1)
    long = point.startswith("extend")
    generator = Generator(seed, kinds, busy=1.5 if long else 0.05)
    async with open_rig(tmp_path / "rig", RULES) as rig:
        for nth in range(1, TIMES + 1):
            for made in generator.batches(12):
                await add(rig.loom, rig.recorder, made)
            pid = await rig.start(crash=point, nth=nth)
            assert await rig.ended(pid) == KILLED
        await _all_is_well(rig, seed)


@pytest.mark.parametrize("kind", ["dies-once", "unencodable"])
async def test_a_worker_dies_in_user_code(tmp_path: Path, open_rig: OpenRig, kind: str) -> None:
    """C04: after the side effect of a body. C05: while its result is encoded."""
    seed = seed_of(5)
    generator = Generator(seed, MIXED, busy=0.05)
    async with open_rig(tmp_path / "rig", RULES) as rig:
        for _ in range(TIMES):
            made = [generator.make(kind), *(generator.make() for _ in range(11))]
            await add(rig.loom, rig.recorder, made)
            assert await rig.ended(await rig.start()) == KILLED
        await _all_is_well(rig, seed)


@pytest.mark.parametrize("nth", range(1, TIMES + 1))
@pytest.mark.parametrize("point", ["recover.before", "recover_stale.before-commit"])
async def test_a_worker_dies_in_its_upkeep(
    tmp_path: Path, open_rig: OpenRig, point: str, nth: int
) -> None:
    """C15. The lock it leaves keeps others from upkeep for a while; no task waits for that."""
    seed = seed_of(6 + nth)
    generator = Generator(seed, MIXED, busy=0.05)
    async with open_rig(tmp_path / "rig", RULES) as rig:
        await add(rig.loom, rig.recorder, [generator.make() for _ in range(30)])
        assert await rig.ended(await rig.start(crash=point, nth=nth)) == KILLED
        await _all_is_well(rig, seed)


DRAINS = [
    "release.before",
    "release.before-commit",
    "release.after",
    "settle.before",
    "settle.after",
]


@pytest.mark.parametrize("call", DRAINS)
async def test_a_worker_dies_while_it_shuts_down(
    tmp_path: Path, open_rig: OpenRig, call: str
) -> None:
    """C18."""
    seed = seed_of(2)
    point = call if "commit" in call else f"drain.{call}"
    async with open_rig(tmp_path / "rig", RULES) as rig:
        for nth in range(1, TIMES + 1):
            made = [Generator(seed + nth).make("plain", **{"for": 0.3 + n / 50}) for n in range(30)]
            await add(rig.loom, rig.recorder, made)
            # The first of such calls: there may be no other. One releases all that has not
            # started, and where the machine stands still meanwhile, one settles all that ended.
            pid = await rig.start(crash=point)
            await rig.until("run.start", partial(_by, pid))
            rig.signal(pid, signal.SIGTERM, "term")
            assert await rig.ended(pid) == KILLED
        await _all_is_well(rig, seed)


@pytest.mark.parametrize(
    "point", ["set-aside.before", "set_aside.before-commit", "set-aside.after"]
)
async def test_a_worker_dies_while_it_sets_a_record_aside(
    tmp_path: Path, open_rig: OpenRig, point: str
) -> None:
    """C20. The record is kept with its bytes, once, and its neighbours go on."""
    seed = seed_of(3)
    generator = Generator(seed, {"plain": 1}, busy=0.02)
    async with open_rig(tmp_path / "rig", RULES) as rig:
        for _ in range(TIMES):
            spec, bad = generator.make()
            await rig.loom.add_tasks([bad])
            await rig.place.spoil(spec.id)
            await add(rig.loom, rig.recorder, [generator.make() for _ in range(5)])
            pid = await rig.start(crash=point)
            assert await rig.ended(pid) == KILLED
        await rig.start()
        await rig.drain()
        dead = await rig.loom.handler.storage.dead_records()  # type: ignore[attr-defined]
        assert [record.raw for record in dead].count(b"{spoilt") == 1
        ended = {final.id: final.status for final in await rig.finals()}
        good = {spec.id for event in rig.of("add.invoke") for spec in event.specs}
        assert len(good) == 5 * TIMES
        assert {ended[id] for id in good} == {"executed"}
        assert sum(status == "failed" for status in ended.values()) == TIMES


@pytest.mark.parametrize("point", ["add.before", "add.before-commit", "add.after"])
async def test_a_client_dies_while_it_adds(tmp_path: Path, open_rig: OpenRig, point: str) -> None:
    """Each call of `add_tasks` is accepted whole or not at all, whatever its caller heard."""
    seed = seed_of(4)
    async with open_rig(tmp_path / "rig", RULES) as rig:
        for nth in range(1, TIMES + 1):
            pid = await rig.start("client", crash=point, nth=nth, seed=seed + nth, count=60)
            assert await rig.ended(pid) == KILLED
        assert len(rig.of("add.invoke")) == sum(range(1, TIMES + 1))
        await _all_is_well(rig, seed)


def _by(pid: int, event: Event) -> bool:
    return event.pid == pid


async def _all_is_well(rig: Rig, seed: int) -> None:
    await rig.start()
    violations = await rig.verdict()
    assert not violations, f"seed {seed}:\n" + "\n".join(map(str, violations))
