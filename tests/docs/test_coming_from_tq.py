"""The page for those who come from `tq`: none of their names is missing, none of ours invented.

`reference_names.txt` holds the names of the documents of `tq`, one a line, sorted. In the tables of
the page a name stands in backticks; `.name` belongs to the name without a dot that came before it
in its column, and `name(a, b)` names its arguments, too.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pages import DOCS, ROOT, Row, rows_of

import taskloom

PAGE = DOCS / "coming-from-tq.md"
NAMES = Path(__file__).with_name("reference_names.txt")

WITHOUT_COUNTERPART = "No counterpart"
IN_WORDS = ("What changes everywhere", "Look at these first", "What stops going wrong")
"""Sections whose tables compare habits, not names."""

OUTSIDE = ("asyncio", "msgspec")
"""Modules whose names may be counterparts, besides our own."""

NOTHING = object()

_CODE = re.compile(r"`([^`]+)`")
_NAME = re.compile(r'(?P<path>[\w.]+)(\((?P<arguments>[\w, ]+)\)|\["(?P<key>\w+)"\])?')


def sections() -> dict[str, list[Row]]:
    """The rows of the tables of names, by their heading."""
    found: dict[str, list[Row]] = {}
    for row in rows_of(PAGE):
        if row.section not in IN_WORDS:
            found.setdefault(row.section, []).append(row)
    return found


def names_in(rows: Iterable[Row], column: int) -> Iterator[str]:
    """What the cells of a column name, in full; of `owner.name(a, b)` also each argument."""
    owner = ""
    for row in rows:
        for code in _CODE.findall(row.cells[column]):
            match = _NAME.fullmatch(code)
            if match is None or code[0] == "_":
                yield code
                continue
            path, arguments = match["path"], match["arguments"]
            if path.startswith("."):
                path = owner + path
            elif "." not in path:
                owner = path
            yield path if match["key"] is None else f'{path}["{match["key"]}"]'
            if arguments:
                yield from (f"{path}({argument})" for argument in arguments.split(", "))


def exists(name: str) -> bool:
    """Whether Taskloom (or a module it stands on) has this name, field, argument or key."""
    match = _NAME.fullmatch(name)
    assert match is not None, f"no name: {name}"
    first, *rest = match["path"].split(".")
    found = root(first)
    for part in rest:
        found = member(found, part)
    if found is NOTHING:
        return False
    if match["arguments"]:
        return match["arguments"] in inspect.signature(found).parameters
    return match["key"] is None or match["key"] in texts()


def root(name: str) -> Any:
    """A public module of ours, what one exports, or a module outside; else NOTHING."""
    if name in OUTSIDE:
        return importlib.import_module(name)
    if name == "taskloom":
        return modules()[0]
    return next((getattr(each, name) for each in modules() if hasattr(each, name)), NOTHING)


def member(owner: Any, name: str) -> Any:
    """What `owner` has under `name`; None for a field without a default; else NOTHING."""
    if hasattr(owner, name):
        return getattr(owner, name)
    bases = owner.__mro__ if isinstance(owner, type) else ()
    return None if any(name in inspect.get_annotations(base) for base in bases) else NOTHING


@cache
def modules() -> tuple[ModuleType, ...]:
    """`taskloom` and the packages in it, the engines that are there among them."""
    inner = [info.name for info in pkgutil.iter_modules(taskloom.__path__) if info.ispkg]
    names = ["taskloom", *(f"taskloom.{name}" for name in inner if name != "cli")]
    return tuple(importlib.import_module(name) for name in names)


@cache
def texts() -> frozenset[str]:
    """The short texts in our source: keys of `execution_stats` are among them."""
    return frozenset(
        node.value
        for path in (ROOT / "src").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) < 80
    )


NAMED = [section for section in sections() if section != WITHOUT_COUNTERPART]


def test_every_name_of_the_reference_is_on_the_page_and_nothing_else() -> None:
    listed = NAMES.read_text().splitlines()
    shown = {name for rows in sections().values() for name in names_in(rows, 0)}
    assert listed == sorted(set(listed))
    missing, invented = sorted(set(listed) - shown), sorted(shown - set(listed))
    assert not missing, f"not on the page: {', '.join(missing)}"
    assert not invented, f"not among the names of the reference: {', '.join(invented)}"


@pytest.mark.parametrize("section", NAMED)
def test_every_counterpart_exists(section: str) -> None:
    rows = sections()[section]
    missing = sorted({name for name in names_in(rows, 1) if not exists(name)})
    assert not missing, f"not in Taskloom: {', '.join(missing)}"
    assert [row.names for row in rows if not _CODE.search(row.cells[1])] == []


@pytest.mark.parametrize(
    ("name", "there"),
    [
        ("Task", True),
        ("Task.execute_at", True),
        ("Task.no_such_field", False),
        ("Task.no_such_field.deeper", False),
        ("TaskHandlerConfig.lifecycle_provider", True),
        ("NoSuchClass", False),
        ("NoSuchClass.field", False),
        ("taskloom.memory", True),
        ("ParallelTaskExecutor.chunk_size", True),
        ("TaskHandler.serve(stop)", True),
        ("TaskHandler.serve(no_such_argument)", False),
        ('Task.execution_stats["last_error"]', True),
        ('Task.execution_stats["no_such_key"]', False),
        ("asyncio.Event", True),
    ],
)
def test_a_name_that_is_not_there_is_noticed(name: str, there: bool) -> None:
    assert exists(name) is there


def test_names_belong_to_what_stands_above() -> None:
    rows = [Row("", ["`A(b, c)` `.d`", ""]), Row("", ["`E.f` `.g(h)` `_i.j` `K`", ""])]
    listed = ["A", "A(b)", "A(c)", "A.d", "E.f", "A.g", "A.g(h)", "_i.j", "K"]
    assert list(names_in(rows, 0)) == listed
