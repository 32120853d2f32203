"""Context in log lines: complete, harmless, and isolated between tasks."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog

from taskloom.errors import InvalidTaskError
from taskloom.log_context import (
    ContextLogger,
    LogContextFilter,
    check_log_context,
    log_context,
    merge_log_context,
    running,
    structlog_processor,
)

Log = tuple[logging.Logger, list[Any], io.StringIO]


class Run:
    """What runs, with a fixed context."""

    def __init__(self, **fields: str) -> None:
        self.fields = fields

    def log_fields(self) -> dict[str, str]:
        return self.fields


@pytest.fixture
def inside() -> Iterator[Run]:
    run = Run(request="r1", task_id="t1")
    token = running.set(run)
    yield run
    running.reset(token)


@pytest.fixture
def log() -> Log:
    """A logger with the filter on its handler: it, its records, its text."""
    text = io.StringIO()
    records: list[Any] = []
    logger = logging.Logger("test")  # outside the tree: nothing else hears it
    handler = logging.StreamHandler(text)
    handler.setFormatter(logging.Formatter("%(log_context_text)s %(message)s"))
    handler.addFilter(LogContextFilter())
    handler.addFilter(_keep_in(records))
    logger.addHandler(handler)
    return logger, records, text


def _keep_in(records: list[Any]) -> Callable[[logging.LogRecord], bool]:
    def keep(record: logging.LogRecord) -> bool:
        records.append(record)
        return True

    return keep


def test_outside_a_task_there_is_none() -> None:
    assert log_context() == {}


def test_inside_it_is_a_dict_of_ones_own(inside: Run) -> None:
    context = log_context()
    assert context == {"request": "r1", "task_id": "t1"}
    context["request"] = "other"
    assert log_context() == {"request": "r1", "task_id": "t1"}


async def test_concurrent_tasks_do_not_see_each_other() -> None:
    both_set = asyncio.Barrier(2)

    async def run(name: str) -> tuple[str, str]:
        running.set(Run(task_id=name))
        await both_set.wait()
        inner = await asyncio.create_task(_id())
        return inner, await asyncio.to_thread(lambda: log_context()["task_id"])

    async def _id() -> str:
        return log_context()["task_id"]

    ran = await asyncio.gather(asyncio.create_task(run("a")), asyncio.create_task(run("b")))
    assert list(ran) == [("a", "a"), ("b", "b")]
    assert log_context() == {}


# The filter


def test_the_filter_adds_dict_and_text(inside: Run, log: Log) -> None:
    logger, records, text = log
    logger.info("hello")
    assert records[0].log_context == {"request": "r1", "task_id": "t1"}
    assert text.getvalue() == "[request:r1][task_id:t1] hello\n"


def test_the_text_is_in_the_order_of_the_keys(log: Log) -> None:
    logger, _, text = log
    ContextLogger(logger, {"b": "2", "c": "3", "a": "1"}).info("m")
    assert text.getvalue() == "[a:1][b:2][c:3] m\n"


def test_outside_a_task_the_text_is_empty(log: Log) -> None:
    logger, records, text = log
    logger.info("hello")
    assert records[0].log_context == {}
    assert text.getvalue() == " hello\n"


def test_no_key_collides_with_the_record(log: Log) -> None:
    logger, records, text = log
    names = [*vars(logging.makeLogRecord({})), "message", "asctime", "log_context", "__class__"]
    token = running.set(Run(**dict.fromkeys(names, "mine")))
    try:
        logger.info("hello %s", "you")
        ContextLogger(logger).info("hello %s", "again")
    finally:
        running.reset(token)
    assert [record.getMessage() for record in records] == ["hello you", "hello again"]
    assert records[0].name == "test"
    assert "[name:mine]" in text.getvalue()


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("a\nb", "a\\nb"),
        ("a\r\x1b[31m", "a\\r\\x1b[31m"),
        ("a\u2028b\x00", "a\\u2028b\\x00"),
        ("x][task_id:forged", "x\\][task_id:forged"),
    ],
)
def test_a_value_cannot_leave_its_place(log: Any, value: str, shown: str) -> None:
    logger, records, text = log
    token = running.set(Run(key=value))
    logger.info("m")
    running.reset(token)
    assert text.getvalue() == f"[key:{shown}] m\n"
    assert records[0].log_context == {"key": value}


def test_filtering_twice_is_filtering_once(inside: Run) -> None:
    record = logging.makeLogRecord({})
    LogContextFilter().filter(record)
    first = dict(vars(record))
    LogContextFilter().filter(record)
    assert vars(record) == first


def test_a_record_handled_elsewhere_keeps_its_context(inside: Run) -> None:
    record = logging.makeLogRecord({})
    LogContextFilter().filter(record)
    running.set(None)
    LogContextFilter().filter(record)
    assert record.__dict__["log_context"] == {"request": "r1", "task_id": "t1"}


def test_the_filter_survives_what_others_put_there(log: Log) -> None:
    class Unspeakable:
        def __str__(self) -> str:
            raise RuntimeError("no")

    logger, records, text = log
    logger.info("a", extra={"log_context": "not a dict"})
    logger.info("b", extra={"log_context": {1: 2, "bad": Unspeakable()}})
    assert records[0].log_context == {}
    assert text.getvalue() == " a\n[1:2][bad:<Unspeakable>] b\n"


# actions.log


def test_the_logger_carries_its_fields_anywhere(log: Log) -> None:
    logger, records, _ = log
    ContextLogger(logger, {"task_id": "t9"}).warning("hello")
    assert records[0].log_context == {"task_id": "t9"}
    assert records[0].getMessage() == "hello"
    assert records[0].funcName == "test_the_logger_carries_its_fields_anywhere"


def test_without_fields_it_follows_the_running_task(inside: Run, log: Log) -> None:
    logger, records, _ = log
    adapter = ContextLogger(logger)
    adapter.info("in")
    running.set(None)
    adapter.info("out")
    assert records[0].log_context == inside.fields
    assert records[1].log_context == {}


def test_extra_of_the_call_stays_and_wins(log: Log) -> None:
    logger, records, _ = log
    extra = {"log_context": {"b": "call"}, "other": 1}
    ContextLogger(logger, {"a": "task", "b": "task"}).info("x", extra=extra)
    assert records[0].log_context == {"a": "task", "b": "call"}
    assert records[0].other == 1
    assert extra == {"log_context": {"b": "call"}, "other": 1}


def test_a_level_that_is_off_costs_no_context(log: Log) -> None:
    logger, records, _ = log
    logger.setLevel(logging.INFO)

    class Costly:
        def log_fields(self) -> dict[str, str]:
            raise AssertionError("asked for a line that nobody sees")

    token = running.set(Costly())
    ContextLogger(logger).debug("x")
    running.reset(token)
    assert records == []


# structlog


def test_structlog_gets_the_context_without_losing_its_own() -> None:
    token = running.set(Run(event="user key", request="r1", task_id="t1"))
    answer = structlog_processor(None, "info", {"event": "hello", "request": "mine"})
    running.reset(token)
    assert answer == {"event": "hello", "request": "mine", "task_id": "t1"}


@pytest.mark.parametrize("evil", ["a\x1b[31mb", "a\u2028b", "a\nb\r"])
@pytest.mark.parametrize(
    "renderer", [structlog.dev.ConsoleRenderer(colors=False), structlog.processors.JSONRenderer()]
)
def test_structlog_lines_stay_lines(renderer: Any, evil: str) -> None:
    out = io.StringIO()
    logger = structlog.wrap_logger(
        structlog.PrintLogger(out), processors=[structlog_processor, renderer]
    )
    token = running.set(Run(key=evil))
    logger.info("hello")
    running.reset(token)
    line = out.getvalue()
    assert len(line.splitlines()) == 1
    assert "\x1b" not in line
    assert "hello" in line


# What a task may carry


def test_a_context_within_bounds_is_left_alone() -> None:
    context = {"b": "1", "a": "2"}
    assert check_log_context(context) is context
    assert check_log_context(None) is None


def test_of_too_many_keys_the_first_ten_are_kept(caplog: pytest.LogCaptureFixture) -> None:
    context = {f"k{number:02}": "v" for number in reversed(range(12))}
    kept = check_log_context(context)
    assert kept is not None
    assert sorted(kept) == [f"k{number:02}" for number in range(10)]
    assert len(context) == 12
    assert "12 keys" in caplog.text


@pytest.mark.parametrize(("size", "kept"), [(1024, True), (1025, False)])
def test_bytes_as_json_are_bounded(caplog: pytest.LogCaptureFixture, size: int, kept: bool) -> None:
    text = "é" * 300
    empty = len(json.dumps({"k": text}, ensure_ascii=False, separators=(",", ":")).encode())
    context = {"k": text + "x" * (size - empty)}
    assert (check_log_context(context) is context) == kept
    assert (check_log_context(context) is None) != kept
    assert ("dropped" in caplog.text) != kept


def test_keys_are_cut_before_bytes_are_counted() -> None:
    context = {f"k{number}": "v" for number in range(10)} | {"z": "x" * 2000}
    assert check_log_context(context) == {f"k{number}": "v" for number in range(10)}


@pytest.mark.parametrize(
    "context", [{"n": 1}, {"n": None}, {1: "a"}, ["a"], "text", {"k": "\ud800"}]
)
def test_what_is_not_a_dict_of_texts_is_refused(context: Any) -> None:
    with pytest.raises(InvalidTaskError, match=r"^metadata\.log_context: "):
        check_log_context(context)


def test_a_huge_value_is_dropped_not_refused() -> None:
    assert check_log_context({"k": "x" * 9_000_000}) is None


def test_own_keys_win_over_the_parents() -> None:
    parent, own = {"a": "p", "b": "p"}, {"b": "o", "c": "o"}
    assert merge_log_context(parent, own) == {"a": "p", "b": "o", "c": "o"}
    assert (parent, own) == ({"a": "p", "b": "p"}, {"b": "o", "c": "o"})


def test_nothing_is_copied_when_nothing_changes() -> None:
    parent, own = {"a": "1"}, {"a": "2", "b": "3"}
    same = {"a": "1"}
    assert merge_log_context(None, own) is own
    assert merge_log_context({}, own) is own
    assert merge_log_context(parent, None) is parent
    assert merge_log_context(parent, {}) is parent
    assert merge_log_context(parent, same) is parent
    assert merge_log_context(parent, own) is own
    assert merge_log_context(None, None) is None
