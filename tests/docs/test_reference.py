"""What the documentation lists is what there is: names, options, events, commands."""

from __future__ import annotations

import dataclasses
import importlib
import re
from collections.abc import Iterator
from typing import Any

import pytest
import typer.main
from pages import DOCS, ROOT, Row, rows_of

import taskloom.lifecycle
from taskloom import Retention, Task, TaskHandlerConfig
from taskloom.cli.app import app
from taskloom.enqueue_options import EnqueueOptions
from taskloom.executors import _Options
from taskloom.interfaces import EntityProjections, FlowBarrier, QueueFeatures
from taskloom.interfaces.cache import Cache
from taskloom.interfaces.message_queue import MessageQueue
from taskloom.interfaces.task_storage import TaskArchive, TaskStorage
from taskloom.mongodb.rows import document
from taskloom.mongodb.schema import Collections
from taskloom.redis.keys import Keys, QueueKeys
from taskloom.sql.schema import metadata, tasks
from taskloom.task import TaskStatus

GUIDES, REFERENCE = DOCS / "guides", DOCS / "reference"


def rows(page: str, section: str = "") -> list[Row]:
    """The rows of a page's tables, or of those under one heading."""
    found = rows_of(DOCS / page)
    return [row for row in found if not section or row.section == section]


def names(page: str, section: str = "") -> list[str]:
    """What stands in backticks in the first cells."""
    return [name for row in rows(page, section) for name in row.names]


def names_by_module() -> dict[str, list[str]]:
    """The names on the reference page, by the module of the heading above."""
    found: dict[str, list[str]] = {}
    module = ""
    for line in (REFERENCE / "names.md").read_text().splitlines():
        if heading := re.fullmatch(r"## `([\w.]+)`", line):
            module = heading[1]
        elif module and line.startswith("| `"):
            cell = line.split(" | ")[0]
            found.setdefault(module, []).extend(re.findall(r"`(\w+)`", cell))
    return found


@pytest.mark.parametrize(
    "module",
    [
        "taskloom",
        "taskloom.memory",
        "taskloom.sql",
        "taskloom.redis",
        "taskloom.mongodb",
        "taskloom.kinesis",
        "taskloom.interfaces",
        "taskloom.testing",
    ],
)
def test_every_public_name_is_listed_once_and_nothing_else(module: str) -> None:
    assert sorted(names_by_module()[module]) == sorted(importlib.import_module(module).__all__)


def test_every_callback_is_listed() -> None:
    listed = [name for name in names("guides/events.md") if name.startswith("on_")]
    assert listed == list(taskloom.lifecycle.EVENTS)


def test_every_option_of_the_handler_is_listed_with_its_default() -> None:
    listed = {
        row.names[0]: row.cells[1].strip("`") for row in rows("guides/workers.md", "Configuration")
    }
    config = TaskHandlerConfig()
    actual = {
        field.name: getattr(config, field.name) for field in dataclasses.fields(TaskHandlerConfig)
    }
    shown = {name: repr(value) for name, value in actual.items()}
    for name in ("lifecycle", "retention"):
        shown[name] = f"{type(actual[name]).__name__}()"
    shown["clock"] = type(actual["clock"]).__name__
    assert listed == shown


def test_every_retention_is_listed() -> None:
    words = {None: "kept", 86_400.0: "1 day", 7 * 86_400.0: "7 days"}
    listed = {
        row.names[0]: row.cells[1] for row in rows("guides/workers.md", "Upkeep and retention")
    }
    assert listed == {
        field.name: words[getattr(Retention(), field.name)]
        for field in dataclasses.fields(Retention)
    }


def test_every_option_of_executors_and_of_with_is_listed() -> None:
    listed = [name.partition("=")[0] for name in names("guides/executors.md", "By hand")]
    assert listed == [field.name for field in dataclasses.fields(_Options)]
    options = set(names("guides/executors.md", "Options of one task"))
    assert options == set(EnqueueOptions.__annotations__)


def test_every_method_and_feature_of_an_engine_is_listed() -> None:
    table = {
        row.names[0]: set(re.findall(r"`(\w+)`", row.cells[2]))
        for row in rows("guides/engines.md", "Writing an engine")
    }
    for interface in (
        MessageQueue,
        TaskStorage,
        TaskArchive,
        Cache,
        FlowBarrier,
        EntityProjections,
    ):
        assert table[interface.__name__] == set(interface.__abstractmethods__)
    features = rows("guides/engines.md", "What every engine keeps")
    assert {row.names[0]: row.cells[1].strip("`") for row in features} == {
        name: repr(getattr(QueueFeatures(), name)) for name in QueueFeatures.__struct_fields__
    }


def test_every_table_column_and_index_is_listed() -> None:
    indexes = {str(index.name) for index in tasks.indexes}
    keys = {"taskloom_tasks_pkey", "taskloom_tasks_id"}
    listed = names("engines/postgresql.md", "Tables")
    assert sorted(listed) == sorted({*metadata.tables, *tasks.columns.keys(), *indexes, *keys})


def test_every_collection_and_field_of_mongodb_is_listed() -> None:
    made = document(Task(type="t", queue_id="q", payload=None))
    listed = names("engines/mongodb.md", "Collections")
    assert set(listed) >= {*(f"taskloom_{name}" for name in Collections._fields), *made}


def test_every_key_of_a_queue_is_listed() -> None:
    listed = names("engines/redis.md", "Keys")
    assert listed[: len(QueueKeys._fields)] == list(QueueKeys._fields)


def test_every_hash_tag_is_listed() -> None:
    keys = Keys()
    tags = {value.rstrip(":") for name, value in vars(keys).items() if name != "prefix"}
    tags.add(keys.queue("NAME").stream.removesuffix(":stream"))
    assert set(names("engines/redis.md", "Cluster")) == tags


def test_every_status_is_in_the_glossary() -> None:
    ended = {row.names[0]: row.cells[2] == "yes" for row in rows("glossary.md", "Statuses")}
    assert ended == {status.value: status.terminal for status in TaskStatus}


def commands(group: Any, path: str = "taskloom") -> Iterator[tuple[str, Any]]:
    """Every command, by how it is called."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def options(command: Any) -> set[str]:
    """What `--help` shows of a command's options, in their long form."""
    return {
        option
        for parameter in command.params
        if parameter.param_type_name == "option" and not parameter.hidden
        for option in parameter.opts
        if option.startswith("--") and option != "--help"
    }


def test_every_command_and_option_is_listed() -> None:
    actual = {path: options(command) for path, command in commands(typer.main.get_command(app))}
    overview = names("reference/command-line.md", "Command line")
    listed = {name.removesuffix(" MODULE:LOOM"): set[str]() for name in overview}
    for row in rows("reference/command-line.md"):
        if row.section.startswith("`taskloom "):
            listed[row.section.strip("`")] |= {name.split()[0] for name in row.names}
    assert listed == actual


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "ARCHITECTURE.md"])
def test_the_links_of_a_page_beside_the_docs_lead_somewhere(page: str) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / page).read_text())
    missing = [link for link in links if "://" not in link and not (ROOT / link).exists()]
    assert not missing
