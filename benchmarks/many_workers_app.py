"""The Loom of `many_workers`: its workers count in files, one each, that their parent reads."""

from __future__ import annotations

import asyncio
import mmap
import os
from functools import cache
from pathlib import Path

from benchmarks.ours import QUEUE
from benchmarks.work import FIRST
from taskloom import Loom

__all__ = ["COUNTED_TASKS", "GATE", "PLACE", "URL", "loom"]

URL, PLACE, COUNTED_TASKS = "BENCH_URL", "BENCH_PLACE", "BENCH_TASKS"
"""The variables that say where the tasks are, where to count, and how many there are."""
GATE = "open"
"""The file that lets the first tasks go on: the clock starts when every worker holds one."""
_LOOK_EVERY = 0.005

loom = Loom(os.environ.get(URL, "memory://"))


@loom.task(queue=QUEUE)
async def noop(number: int, text: str) -> None:
    """Counted once every worker is there."""
    tally = _tally()
    gate = Path(os.environ[PLACE]) / GATE
    while not _is_open(gate):  # noqa: ASYNC110 (another process opens it)
        await asyncio.sleep(_LOOK_EVERY)
    tally[number - FIRST] += 1


_open: set[Path] = set()


def _is_open(gate: Path) -> bool:
    """Asks the disk no more once the answer was yes."""
    if gate not in _open and gate.exists():
        _open.add(gate)
    return gate in _open


@cache
def _tally() -> mmap.mmap:
    """This worker's file: it outlives the process, and no other writes to it."""
    path = Path(os.environ[PLACE]) / f"{os.getpid()}.tally"
    hidden = path.with_suffix(".new")
    hidden.write_bytes(bytes(int(os.environ[COUNTED_TASKS])))
    hidden.rename(path)  # whole when it is seen
    with path.open("r+b") as file:
        return mmap.mmap(file.fileno(), 0)
