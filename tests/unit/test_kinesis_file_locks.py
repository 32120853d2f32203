"""Locks in files: a folder that is ours alone, names that lead nowhere, and many processes."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from taskloom.errors import ConfigurationError, StorageUnavailableError
from taskloom.kinesis import FileShardLocks

RACE = """
import asyncio, sys
from taskloom.kinesis import FileShardLocks

async def main(folder, me):
    async with FileShardLocks(folder) as locks:
        print("ready", flush=True)
        sys.stdin.readline()
        won = [number for number in range(200) if await locks.acquire_lock(f"s/{number}", me, 60)]
        print(*won)

asyncio.run(main(*sys.argv[1:]))
"""


def test_processes_never_share_a_lock(tmp_path: Path) -> None:
    command = [sys.executable, "-c", RACE, str(tmp_path / "locks")]
    pipe = subprocess.PIPE
    running = [
        subprocess.Popen([*command, f"p{number}"], stdin=pipe, stdout=pipe, text=True)
        for number in range(3)
    ]
    for each in running:
        assert each.stdout is not None
        assert each.stdout.readline() == "ready\n"
    for each in running:
        assert each.stdin is not None
        each.stdin.write("go\n")
        each.stdin.flush()
    won = [each.communicate(timeout=30)[0].split() for each in running]
    assert [each.returncode for each in running] == [0, 0, 0]
    assert sorted(int(number) for each in won for number in each) == list(range(200))


async def test_the_folder_is_made_for_us_alone(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "locks"
    async with FileShardLocks(folder) as locks:
        await locks.acquire_lock("s/../../escape", "a", 60)
        await locks.set_checkpoint("s/../../escape", "1", "a")
        await locks.send_heartbeat("/etc/passwd", "a", 60)
    check_private(tmp_path, folder)


def check_private(around: Path, folder: Path) -> None:
    assert folder.stat().st_mode & 0o777 == 0o700
    files = [path for path in around.rglob("*") if path.is_file()]
    assert {path.parent for path in files} == {folder}
    assert all(path.stat().st_mode & 0o077 == 0 for path in files)
    assert not any("escape" in path.name or "passwd" in path.name for path in files)


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o1777])
async def test_a_folder_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "locks"
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(ConfigurationError, match="chmod 700"):
        await FileShardLocks(folder).open()


async def test_a_link_instead_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "locks").symlink_to(tmp_path / "real")
    with pytest.raises(ConfigurationError, match="not a folder"):
        await FileShardLocks(tmp_path / "locks").open()


async def test_no_link_is_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text('{"owner": "a", "until": 9999999999.0, "checkpoint": "stolen"}')
    async with FileShardLocks(tmp_path / "locks") as locks:
        await locks.acquire_lock("s/1", "a", 60)
        (document,) = (tmp_path / "locks").glob("*.json")
        document.unlink()
        document.symlink_to(victim)
        for call in (locks.get_checkpoint("s/1"), locks.set_checkpoint("s/1", "2", "a")):
            with pytest.raises(StorageUnavailableError):
                await call
    assert "stolen" in victim.read_text()


async def test_a_damaged_document_counts_as_empty_and_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with FileShardLocks(tmp_path / "locks") as locks:
        await locks.acquire_lock("s/1", "a", 60)
        (document,) = (tmp_path / "locks").glob("*.json")
        document.write_bytes(b"")
        assert await locks.get_checkpoint("s/1") is None
        assert await locks.acquire_lock("s/1", "b", 60)
    assert "damaged" in caplog.text


async def test_a_checkpoint_given_up_on_is_not_written_after_a_later_one(tmp_path: Path) -> None:
    async with FileShardLocks(tmp_path / "locks") as locks:
        await locks.acquire_lock("s/1", "a", 60)
        for number in range(20):
            given_up = asyncio.create_task(locks.set_checkpoint("s/1", f"early {number}", "a"))
            await asyncio.sleep(0)
            given_up.cancel()
            await locks.set_checkpoint("s/1", f"late {number}", "a")
            assert await locks.get_checkpoint("s/1") == f"late {number}"


async def test_locks_that_are_not_open_say_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="not open"):
        await FileShardLocks(tmp_path).acquire_lock("s", "a", 60)
