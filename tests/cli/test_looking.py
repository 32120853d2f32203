"""init, status and tasks on a SQLite file, before and after a worker was there."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from command_line import CommandLine

pytestmark = pytest.mark.timeout(180)  # starting processes is slow on a busy machine

URL = ("--url", "sqlite:///app.db")
Eventually = Callable[[Callable[[], object]], None]
EVIL = "[red]markup[/red] \x1b[31m\r\nsecond line \u2028 third"


def work_off(cli: CommandLine, eventually: Eventually, *ids: str) -> None:
    """Have a worker run these tasks of the queue "mail", and stop it."""
    worker = cli.start("worker", "app:loom", "--queues", "mail")
    worker.until("Ready for tasks")
    eventually(lambda: all(cli.task(id).status.terminal for id in ids))
    worker.tell()
    assert worker.end() == 0


def test_init_creates_once(cli: CommandLine) -> None:
    first, second = cli.run("init"), cli.call("init")
    assert (first.returncode, second.returncode) == (0, 0)
    assert "created" in first.stdout
    assert "ready" in second.stdout
    assert "There are no tasks yet." in cli.call("status").stdout


def test_the_database_is_named_by_option_environment_or_app(cli: CommandLine) -> None:
    cli.add("greet", "mail", name="Ada")
    by_environment = cli.run("status", TASKLOOM_URL="sqlite:///app.db")
    assert "mail" in by_environment.stdout
    assert "mail" in cli.run("status", "--app", "app:loom", TASKLOOM_URL="sqlite:///no.db").stdout


def test_status_tells_of_waiting_tasks_and_missing_workers(cli: CommandLine) -> None:
    cli.add("greet", "mail", name="Ada")
    cli.add("greet", "mail", name="Bob")
    status = cli.json("status", *URL)
    assert status["queues"]["mail"]["counts"]["scheduled"] == 2
    assert status["queues"]["mail"]["oldest_waiting_since"] is not None
    assert status["workers"] == []
    shown = cli.call("status", *URL).stdout
    assert "No worker is alive" in shown
    assert "Tasks are waiting" in shown


def test_round_trip(cli: CommandLine, eventually: Eventually) -> None:
    good, bad = cli.add("greet", "mail", name="Ada"), cli.add("fail", "mail", text=EVIL)
    work_off(cli, eventually, good, bad)

    assert {task["id"] for task in cli.json("tasks", "list", *URL)} == {good, bad}
    [failed] = cli.json("tasks", "list", "--status", "failed", "--type", "fail", *URL)
    assert failed["id"] == bad
    assert failed["last_error"] == EVIL
    assert "payload" not in failed

    table = cli.run("tasks", "list", "--status", "failed", *URL).stdout
    [line] = [line for line in table.splitlines() if bad in line]
    assert r"[red]markup[/red] \x1b[31m\r\nsecond line \u2028 third" in line
    assert "\x1b" not in table

    page = cli.run("tasks", "show", bad, *URL).stdout
    assert "ValueError" in page
    assert "app.py" in page
    assert "\x1b" not in page
    shown = cli.json("tasks", "show", good, *URL)
    assert shown["payload"] == {"name": "Ada"}
    assert shown["execution_result"] == {"greeting": "hello Ada"}
    assert '"greeting": "hello Ada"' in cli.call("tasks", "show", good, *URL).stdout

    again = cli.run("tasks", "retry", "--status", "failed", "--queue", "mail", *URL)
    assert again.stdout == "1 task will run again.\n"
    assert cli.task(bad).status == "scheduled"

    cancelled = cli.run("tasks", "cancel", bad, "--reason", "not [b]today[/b]", *URL)
    assert cancelled.stdout == "1 task cancelled.\n"
    assert "not [b]today[/b]" in cli.call("tasks", "list", "--status", "cancelled", *URL).stdout


def test_list_in_pages(cli: CommandLine) -> None:
    ids = [cli.add("greet", "mail", name=str(number)) for number in range(5)]
    first = cli.json("tasks", "list", "--limit", "3", *URL)
    rest = cli.json("tasks", "list", "--limit", "3", "--after", first[-1]["id"], *URL)
    assert [task["id"] for task in first + rest] == ids[::-1]
    more = f"--after {first[-1]['id']}"
    assert more in cli.call("tasks", "list", "--limit", "3", *URL).stdout


def test_what_cannot_be_done_is_told(cli: CommandLine) -> None:
    id = cli.add("greet", "mail", name="Ada")
    early = cli.call("tasks", "retry", id, *URL)
    assert early.returncode == 1
    assert f"{id} has not ended, it is scheduled" in early.stderr
    unknown = cli.call("tasks", "cancel", id, "no-such-id", *URL)
    assert unknown.returncode == 1
    assert "no task with the id no-such-id" in unknown.stderr
    assert cli.task(id).status == "scheduled"
