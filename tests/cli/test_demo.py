"""`taskloom demo` on small folders: to its end, interrupted, on someone else's database."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from command_line import CommandLine

pytestmark = pytest.mark.timeout(180)  # starting processes is slow on a busy machine

URL = ("--url", "sqlite:///taskloom-demo.db")


def make_folder(place: Path, files: int) -> Path:
    """A folder of good files, one that cannot be read and one that cannot be decoded."""
    folder = place / "folder"
    (folder / "deep" / "__pycache__").mkdir(parents=True)
    (folder / "deep" / "__pycache__" / "left_out.pyc").write_bytes(b"")
    for number in range(files):
        (folder / f"file{number}.py").write_text(f"def f{number}():\n    return {number}\n")
    (folder / "deep" / "notes.txt").write_text("one\ntwo")
    (folder / "deep" / "latin.py").write_bytes(b"# -*- coding: latin-1 -*-\nx = 'caf\xe9'\n")
    (folder / "undecodable.py").write_bytes(b"x = 'caf\xe9'\n")
    (folder / "unreadable.py").symlink_to(folder / "nowhere")
    return folder


def reported(place: Path) -> dict[str, list[str]]:
    """The files of the report, each with its other cells."""
    lines = (place / "taskloom-demo-report.md").read_text().splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines[lines.index("## Files") + 4 :]]
    return {path: cells for path, *cells in rows}


def flows(cli: CommandLine) -> list[str]:
    """The ids of the demo's flows, the newest first."""
    return [flow["id"] for flow in cli.json("flows", "list", *URL)]


def ended(place: Path) -> dict[str, int]:
    """When each file's task ended."""
    with closing(sqlite3.connect(place / "taskloom-demo.db", timeout=30)) as database:
        query = (
            "SELECT id, updated_at FROM taskloom_tasks "
            "WHERE type = 'index_file' AND status IN ('executed', 'failed')"
        )
        return dict(database.execute(query))


def test_a_folder_is_indexed(cli: CommandLine) -> None:
    folder = make_folder(cli.place, files=20)
    done = cli.run("demo", str(folder))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "22 indexed, 2 failed" in done.stdout
    assert "cannot be decoded" in done.stdout
    assert "No such file or directory" in done.stdout
    assert "taskloom tasks list --status failed --url sqlite:///taskloom-demo.db" in done.stdout

    rows = reported(cli.place)
    assert len(rows) == 22
    assert rows["file7.py"][:3] == ["23", "2", "1"]
    assert rows["deep/notes.txt"][:3] == ["7", "2", ""]
    assert "deep/latin.py" in rows
    report = (cli.place / "taskloom-demo-report.md").read_text()
    assert "| undecodable.py | 3 | cannot be decoded" in report

    failed = cli.json("tasks", "list", "--status", "failed", *URL)
    assert [task["retry_count"] for task in failed] == [2, 2]
    [flow] = cli.json("flows", "list", *URL)
    assert f"taskloom flows show {flow['id']} --url sqlite:///taskloom-demo.db" in done.stdout
    assert (flow["state"], flow["counted"], flow["failed"]) == ("completed", 24, 2)
    assert flow["entity"] == {"id": str(folder), "type": "folder"}

    before = ended(cli.place)
    again = cli.run("demo", str(folder))
    assert again.returncode == 0
    assert "24 of 24 files were done before" in again.stdout
    assert ended(cli.place) == before
    assert flows(cli) == [flow["id"]]


def test_a_changed_folder_is_a_new_flow(cli: CommandLine) -> None:
    folder = make_folder(cli.place, files=1)
    assert cli.run("demo", str(folder), "--workers", "1").returncode == 0
    (folder / "file0.py").write_text("one = two = three = 3\n")
    done = cli.run("demo", str(folder), "--workers", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "were done before" not in done.stdout
    assert reported(cli.place)["file0.py"][:3] == ["22", "1", "0"]
    assert len(flows(cli)) == 2


def test_an_interrupted_demo_goes_on(
    cli: CommandLine, eventually: Callable[[Callable[[], object]], None]
) -> None:
    folder = make_folder(cli.place, files=1_500)
    demo = cli.start("demo", str(folder))
    demo.until("one step each")
    eventually(lambda: ended(cli.place))
    demo.tell(signal.SIGINT)
    assert demo.end() == 130, demo.seen
    assert "Run it again to go on" in demo.seen
    assert cli.json("status", *URL)["workers"] == []
    before, [flow] = ended(cli.place), flows(cli)
    assert 0 < len(before) < 1_504

    done = cli.run("demo", str(folder))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(before):,} of 1,504 files were done before" in done.stdout
    after = ended(cli.place)
    assert len(after) == 1_504
    assert {id: after[id] for id in before} == before
    assert len(reported(cli.place)) == 1_502
    assert flows(cli) == [flow]


def test_another_folder_needs_a_fresh_start(cli: CommandLine) -> None:
    first, second = make_folder(cli.place, files=1), cli.place / "second"
    second.mkdir()
    (second / "only.txt").write_text("x")
    assert cli.run("demo", str(first), "--workers", "1").returncode == 0
    refused = cli.run("demo", str(second))
    assert refused.returncode == 1
    assert "--fresh" in refused.stderr
    fresh = cli.run("demo", str(second), "--workers", "1", "--fresh")
    assert fresh.returncode == 0, fresh.stderr
    assert set(reported(cli.place)) == {"only.txt"}


def test_a_database_with_other_tasks_is_left_alone(cli: CommandLine) -> None:
    id = cli.add("greet", "mail", name="Ada")
    for more in ([], ["--fresh"]):
        refused = cli.run("demo", str(cli.place), "--database", "app.db", *more)
        assert refused.returncode == 1
        assert "not the demo's" in refused.stderr
    assert cli.task(id).status == "scheduled"


def test_quickstart_example_runs(cli: CommandLine) -> None:
    example = Path(__file__).parents[2] / "examples" / "quickstart.py"
    said = subprocess.check_output([sys.executable, str(example)], cwd=cli.place, text=True)
    assert said.splitlines()[0] == "executed: 'Hi' went to ada@example.com"
    assert len(said.splitlines()) == 3
