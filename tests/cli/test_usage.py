"""Help, version, and errors: each says what is wrong and what to do, without a traceback."""

from __future__ import annotations

import os
import re
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from command_line import CommandLine, Done

import taskloom

pytestmark = pytest.mark.timeout(180)  # starting processes is slow on a busy machine


def test_help_names_every_command(cli: CommandLine) -> None:
    done = cli.run("--help")
    assert done.returncode == 0
    for command in ("demo", "worker", "status", "tasks", "flows", "init"):
        assert re.search(rf"^  {command}\b", done.stdout, re.MULTILINE), done.stdout


def test_version(cli: CommandLine) -> None:
    done = cli.run("--version")
    assert done.returncode == 0
    assert done.stdout.startswith(f"taskloom {taskloom.__version__} ")


MODULES = {
    "needs": "import a_module_that_is_not_there\n",
    "raises": "raise RuntimeError('[red]no[/red]\\nsecond line \\x1b[31m')\n",
    "extra": "from taskloom import MissingExtraError\nraise MissingExtraError('redis', 'redis')\n",
    "bare": "from taskloom import Loom\nloom = Loom('sqlite:///bare.db')\n",
    "astray": (
        "from taskloom import Loom\nloom = Loom('sqlite:////no/such/place/x.db')\n"
        "@loom.task\nasync def work() -> None: ...\n"
    ),
    "private": (
        "from taskloom import Loom\nloom = Loom('memory://')\n"
        "@loom.task\nasync def work() -> None: ...\n"
    ),
}

ERRORS = {
    "no module": ("worker ap:loom", ["no module ap.", "Did you mean app?", "Looked in {place}"]),
    "a file": ("worker app.py:loom", ["names a file", "Write app:loom"]),
    "no attribute named": ("worker app", ["'app' does not name a Loom", "MODULE:LOOM"]),
    "module needs another": ("worker needs:loom", ["a_module_that_is_not_there", "needs.py, line"]),
    "module raises": ("worker raises:loom", [r"RuntimeError: [red]no[/red]\nsecond line \x1b[31m"]),
    "no attribute": ("worker app:lom", ["app has no 'lom'. Did you mean loom?", "app:loom"]),
    "not a loom": ("worker app:not_a_loom", ["type int, not a Loom", "Looms there: app:loom"]),
    "missing extra": ("worker extra:loom", ["redis is not installed", "taskloom[redis]"]),
    "no tasks": ("worker bare:loom", ["no tasks", "@loom.task"]),
    "unknown queue": ("worker app:loom --queues mial", ["'mial'", "There are: default, mail"]),
    "cannot open": ("worker astray:loom", ["directory does not exist", "create /no/such/place"]),
    "cannot open, many": ("worker astray:loom --processes 2", ["create /no/such/place"]),
    "no file": ("status", ["{place}/taskloom.db does not exist", "--url", "init"]),
    "init nowhere": ("init --url sqlite:////no/such/place/x.db", ["create /no/such/place"]),
}

MORE_ERRORS = {
    "not a database": ("status --url sqlite:///app.py", ["not a SQLite database"]),
    "memory": ("status --url memory://", ["memory of one process", "--url sqlite:///"]),
    "no scheme": ("status --url taskloom.db", ["no scheme", "sqlite:///taskloom.db"]),
    "init in memory": ("init --url memory://", ["nothing to create"]),
    "demo of nothing": ("demo nowhere", ["nowhere is not a folder"]),
}

USAGE = [
    "nonsense",
    "tasks list --status finished",
    "tasks list --url sqlite:///a.db --app app:loom",
    "tasks retry",
    "tasks retry some-id --status failed",
    "tasks retry --status scheduled",
    "flows list --limit 0",
    "worker app:loom --processes 0",
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("errors")
    for name, source in MODULES.items():
        CommandLine(place).write(name, source)
    return place


@pytest.fixture(scope="module")
def answers(place: Path) -> dict[str, Done]:
    """Real processes, side by side, since starting one takes longest."""
    cli = CommandLine(place)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        done = pool.map(lambda error: cli.run(*error[0].split()), ERRORS.values())
        return dict(zip(ERRORS, done, strict=True))


@pytest.mark.parametrize("case", ERRORS)
def test_error_says_what_to_do(answers: dict[str, Done], place: Path, case: str) -> None:
    check_error(answers[case], ERRORS[case][1], place)


@pytest.mark.parametrize("case", MORE_ERRORS)
def test_another_error_says_what_to_do(cli: CommandLine, case: str) -> None:
    command, texts = MORE_ERRORS[case]
    check_error(cli.call(*command.split()), texts, cli.place)


def check_error(done: Done, texts: list[str], place: Path) -> None:
    assert done.returncode == 1, done
    assert done.stdout == ""
    first, *rest = done.stderr.splitlines()
    assert first.startswith("Error: ")
    assert len(rest) <= 1, done.stderr
    for text in texts:
        assert text.replace("{place}", str(place)) in done.stderr
    assert not (place / "taskloom.db").exists()


def test_a_database_of_someone_else_is_left_alone(cli: CommandLine) -> None:
    with closing(sqlite3.connect(cli.place / "other.db")) as other:
        other.execute("CREATE TABLE mine (x)")
    before = (cli.place / "other.db").read_bytes()
    done = cli.call("status", "--url", "sqlite:///other.db")
    assert done.returncode == 1
    assert "holds no tasks of Taskloom" in done.stderr
    assert (cli.place / "other.db").read_bytes() == before


def test_a_password_is_never_shown(cli: CommandLine) -> None:
    done = cli.call("status", "--url", "postgresql://me:secret@host/db")
    assert done.returncode == 1
    assert "secret" not in done.stdout + done.stderr


@pytest.mark.parametrize("case", USAGE)
def test_wrong_usage_is_exit_code_2(cli: CommandLine, case: str) -> None:
    done = cli.call(*case.split())
    assert done.returncode == 2
    assert "Usage: taskloom" in done.stderr
    assert "Traceback" not in done.stderr
