"""F2 for flows and projections: `kill -9` of a worker at C02 and C09 to C12, and while flows start.

With flows and projections in the file of the tasks, C06 to C12 lie in one transaction: children,
steps, joins, projections and acknowledgement. Killed in the middle of the INSERT of tasks (C06: the
steps of a new flow, or a join) and of steps that count (C09, C10), at the start of the INSERT of
projections and of the UPDATE of flows (C11), before its COMMIT (C12), and when its answer never
arrives (after C12).

With a barrier and projections on a file beside it they are calls of their own. The acknowledgement
is the settle there, and the last of them: C09 is before the barrier is told, C10 before the join is
added, C11 before that is noted and before the projection, C12 before the settle.
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from checker import Rules
from generator import Generator, add
from rig import OpenRig, seed_of

TIMES = 3
KILLED = -signal.SIGKILL
FLOWS = {"flow": 2, "flow-aborted": 1, "flow-timed": 1, "on-entity": 1}

ONE_FILE = [
    ("C02", "project.before"),
    ("C06", "settle.mid-insert"),
    ("C09, C10", "settle.mid-count"),
    ("C11", "settle.at-project"),
    ("C11", "settle.at-flow"),
    ("C12", "settle.before-commit"),
    ("C12", "settle.after"),
]
BESIDE = [
    ("C02", "project.before"),
    ("J4", "open.before"),
    ("J4", "open.after"),
    ("C09", "record.before"),
    ("C10", "record.after"),
    ("C11", "joined.before"),
    ("C11", "joined.after"),
    ("C11", "project-end.before"),
    ("C12", "project-end.after"),
    ("C12", "settle.before"),
    ("C12", "settle.after"),
]
CASES = [
    pytest.param(point, beside, id=f"{name} {point}{' beside' if beside else ''}")
    for beside, points in ((False, ONE_FILE), (True, BESIDE))
    for name, point in points
]


@pytest.mark.parametrize(("point", "beside"), CASES)
async def test_a_worker_dies_there(
    tmp_path: Path, open_rig: OpenRig, point: str, beside: bool
) -> None:
    seed = seed_of(72)
    # A healthy worker comes only after the third death.
    rules = Rules(max_deliveries=10, recovery=10.0, beside=beside)
    generator = Generator(seed, FLOWS, busy=0.05)
    async with open_rig(tmp_path / "rig", rules) as rig:
        for nth in range(1, TIMES + 1):
            for made in generator.batches(8):
                await add(rig.loom, rig.recorder, made)
            pid = await rig.start(crash=point, nth=nth)
            assert await rig.ended(pid) == KILLED
        await rig.start()
        violations = await rig.verdict()
        assert not violations, f"seed {seed}:\n" + "\n".join(map(str, violations))
