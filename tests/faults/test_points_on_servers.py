"""F2 on servers: `kill -9` of a process at every named point, one after the other.

PostgreSQL has the points of SQLite; what a process leaves in the middle of a transaction is undone
by the server. On Redis queue and storage are two things, and between them lie more points:

- C01: claimed, and the row not taken over, or taken over and nobody has heard of it.
- C06: children put on the queue by the dozen, before and after.
- C09 to C12: the barrier and projections beside, then the acknowledgement, which is the last write.
- C13, C14: acknowledged, or given back for another attempt, and nobody has the answer.
- C15: claimed from the storage, put on the queue, noted as such.

On MongoDB a process dies between the commands of a settle, too: in a transaction all of them are
undone, without one those that came before stay.

`TASKLOOM_TEST_TIMES=20` goes through all of them so often.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pytest
from checker import Rules
from generator import Generator, add
from recorder import Event
from rig import OpenRig, Rig, seed_of

TIMES = int(os.environ.get("TASKLOOM_TEST_TIMES", "1"))
KILLED = -signal.SIGKILL
LEASES = {"kinesis": 3.0, "mongodb": 4.0, "mongodb-steps": 4.0}
"""Where one of 1 s is too short: what a process held of a shard comes again after the shard's lock;
to claim, renew or settle a hundred tasks takes the server of MongoDB up to half a second each."""
Point = tuple[str, str, Mapping[str, int]]

MIXED = {"plain": 3, "parent": 3, "flaky": 2, "batch": 2, "eager": 1, "keyed": 1, "delayed": 3}
FLOWS = {"flow": 2, "flow-aborted": 1, "flow-timed": 1}
ON_ENTITIES = {"on-entity": 1}
PARENTS = {"parent": 1}
FLAKY = {"flaky": 1}
PLAIN = {"plain": 1}
DELAYED = {"delayed": 1}

IN_DOCUMENTS: list[Point] = [
    ("C15", "recover.before", MIXED),
    ("C01", "claim.after", MIXED),
    ("C02", "project.before", ON_ENTITIES),
    ("C03", "body.before", MIXED),
    ("C06", "settle.at-insert", PARENTS),
    ("C06, C07", "settle.mid-insert", PARENTS),
    ("C07", "settle.before", MIXED),
    ("C08", "settle.at-update", PARENTS),
    ("C13", "settle.mid-update", MIXED),
    ("C09", "settle.at-result", FLOWS),
    ("C09", "settle.mid-result", FLOWS),
    ("C09", "settle.at-count", FLOWS),
    ("C10", "settle.mid-count", FLOWS),
    ("C11", "settle.at-sent", FLOWS),
    ("C11", "settle.mid-sent", FLOWS),
    ("C11", "settle.at-project", FLOWS),
    ("C12", "settle.mid-project", FLOWS),
    ("C12", "settle.after", MIXED),
    ("C14", "settle-retry.after", FLAKY),
    ("C19", "extend.before", PLAIN),
    ("C19", "extend.after", PLAIN),
    ("C15", "recover.after", MIXED),
]

# Whoever dies in its upkeep leaves a lock on it: the points of C15 lie apart.
POINTS: dict[str, list[Point]] = {
    "postgresql": [
        ("C15", "recover.before", MIXED),
        ("C01", "claim.after", MIXED),
        ("C02", "project.before", ON_ENTITIES),
        ("C03", "body.before", MIXED),
        ("C06", "settle.mid-insert", PARENTS),
        ("C07", "settle.before", MIXED),
        ("C07", "settle.before-commit", PARENTS),
        ("C08, C13", "settle.mid-update", MIXED),
        ("C09, C10", "settle.mid-count", FLOWS),
        ("C11", "settle.at-project", FLOWS),
        ("C15", "recover_stale.before-commit", MIXED),
        ("C11", "settle.at-flow", FLOWS),
        ("C12", "settle.after", MIXED),
        ("C14", "settle-retry.after", FLAKY),
        ("C19", "extend.before", PLAIN),
        ("C19", "extend.before-commit", PLAIN),
        ("C19", "extend.after", PLAIN),
    ],
    "redis": [
        ("C15", "recover.before", MIXED),
        ("C01", "claim.after", MIXED),
        ("C01", "take.before", MIXED),
        ("C01", "take.after", MIXED),
        ("C02", "project.before", ON_ENTITIES),
        ("C03", "body.before", MIXED),
        ("C15", "due.before", MIXED),
        ("C06", "put.before", PARENTS),
        ("C07", "put.after", PARENTS),
        ("C07", "settle.before", MIXED),
        ("C12", "settle.after", MIXED),
        ("J4", "open.before", FLOWS),
        ("J4", "open.after", FLOWS),
        ("C15", "move.before", DELAYED),
        ("C09", "record.before", FLOWS),
        ("C10", "record.after", FLOWS),
        ("C11", "joined.before", FLOWS),
        ("C11", "joined.after", FLOWS),
        ("C11", "project-end.before", FLOWS),
        ("C12", "project-end.after", FLOWS),
        ("C15", "queued.before", DELAYED),
        ("C12", "ack.before", MIXED),
        ("C13", "ack.after", MIXED),
        ("C14", "settle-retry.after", FLAKY),
        ("C14", "back.before", FLAKY),
        ("C14", "back.after", FLAKY),
        ("C19", "extend.before", PLAIN),
        ("C19", "extend.after", PLAIN),
        ("C19", "extend-rows.before", PLAIN),
        ("C19", "extend-rows.after", PLAIN),
    ],
    "kinesis": [
        ("C15", "recover.before", MIXED),
        ("C01", "claim.after", MIXED),
        ("C01", "take.before", MIXED),
        ("C01", "take.after", MIXED),
        ("C02", "project.before", ON_ENTITIES),
        ("C03", "body.before", MIXED),
        ("C15", "due.before", MIXED),
        ("C06", "put.before", PARENTS),
        ("C07", "put.after", PARENTS),
        ("C07", "settle.before", MIXED),
        ("C12", "settle.after", MIXED),
        ("J4", "open.before", FLOWS),
        ("J4", "open.after", FLOWS),
        ("C15", "move.before", DELAYED),
        ("C09", "record.before", FLOWS),
        ("C10", "record.after", FLOWS),
        ("C11", "joined.before", FLOWS),
        ("C11", "joined.after", FLOWS),
        ("C11", "project-end.before", FLOWS),
        ("C12", "project-end.after", FLOWS),
        ("C15", "queued.before", DELAYED),
        ("C12", "ack.before", MIXED),
        ("C12", "checkpoint.before", MIXED),
        ("C13", "checkpoint.after", MIXED),
        ("C13", "ack.after", MIXED),
        ("C14", "settle-retry.after", FLAKY),
        ("C19", "extend.before", PLAIN),
        ("C19", "extend.after", PLAIN),
        ("C19", "extend-rows.before", PLAIN),
        ("C19", "extend-rows.after", PLAIN),
    ],
    "mongodb": [*IN_DOCUMENTS, ("C12", "settle.before-commit", PARENTS)],
    "mongodb-steps": IN_DOCUMENTS,
}


@pytest.mark.timeout(60 + 60 * TIMES)
@pytest.mark.parametrize("engine", list(POINTS))
async def test_a_worker_dies_everywhere(tmp_path: Path, open_rig: OpenRig, engine: str) -> None:
    seed = seed_of(81)
    points = POINTS[engine] * TIMES
    async with open_rig(tmp_path / "rig", _rules(engine, len(points)), engine=engine) as rig:
        for nth, (_, point, kinds) in enumerate(points):
            long = point.startswith("extend")  # so that leases are renewed
            # The server of MongoDB does some hundred operations a second.
            count, lasting = (3, 4.0) if engine.startswith("mongodb") else (8, 1.5)
            generator = Generator(seed + nth, kinds, busy=lasting if long else 0.05)
            await add(rig.loom, rig.recorder, [generator.make() for _ in range(count)])
            pid = await rig.start(crash=point)
            await _dies(rig, pid, point)
        for kind in ("dies-once", "unencodable"):  # C04, C05
            await add(rig.loom, rig.recorder, [Generator(seed).make(kind)])
            await _dies(rig, await rig.start(), kind)
        await _all_is_well(rig, seed)


DRAINS = {
    "postgresql": [
        "drain.settle.before",
        "drain.settle.after",
        "release.before",
        "release.before-commit",
        "release.after",
    ],
    "redis": [
        "drain.settle.before",
        "drain.settle.after",
        "drain.ack.before",
        "drain.ack.after",
        "release.before",
        "release.after",
    ],
    "kinesis": [
        "drain.settle.before",
        "drain.settle.after",
        "drain.ack.before",
        "drain.ack.after",
        "release.before",
        "release.after",
    ],
    "mongodb": ["drain.settle.before", "drain.settle.after", "release.before", "release.after"],
}


@pytest.mark.timeout(60 + 30 * TIMES)
@pytest.mark.parametrize("engine", list(DRAINS))
async def test_a_worker_dies_while_it_shuts_down(
    tmp_path: Path, open_rig: OpenRig, engine: str
) -> None:
    """C18."""
    seed = seed_of(82)
    points = DRAINS[engine] * TIMES
    async with open_rig(tmp_path / "rig", _rules(engine, len(points)), engine=engine) as rig:
        for nth, point in enumerate(points):
            generator = Generator(seed + nth)
            made = [generator.make("plain", **{"for": 0.1 + n / 200}) for n in range(16)]
            await add(rig.loom, rig.recorder, made)
            pid = await rig.start(crash=point)
            await rig.until("run.start", partial(_by, pid))
            rig.signal(pid, signal.SIGTERM, "term")
            await _dies(rig, pid, point)
        await _all_is_well(rig, seed)


ADDS = {
    "postgresql": ["add.before", "add.after"],
    "redis": ["add.before", "add.after", "put.before", "put.after"],
    "kinesis": ["add.before", "add.after", "put.before", "put.after"],
    "mongodb": ["add.before", "add.after"],
}


@pytest.mark.parametrize("engine", list(ADDS))
async def test_a_client_dies_while_it_adds(tmp_path: Path, open_rig: OpenRig, engine: str) -> None:
    """What it had heard to be accepted runs; so does what was stored and not put on the queue."""
    seed = seed_of(83)
    points = ADDS[engine] * TIMES
    async with open_rig(tmp_path / "rig", _rules(engine, len(points)), engine=engine) as rig:
        for nth, point in enumerate(points):
            pid = await rig.start("client", crash=point, nth=3, seed=seed + nth, count=60)
            await _dies(rig, pid, point)
        assert len(rig.of("add.invoke")) >= 3 * len(points)
        await _all_is_well(rig, seed)


async def _dies(rig: Rig, pid: int, point: str) -> None:
    try:
        assert await rig.ended(pid) == KILLED, point
    except TimeoutError:
        pytest.fail(f"it never came to {point}")


def _rules(engine: str, deaths: int) -> Rules:
    """A healthy worker comes only after the last death."""
    lease = LEASES.get(engine, 1.0)
    return Rules(lease=lease, max_deliveries=deaths + 5, recovery=60.0 + 10 * TIMES)


def _by(pid: int, event: Event) -> bool:
    return event.pid == pid


async def _all_is_well(rig: Rig, seed: int) -> None:
    # What nobody has put on the queue is found by its age, which is 2 days unless told.
    await rig.start(stale_after=3.0)
    violations = await rig.verdict()
    assert not violations, f"seed {seed}:\n" + "\n".join(map(str, violations))
