"""Every example of the README and the documentation runs, and prints what it shows."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType

import pytest
from page_run import PageRun, first_missing
from page_servers import PageServers, servers_for
from pages import DOCS, PAGES, ROOT, Block, blocks_of, name_of

WIDTH = 82
"""Columns that a reader sees without scrolling to the side."""

_RUNNABLE = [page for page in PAGES if any(b.language for b in blocks_of(page))]


@pytest.fixture
def run(
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> Iterator[PageRun]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    module = ModuleType("a_page")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # annotations are looked up there
    for name in [name for name in os.environ if name.startswith("TASKLOOM")]:
        monkeypatch.delenv(name)
    folder = tmp_path_factory.mktemp("servers")
    with asyncio.Runner() as runner, servers_for(runner, request, folder) as servers:
        page_run = PageRun(tmp_path, module, runner, servers)
        yield page_run
    page_run.forget_modules()


@pytest.mark.parametrize("page", _RUNNABLE, ids=name_of)
def test_the_examples_of_a_page_run_in_order(page: Path, run: PageRun) -> None:
    for block in blocks_of(page):
        run.run(block)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_says_what_it_is(page: Path) -> None:
    known = {"python", "console", "text", "ini", "sh", "sql"}
    assert {block.language for block in blocks_of(page)} <= known


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_no_line_of_an_example_is_cut_off_on_the_page(page: Path) -> None:
    lines = [line for block in blocks_of(page) for line in block.text.splitlines()]
    assert [line for line in lines if len(line) > WIDTH] == []


def test_the_first_page_shows_the_example_of_the_readme() -> None:
    readme, index = blocks_of(ROOT / "README.md"), blocks_of(DOCS / "index.md")
    assert readme[0].text == index[0].text


@pytest.mark.parametrize(
    ("language", "text", "message"),
    [
        ("python", "assert 1 == 2, 'one is not two'", "one is not two"),
        ("console", "$ python -c 'raise SystemExit(3)'", "exit code 3"),
        ("console", "$ echo one\ntwo", "not printed: two"),
    ],
)
def test_an_example_that_is_wrong_is_noticed(
    run: PageRun, language: str, text: str, message: str
) -> None:
    with pytest.raises(AssertionError, match=message):
        run.run(Block(Path("page.md"), 1, language, None, text))


def test_an_example_on_a_server_runs_there(run: PageRun) -> None:
    text = (
        "$ psql postgresql://shop/a -c 'SELECT 1 AS one'\none\n$ redis-cli -u redis://b PING\nPONG"
    )
    run.run(Block(Path("page.md"), 1, "console", None, text))
    with pytest.raises(AssertionError, match="not printed: two"):
        run.run(Block(Path("page.md"), 1, "console", None, text.replace("\none", "\ntwo")))


def test_each_url_of_a_page_is_a_database_of_its_own() -> None:
    made = iter(["postgresql://here/1", "postgresql://here/2"])
    with PageServers({"postgresql": lambda: nullcontext(next(made))}) as servers:
        said = "a('postgresql://old/x') b('postgresql://new/x?ssl=require') rediss://left/0"
        real = servers.real(f"{said} {said}")
        there = "a('postgresql://here/1') b('postgresql://here/2?ssl=require') rediss://left/0"
        assert real == f"{there} {there}"
        assert servers.shown(real) == f"{said} {said}"


def test_output_that_is_not_printed_is_noticed(run: PageRun) -> None:
    run.run(Block(Path("page.md"), 1, "python", None, "print('one')"))
    with pytest.raises(AssertionError, match="not printed: two"):
        run.run(Block(Path("page.md"), 3, "text", "Output", "two"))


def test_shown_lines_come_in_order() -> None:
    printed = ["a  1", "b 2", "c 3"]
    assert first_missing(["a 1", "…3"], printed) is None
    assert first_missing(["b 2", "a 1"], printed) == "a 1"
