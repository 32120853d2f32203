"""`taskloom flows` on a SQLite file: before, while and after its tasks run."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from contextlib import closing
from typing import Any

import pytest
from command_line import CommandLine
from terminal import OnTerminal

from taskloom import EntityRef, FlowJoin, FlowResults, FlowStep, Loom
from taskloom.cli.flow_picture import FlowPicture, FlowReader
from taskloom.cli.flow_watch import follow
from taskloom.flows import join_id, step_id

pytestmark = pytest.mark.timeout(180)  # starting processes is slow on a busy machine

URL = ("--url", "sqlite:///app.db")
EVIL = "[red]markup[/red] \x1b[31m\r\nsecond line"
JOIN = FlowJoin("sum_up", "mail")


def loom_of(cli: CommandLine) -> Loom:
    """The database with functions for the steps and the join."""
    loom = Loom(f"sqlite:///{cli.place}/app.db")

    @loom.task(queue="mail")
    async def greet(name: str) -> dict[str, str]:
        return {"greeting": f"hello {name}"}

    @loom.task(queue="mail", retries=0)
    async def fail(text: str) -> None:
        raise ValueError(text)

    @loom.task(queue="mail")
    async def sum_up(results: FlowResults) -> dict[str, int]:
        return {"steps": len(results.steps)}

    return loom


def work_off(cli: CommandLine) -> None:
    """Run what is due, joins included."""

    async def work() -> None:
        async with loom_of(cli) as loom:
            await loom.handler.drain()

    asyncio.run(work())


def greet(name: str = "Ada") -> FlowStep:
    return FlowStep("greet", "mail", {"name": name})


def fail(text: str = EVIL) -> FlowStep:
    return FlowStep("fail", "mail", {"text": text})


def start(cli: CommandLine, steps: list[FlowStep], join: FlowJoin = JOIN, **options: Any) -> str:
    return cli.ask(lambda loom: loom.start_flow(steps, join=join, **options))


def listed(cli: CommandLine, id: str) -> str:
    """The line of a flow, its blanks made one."""
    [line] = [
        line
        for line in cli.call("flows", "list", *URL).stdout.splitlines()
        if line.strip()[:36] == id
    ]
    return " ".join(line.split())


def shown(cli: CommandLine, id: str, *options: str) -> str:
    done = cli.call("flows", "show", id, *options, *URL)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    return done.stdout


def test_a_flow_from_its_start_to_its_end(cli: CommandLine) -> None:
    id = start(cli, [greet(), fail(), greet("Bob")], entity=EntityRef("u_1", "user"), timeout=3600)
    assert f"{id} running 0/3 - waits" in listed(cli, id)
    page = shown(cli, id)
    for text in ("3 of 3 steps", "user u_1", "continue: goes on", "times out", "· 3 scheduled"):
        assert text in page
    answer = cli.json("flows", "show", id, *URL)
    assert (answer["state"], answer["over"], answer["counts"]) == (
        "running",
        False,
        {"scheduled": 3},
    )
    assert answer["join"]["status"] is None

    work_off(cli)
    assert f"{id} complete 3/3 1 executed" in listed(cli, id)
    page = shown(cli, id)
    [line] = [line for line in page.splitlines() if "markup" in line]
    assert line.split()[:3] == ["1", "failed", "1"]
    assert r"[red]markup[/red] \x1b[31m\r\nsecond line" in line
    assert '{"greeting": "hello Bob"}' in page
    assert '{"steps": 3}' in page
    assert "█ 2 executed  x 1 failed" in page
    for text in ("waits for", "times out", "so far"):
        assert text not in page

    answer = cli.json("flows", "show", id, *URL)
    assert (answer["state"], answer["over"]) == ("completed", True)
    assert answer["counts"] == {"executed": 2, "failed": 1}
    assert [step["id"] for step in answer["steps"]] == [step_id(id, index) for index in range(3)]
    assert [step.get("execution_result") for step in answer["steps"]] == [
        {"greeting": "hello Ada"},
        None,
        {"greeting": "hello Bob"},
    ]
    assert answer["steps"][1]["error"] == r"[red]markup[/red] \x1b[31m\r\nsecond line"
    assert answer["join"]["id"] == join_id(id)
    assert answer["join"]["execution_result"] == {"steps": 3}


def test_a_flow_is_not_over_before_its_join(cli: CommandLine) -> None:
    id = start(cli, [greet()], FlowJoin("sum_up", "elsewhere"))
    work_off(cli)
    assert f"{id} complete 1/1 - scheduled" in listed(cli, id)
    page = shown(cli, id)
    assert "waits for  its join" in page
    assert "so far" in page
    answer = cli.json("flows", "show", id, *URL)
    assert (answer["state"], answer["over"]) == ("completed", False)
    assert answer["join"]["status"] == "scheduled"


def test_an_aborted_flow_says_which_step_did_it(cli: CommandLine) -> None:
    id = start(cli, [fail("no stamps left")], failure_policy="abort")
    work_off(cli)
    assert f"{id} aborted 1/1 1 executed" in listed(cli, id)
    page = shown(cli, id)
    assert "aborted by  step 0 after 1 attempt: no stamps left" in page
    assert "abort: ends early" in page
    assert cli.json("flows", "show", id, *URL)["aborted_by_step"] == 0


def test_a_flow_that_timed_out_says_how_far_it_was(cli: CommandLine) -> None:
    nobody = FlowStep("fly", "elsewhere", None)
    id = start(cli, [greet(), nobody], timeout=0.001)
    work_off(cli)
    page = shown(cli, id)
    assert "when 1 of 2 steps had ended" in page
    assert "█ 1 executed  c 1 cancelled" in page
    assert f"{id} timed out 1/2 - executed" in listed(cli, id)
    assert cli.json("flows", "list", *URL)[0]["state"] == "timed_out"


def test_many_steps_stay_readable(cli: CommandLine) -> None:
    steps = [fail(f"no {index}") if index % 24 == 1 else greet() for index in range(600)]
    id = start(cli, steps)
    work_off(cli)
    page = shown(cli, id)
    assert len(page.splitlines()) < 45
    assert "█ 575 executed  x 25 failed" in page
    assert "no 1\n" in page.replace(" \n", "\n")
    assert "and 5 more that failed or run: --all" in page
    every = shown(cli, id, "--all")
    found = re.findall(r"^ +(\d+)  (executed|failed)\b", every, re.MULTILINE)
    assert found == [(str(i), "failed" if i % 24 == 1 else "executed") for i in range(600)]
    answer = cli.json("flows", "show", id, *URL)
    assert [(s["index"], s["attempts"]) for s in answer["steps"]] == [(i, 1) for i in range(600)]


def test_what_was_deleted_is_told_from_what_was_counted(cli: CommandLine) -> None:
    id = start(cli, [greet(), fail("no stamps")])
    work_off(cli)
    with closing(sqlite3.connect(cli.place / "app.db")) as database, database:
        database.execute("DELETE FROM taskloom_tasks")
    assert f"{id} complete 2/2 1 deleted" in listed(cli, id)
    page = shown(cli, id)
    assert '{"greeting": "hello Ada"}' in page
    assert "no stamps" in page
    answer = cli.json("flows", "show", id, *URL)
    assert (answer["over"], answer["counts"]) == (True, {"executed": 1, "failed": 1})


def test_list_in_pages(cli: CommandLine) -> None:
    assert cli.run("init", *URL).returncode == 0
    assert cli.call("flows", "list", *URL).stdout == "There are no flows yet.\n"
    ids = [start(cli, [greet()]) for _ in range(5)]
    first = cli.json("flows", "list", "--limit", "3", *URL)
    rest = cli.json("flows", "list", "--limit", "3", "--after", first[-1]["id"], *URL)
    assert [flow["id"] for flow in first + rest] == ids[::-1]
    more = f"--after {first[-1]['id']}"
    assert more in cli.call("flows", "list", "--limit", "3", *URL).stdout


def test_an_unknown_flow_is_told(cli: CommandLine) -> None:
    start(cli, [greet()])
    unknown = cli.call("flows", "show", "no-such-id", "--watch", *URL)
    assert unknown.returncode == 1
    assert "no flow with the id no-such-id" in unknown.stderr
    assert "flows list" in unknown.stderr


def test_following_ends_with_the_join(cli: CommandLine) -> None:
    async def run(loom: Loom) -> list[FlowPicture]:
        assert loom.flow_barrier is not None
        id = await loom.start_flow([greet(), greet()], join=JOIN)
        reader = FlowReader(loom, loom.flow_barrier, id)
        first = await reader.look()
        assert first is not None
        seen: list[FlowPicture] = []
        looked = asyncio.Event()

        def show(picture: FlowPicture) -> None:
            seen.append(picture)
            looked.set()

        following = asyncio.create_task(follow(reader, first, show))
        await looked.wait()
        await loom.handler.drain()
        seen.append(await following)
        return seen

    async def with_loom() -> list[FlowPicture]:
        async with loom_of(cli) as loom:
            return await run(loom)

    seen = asyncio.run(with_loom())
    assert not seen[0].over
    assert seen[-1].over
    assert seen[-1].join is not None
    assert seen[-1].join.execution_result == {"steps": 2}


def watching(cli: CommandLine, id: str) -> OnTerminal:
    return cli.on_terminal("flows", "show", id, "--watch", *URL, columns=80, lines=30)


def test_watch_redraws_until_the_join_has_ended(cli: CommandLine) -> None:
    id = start(cli, [greet(), fail("x" * 200)])
    with watching(cli, id) as terminal:
        terminal.until("2 of 2 steps")
        work_off(cli)
        assert terminal.end() == 0
        last = terminal.plain[terminal.plain.rindex(id) :]
    assert '{"steps": 2}' in last
    assert "complete" in last
    assert "so far" not in last
    assert "xxx…" in last
    assert max(len(line) for line in terminal.plain.splitlines()) <= 80
    assert "\x1b[?25h" in terminal.seen  # the cursor is back


def test_watch_is_left_with_ctrl_c(cli: CommandLine) -> None:
    id = start(cli, [greet()])
    with watching(cli, id) as terminal:
        terminal.until("type    sum_up")
        terminal.interrupt()
        assert terminal.end() == 130
    assert "Traceback" not in terminal.plain
    assert "\x1b[?25h" in terminal.seen
    assert cli.task(step_id(id, 0)).status == "scheduled"
