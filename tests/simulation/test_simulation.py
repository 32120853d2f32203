"""Simulations of the whole path: `TASKLOOM_SIMULATIONS` of them, or the one `TASKLOOM_TEST_SEED`.

`TASKLOOM_FIRST_SEED` starts elsewhere than at 0.

A failure names its seed and the command that replays it, step by step the same.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from simulation.checker import check
from simulation.planted import MISTAKES, planted
from simulation.workload import make_scenario
from simulation.world import MAX_DELIVERIES, quiet_logs, simulate

BLOCK = 100
COUNT = int(os.environ.get("TASKLOOM_SIMULATIONS", "2000"))
FIRST = int(os.environ.get("TASKLOOM_FIRST_SEED", "0"))
ONE = os.environ.get("TASKLOOM_TEST_SEED")
BLOCKS = (
    [range(int(ONE), int(ONE) + 1)]
    if ONE is not None
    else [range(at, min(at + BLOCK, FIRST + COUNT)) for at in range(FIRST, FIRST + COUNT, BLOCK)]
)
REPLAY = "TASKLOOM_TEST_SEED={} .venv/bin/python -m pytest tests/simulation"


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with quiet_logs():
        yield


def violations(seed: int) -> list[str]:
    events, final = simulate(make_scenario(seed))
    return check(events, final, max_deliveries=MAX_DELIVERIES)


@pytest.mark.parametrize("seeds", BLOCKS, ids=lambda seeds: f"{seeds[0]}-{seeds[-1]}")
@pytest.mark.timeout(300)
def test_simulations(seeds: range) -> None:
    bad = {seed: found for seed in seeds if (found := violations(seed))}
    if not bad:
        return
    shortest = min(bad, key=lambda seed: len("".join(bad[seed])))
    replay = REPLAY.format(shortest)
    story = "\n".join([*bad[shortest], str(make_scenario(shortest))])
    pytest.fail(f"seeds {sorted(bad)}; replay one with\n  {replay}\n{story}", pytrace=False)


@pytest.mark.skipif(ONE is not None, reason="one seed is replayed")
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_planted_mistake_is_noticed(mistake: str) -> None:
    for seed in range(2000):
        with planted(mistake):
            found = violations(seed)
        if found and not violations(seed):
            return
    pytest.fail(f"2,000 simulations did not notice: {mistake}")


_DIGEST = """
import hashlib, sys
sys.path.insert(0, sys.argv[1])
from simulation.workload import make_scenario
from simulation.world import quiet_logs, simulate
with quiet_logs():
    stories = "".join(str(e) for seed in range(40) for e in simulate(make_scenario(seed))[0])
print(hashlib.sha256(stories.encode()).hexdigest())
"""


def test_a_seed_gives_the_same_history_in_every_process() -> None:
    """Whatever the hash seed: otherwise nothing could be replayed."""
    digests = {
        subprocess.run(
            [sys.executable, "-c", _DIGEST, os.path.dirname(os.path.dirname(__file__))],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2", "3")
    }
    assert len(digests) == 1
