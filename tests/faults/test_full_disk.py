"""D1: the disk is full. `add_tasks` says so, nothing is half accepted, and all goes on later."""

from __future__ import annotations

import resource
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from checker import Rules
from generator import Generator, Made, add
from rig import OpenRig, Rig

from taskloom.errors import StorageUnavailableError

SMALL = 48 * 1024 * 1024
PAYLOAD = "x" * 50_000
RULES = Rules(lease=10.0)
"""A settle that finds no room is said again: within a lease of a second that may not be in time."""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a few megabytes, most of which a file called `filler` holds."""
    place = tmp_path / "disk"
    place.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={SMALL}", "tmpfs", str(place)]
    made = subprocess.run(["mount", *options], capture_output=True, check=False)
    if made.returncode:
        pytest.skip("only root can mount a tmpfs; the other test limits the size of files instead")
    try:
        (place / "filler").write_bytes(bytes(SMALL * 3 // 4))
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@contextmanager
def files_limited(size: int) -> Iterator[None]:
    """No file of this process may grow beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignoring = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignoring)


async def test_a_full_disk(small_disk: Path, tmp_path: Path, open_rig: OpenRig) -> None:
    url = f"sqlite:///{small_disk}/tasks.db"
    async with open_rig(tmp_path / "rig", RULES, url=url) as rig:
        generator = Generator(71)
        await _until_full(rig, generator)
        (small_disk / "filler").unlink()
        await _goes_on(rig, generator)


async def test_a_file_that_may_not_grow(tmp_path: Path, open_rig: OpenRig) -> None:
    async with open_rig(tmp_path / "rig", RULES) as rig:
        generator = Generator(72)
        await add(rig.loom, rig.recorder, _large(generator))
        with files_limited(SMALL // 8):
            await _until_full(rig, generator)
        await _goes_on(rig, generator)


def _large(generator: Generator) -> list[Made]:
    return [generator.make("plain", text=PAYLOAD, **{"for": 0.0}) for _ in range(5)]


async def _until_full(rig: Rig, generator: Generator) -> None:
    """Add until it is refused, several times; the error says what to do."""
    refused = 0
    for _ in range(400):
        error = await add(rig.loom, rig.recorder, _large(generator))
        if error is not None:
            assert isinstance(error, StorageUnavailableError)
            assert "disk" in str(error)
            refused += 1
        if refused == 3:
            break
    assert refused == 3
    known = {final.id for final in await rig.finals()}
    calls = {event.call: {spec.id for spec in event.specs} for event in rig.of("add.invoke")}
    accepted = {id for event in rig.of("add.ok") for id in calls[event.call]}
    assert known == accepted, "nothing is half accepted, and nothing accepted is missing"


async def _goes_on(rig: Rig, generator: Generator) -> None:
    """There is room again: adding works, and everything accepted runs."""
    assert await add(rig.loom, rig.recorder, _large(generator)) is None
    await rig.start()
    violations = await rig.verdict()
    assert not violations, "\n".join(map(str, violations))
    with closing(sqlite3.connect(rig.place.file)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
