"""F4 and F5: user code that ends its process, and user code that raises what it should not."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from checker import Rules
from generator import Generator, add
from rig import OpenRig, Rig

RULES = Rules(max_deliveries=5)
WORKERS = 4


@pytest.mark.parametrize("way", ["kill", "exit", "segv"])
async def test_a_task_that_ends_its_process_is_set_aside(
    tmp_path: Path, open_rig: OpenRig, way: str
) -> None:
    """After `max_deliveries`, and those that were with it end well."""
    generator = Generator(4)
    async with open_rig(tmp_path / "rig", RULES) as rig:
        poison, task = generator.make("poison", way=way, **{"for": 0.0})
        others = [generator.make("plain", **{"for": 0.02}) for _ in range(30)]
        await add(rig.loom, rig.recorder, [*others[:15], (poison, task), *others[15:]])
        await rig.keep_workers(1)
        violations = await rig.verdict()
        ended = {final.id: final for final in await rig.finals()}
        assert ended[poison.id].poison
        assert ended[poison.id].status == "failed"
        runs = [event for event in rig.of("run.start") if event.task == poison.id]
        assert len(runs) == RULES.max_deliveries
        hit = [spec.id for spec, _ in others if ended[spec.id].status != "executed"]
        assert not hit, f"{len(hit)} of {len(others)} neighbours were set aside with it"
        assert not violations, "\n".join(map(str, violations))


@pytest.mark.alone
async def test_the_others_keep_their_rate(tmp_path: Path, open_rig: OpenRig) -> None:
    """At least 90 % of the rate just before, in the same run, while a task kills its workers."""
    generator = Generator(5)
    async with open_rig(tmp_path / "rig", RULES) as rig:
        await rig.keep_workers(WORKERS)
        feeding = asyncio.create_task(_feed(rig, generator))
        try:
            await rig.until("run.end", count=600)
            middle = time.monotonic()
            poison = generator.make("poison", way="exit", **{"for": 0.0})
            await add(rig.loom, rig.recorder, [poison])
            settled = await rig.until(
                "settle",
                lambda e: any(k[0] == poison[0].id and k[2] == "failed" for k in e.keys),
            )
        finally:
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)
        ends = [event.t for event in rig.of("run.end")]
        over = settled[0].t
        start = ends[200]  # the first ones came while workers were starting
        before = sum(start < t <= middle for t in ends) / (middle - start)
        during = sum(middle < t <= over for t in ends) / (over - middle)
        print(f"{before:.0f} tasks a second before, {during:.0f} during")
        assert not await rig.verdict()
        assert during >= 0.9 * before


async def _feed(rig: Rig, generator: Generator) -> None:
    """A steady stream, somewhat below what the workers could do."""
    while True:
        made = [generator.make("plain", **{"for": 0.04}) for _ in range(10)]
        await add(rig.loom, rig.recorder, made)
        await asyncio.sleep(0.05)


async def test_the_worker_survives_what_user_code_raises(tmp_path: Path, open_rig: OpenRig) -> None:
    """A failed attempt each, never a shutdown; the second attempt succeeds in the same process."""
    names = (
        "SystemExit",
        "KeyboardInterrupt",
        "CancelledError",
        "RecursionError",
        "MemoryError",
        "GeneratorExit",
    )
    generator = Generator(6)
    async with open_rig(tmp_path / "rig") as rig:
        worker = await rig.start()
        for name in names:
            spec, task = generator.make("raises", **{"raise": name})
            spec.retries = 1
            await add(rig.loom, rig.recorder, [(spec, task.replace(retries=1))])
        await rig.drain()
        assert worker in rig.alive
        assert not await rig.verdict()
        assert len(rig.of("run.start")) == 2 * len(names)
        assert {final.status for final in await rig.finals()} == {"executed"}
