"""Builds of the library with one guard removed: a short run of the rig catches each of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from checker import Rules, Violation
from generator import Generator, add
from nemesis import LAST_WORD, stopped_in_its_body
from rig import OpenRig, Rig, seed_of

RULES = Rules(max_deliveries=8, recovery=6.0)
BESIDE = Rules(max_deliveries=8, recovery=6.0, beside=True)
KILLED = -signal.SIGKILL
HERE = Path(__file__).parent


def _invariants(violations: list[Violation]) -> set[str]:
    return {violation.invariant for violation in violations}


async def _late_word(rig: Rig, guard: str) -> None:
    """A worker stops before its word and goes on when another has the task in hand."""
    first = await stopped_in_its_body(rig, without=guard)
    second = await rig.start(without=guard)
    await rig.until("settle", lambda event: event.pid == second)
    rig.signal(first, signal.SIGCONT, "cont")
    await rig.until("settle", lambda event: event.pid == first)


async def _late_settle(rig: Rig, guard: str) -> None:
    """A worker stops when it has trusted its lease, and goes on when another one has settled."""
    first = await rig.start(without=guard, crash=LAST_WORD[rig.engine], stops=True)
    await add(rig.loom, rig.recorder, [Generator(96).make("plain", **{"for": 0.0})])
    await rig.until("fault", lambda event: event.word == "stop")
    second = await rig.start(without=guard)
    await rig.until("settle", lambda event: event.pid == second)
    rig.signal(first, signal.SIGCONT, "cont")
    await rig.until("settle", lambda event: event.pid == first)


async def _eager_deaths(rig: Rig, guard: str) -> None:
    """Parents that add their children while they run, and workers that die before they settle."""
    await _deaths(rig, guard, "eager", "settle.before")


async def _parent_deaths(rig: Rig, guard: str) -> None:
    """Parents, and workers that die between the two steps that settling them is without the guard.

    With it the storage takes one step, and they die before that.
    """
    between = "add.before" if guard == "acknowledge-last" else "settle.before"
    await _deaths(rig, guard, "parent", between)


async def _deaths(rig: Rig, guard: str, kind: str, point: str) -> None:
    generator = Generator(91, {kind: 1}, busy=0.02)
    for _ in range(2):
        await add(rig.loom, rig.recorder, [generator.make() for _ in range(6)])
        assert await rig.ended(await rig.start(without=guard, crash=point)) == KILLED
    await rig.start(without=guard)


async def _deaths_between_steps(rig: Rig, guard: str) -> None:
    """Parents, and workers that die when they have written how these ended."""
    await _deaths(rig, guard, "parent", "settle.mid-update")


async def _crowd(rig: Rig, guard: str) -> None:
    """Workers that all wait for the same tasks."""
    for _ in range(3):
        await rig.start(without=guard)
    await rig.all_ready()
    generator = Generator(97)
    for _ in range(4):
        made = [generator.make("plain", **{"for": 0.3}) for _ in range(3)]
        await add(rig.loom, rig.recorder, made)
        await rig.until("run.end", count=len(rig.of("add.ok")) * len(made))


async def _long_tasks(rig: Rig, guard: str) -> None:
    """Tasks that take longer than a lease."""
    for _ in range(2):
        await rig.start(without=guard)
    made = [Generator(92).make("plain", **{"for": 1.6}) for _ in range(3)]
    await add(rig.loom, rig.recorder, made)


async def _shutdown(rig: Rig, guard: str) -> None:
    """A worker gives back what it has not started."""
    first = await rig.start(without=guard)
    made = [Generator(93).make("plain", **{"for": 0.2}) for _ in range(40)]
    await add(rig.loom, rig.recorder, made)
    await rig.until("run.end")
    rig.signal(first, signal.SIGTERM, "term")
    await rig.ended(first)
    await rig.start(without=guard)


async def _join_deaths(rig: Rig, guard: str) -> None:
    """Flows with a barrier beside the tasks, and a worker that dies as it notes a join."""
    generator = Generator(94, {"flow": 1}, busy=0.02)
    await add(rig.loom, rig.recorder, [generator.make() for _ in range(4)])
    assert await rig.ended(await rig.start(without=guard, crash="joined.after")) == KILLED
    await rig.start(without=guard)


async def _step_deaths(rig: Rig, guard: str) -> None:
    """Flows, and workers that die when their third settle is committed."""
    generator = Generator(95, {"flow": 1}, busy=0.02)
    for _ in range(2):
        await add(rig.loom, rig.recorder, [generator.make() for _ in range(6)])
        assert (
            await rig.ended(await rig.start(without=guard, crash="settle.after", nth=3)) == KILLED
        )
    await rig.start(without=guard)


CASES = [
    ("fencing", _late_word, {"I7"}, "sqlite"),
    ("acknowledge-last", _parent_deaths, {"I4", "I15"}, "sqlite"),
    ("derived-ids", _eager_deaths, {"I15"}, "sqlite"),
    ("leases", _long_tasks, {"I5", "I6"}, "sqlite"),
    ("release-not-counted", _shutdown, {"I8"}, "sqlite"),
    ("join-is-a-state", _join_deaths, {"I9"}, "sqlite"),
    ("count-with-settle", _step_deaths, {"I9"}, "sqlite"),
    ("fencing", _late_settle, {"I2"}, "postgresql"),
    ("acknowledge-last", _parent_deaths, {"I4", "I15"}, "postgresql"),
    ("derived-ids", _eager_deaths, {"I15"}, "postgresql"),
    ("stream-fencing", _late_settle, {"I2"}, "redis"),
    ("acknowledge-after-storing", _parent_deaths, {"I4", "I15"}, "redis"),
    ("derived-ids", _eager_deaths, {"I15"}, "redis"),
    ("document-fencing", _late_settle, {"I2"}, "mongodb"),
    ("document-fencing", _late_settle, {"I2"}, "mongodb-steps"),
    ("claim-only-what-is-due", _crowd, {"I5", "I6"}, "mongodb"),
    ("end-documents-last", _deaths_between_steps, {"I4", "I15"}, "mongodb-steps"),
]


def _rules(run: object) -> Rules:
    return BESIDE if run is _join_deaths else RULES


@pytest.mark.parametrize(
    ("guard", "run", "caught", "engine"),
    CASES,
    ids=[f"{guard} {run.__name__} {engine}" for guard, run, _, engine in CASES],
)
async def test_it_is_caught(
    tmp_path: Path, open_rig: OpenRig, guard: str, run: object, caught: set[str], engine: str
) -> None:
    async with open_rig(tmp_path / "rig", _rules(run), engine=engine) as rig:
        await run(rig, guard)  # type: ignore[operator]
        violations = await rig.verdict()
        found = _invariants(violations)
        assert found & caught, f"seed {seed_of(91)}: only {found}"


RUNS_ON_SERVERS = [_late_settle, _parent_deaths, _eager_deaths]
RUNS = [
    *(_late_word, _parent_deaths, _eager_deaths, _long_tasks, _shutdown),
    *(_join_deaths, _step_deaths),
]


@pytest.mark.parametrize(
    ("run", "engine"),
    [
        *((run, "sqlite") for run in RUNS),
        *((run, engine) for run in RUNS_ON_SERVERS for engine in ("postgresql", "redis")),
        *((run, "mongodb") for run in (_late_settle, _crowd)),
        *((run, "mongodb-steps") for run in (_late_settle, _deaths_between_steps)),
    ],
)
async def test_the_same_runs_are_clean_with_every_guard_in_place(
    tmp_path: Path, open_rig: OpenRig, run: object, engine: str
) -> None:
    async with open_rig(tmp_path / "rig", _rules(run), engine=engine) as rig:
        await run(rig, "")  # type: ignore[operator]
        violations = await rig.verdict()
        assert not violations, f"seed {seed_of(91)}:\n" + "\n".join(map(str, violations))


EVICTION = "tests/unit/test_handoff.py::test_a_run_longer_than_its_maximum_is_cancelled_and_told"


@pytest.mark.parametrize(("guard", "code"), [("eviction-cancels", 1), ("", 0)])
def test_a_test_of_handoff_notices_it(guard: str, code: int) -> None:
    """No process of the rig needs to die for this one: a test of the suite tells."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "without", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "--timeout=5", EVICTION],
        env={**os.environ, "PYTHONPATH": str(HERE), "TASKLOOM_TEST_WITHOUT": guard},
        cwd=HERE.parents[1],
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stdout
