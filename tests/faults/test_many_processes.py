"""D2: eight processes work on one SQLite file under full load. No error reaches anyone."""

from __future__ import annotations

from pathlib import Path

from checker import Rules
from rig import OpenRig, seed_of

TASKS = 1_600


async def test_eight_processes_on_one_file(tmp_path: Path, open_rig: OpenRig) -> None:
    seed = seed_of(61)
    # A lease that eight busy processes on two cores keep: none of them may lose one here.
    async with open_rig(tmp_path / "rig", Rules(lease=10.0)) as rig:
        workers = [await rig.start() for _ in range(6)]
        clients = [
            await rig.start("client", seed=seed + n, count=TASKS // 2, pause=0.0) for n in range(2)
        ]
        for pid in clients:
            assert await rig.ended(pid) == 0
        violations = await rig.verdict()
        assert not violations, f"seed {seed}:\n" + "\n".join(map(str, violations))
        # What hopeless tasks raise is told, and nothing else is.
        assert not [text for text in rig.told() if "as it was told to" not in text]
        assert not rig.of("add.fail")
        assert not rig.of("add.unknown")
        ran = {event.pid for event in rig.of("run.start")}
        assert ran == set(workers), "each of them had its share"
