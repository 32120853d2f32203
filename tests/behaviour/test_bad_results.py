"""FAULTS D5: odd results, errors and metas. The task still ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from harness import QUEUE, TYPE, Engines, make_task, multi, single
from taskloom import Task, TaskStatus

KIB = 1024


def _cycle() -> Any:
    value: list[Any] = []
    value.append(value)
    return value


def _nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth - 1):
        value = [value]
    return value


async def _run(engines: Engines, say: Callable[[Task[Any], Any], Any], **fields: Any) -> Task[Any]:
    """The stored task after one run of an executor that says so; a neighbour is executed."""

    async def work(task: Task[Any], actions: Any) -> None:
        if task.payload == "neighbour":
            actions.success(task)
        else:
            say(task, actions)

    handler = engines.handler({TYPE: single(work)})
    task, neighbour = await handler.add_tasks(
        [make_task(force_store=True, **fields), make_task("neighbour", force_store=True)]
    )
    assert (await handler.process_batch(QUEUE)).claimed == 2
    assert await engines.status(neighbour) is TaskStatus.EXECUTED
    found = await engines.stored(task)
    assert found is not None
    return found


@pytest.mark.parametrize("over", [-1, 0, 1])
async def test_d5_a_result_of_256_kib(
    engines: Engines, caplog: pytest.LogCaptureFixture, over: int
) -> None:
    size = 256 * KIB + over
    result = "x" * (size - 2)
    found = await _run(engines, lambda task, actions: actions.success(task, result))
    assert found.status is TaskStatus.EXECUTED
    if over <= 0:
        assert found.execution_result == result
        assert "result_dropped" not in found.execution_stats
        assert caplog.records == []
    else:
        assert found.execution_result is not result
        assert not isinstance(found.execution_result, str)
        assert found.execution_stats["result_dropped"] == size
        assert str(size) in caplog.text


@pytest.mark.parametrize(
    "make",
    [
        _cycle,
        object,
        lambda: float("nan"),
        lambda: "\ud800",
        lambda: _nested(100_000),
        lambda: _nested(129),
        lambda: 10**1_000_000,
    ],
    ids=["cycle", "object", "nan", "surrogate", "10^5 levels", "129 levels", "10^6 digits"],
)
async def test_d5_a_result_that_json_cannot_hold_is_dropped_and_told(
    engines: Engines, caplog: pytest.LogCaptureFixture, make: Callable[[], Any]
) -> None:
    result = make()
    found = await _run(engines, lambda task, actions: actions.success(task, result))
    assert found.status is TaskStatus.EXECUTED
    assert "result_dropped" in found.execution_stats
    assert [record.levelname for record in caplog.records] == ["WARNING"]


async def test_d5_a_result_changed_afterwards_stays_as_it_was_said(engines: Engines) -> None:
    def say(task: Task[Any], actions: Any) -> None:
        result = {"n": 1}
        actions.success(task, result)
        result["n"] = 2

    assert (await _run(engines, say)).execution_result == {"n": 1}


# Errors


class StrRaises(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class StrExits(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)


class StrIsNoText(Exception):
    def __str__(self) -> str:
        return 7  # type: ignore[return-value]


class ReprRaises(Exception):
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


class Hostile(Exception):
    """Nothing about it can be looked at."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(f"no {name}")


def _endless_cause() -> Exception:
    error = ValueError("turns")
    other = ValueError("in circles")
    error.__cause__, other.__cause__ = other, error
    return error


ERRORS: dict[str, Callable[[], BaseException]] = {
    "__str__ raises": StrRaises,
    "__str__ exits": StrExits,
    "__str__ gives no text": StrIsNoText,
    "__repr__ raises": ReprRaises,
    "hostile": Hostile,
    "no text": ValueError,
    "causes in a circle": _endless_cause,
    "lone surrogates": lambda: ValueError("\ud800"),
    "NUL": lambda: ValueError("a\x00b"),
    "bytes": lambda: ValueError(b"\xff"),
    "10 MiB": lambda: ValueError("x" * (10 * KIB * KIB)),
    "many four-byte characters": lambda: ValueError("🧵" * 100_000),
    "UnicodeDecodeError": lambda: UnicodeDecodeError("utf-8", b"\xff" * 100_000, 0, 1, "bad"),
    "unpicklable": lambda: ValueError(lambda: None),
}


@pytest.mark.parametrize("raised", [True, False], ids=["raised", "given to fail"])
@pytest.mark.parametrize("why", ERRORS)
async def test_d5_an_odd_error_ends_its_task_and_is_cut(
    engines: Engines, why: str, raised: bool
) -> None:
    def say(task: Task[Any], actions: Any) -> None:
        if raised:
            raise ERRORS[why]()
        actions.fail(task, ERRORS[why]())

    found = await _run(engines, say)
    assert found.status is TaskStatus.FAILED
    assert found.execution_stats["last_error"]
    for key in ("last_error", "last_error_stack"):
        assert len(found.execution_stats[key].encode()) <= 8 * KIB


@pytest.mark.parametrize("text", ["x" * 100_000, "🧵" * 10_000, "\ud800", "a\x00b", ""], ids=len)
async def test_d5_an_odd_error_text_ends_its_task_and_is_cut(engines: Engines, text: str) -> None:
    found = await _run(engines, lambda task, actions: actions.fail(task, text))
    assert found.status is TaskStatus.FAILED
    assert len(found.execution_stats["last_error"].encode()) <= 8 * KIB


@pytest.mark.parametrize("text", ["x" * (8 * KIB), "x" * (8 * KIB + 1)], ids=len)
async def test_d5_the_cut_is_at_8_kib(engines: Engines, text: str) -> None:
    found = await _run(engines, lambda task, actions: actions.fail(task, text))
    kept = found.execution_stats["last_error"]
    assert (kept == text) == (len(text) <= 8 * KIB)


@pytest.mark.parametrize("why", ERRORS)
async def test_d5_an_odd_error_after_a_word_changes_nothing(engines: Engines, why: str) -> None:
    def say(task: Task[Any], actions: Any) -> None:
        actions.success(task, "done")
        raise ERRORS[why]()

    found = await _run(engines, say)
    assert (found.status, found.execution_result) == (TaskStatus.EXECUTED, "done")


@pytest.mark.parametrize("why", ERRORS)
async def test_d5_an_odd_error_of_a_multi_executor(engines: Engines, why: str) -> None:
    async def work(tasks: list[Task[Any]], actions: Any) -> None:
        raise ERRORS[why]()

    handler = engines.handler({TYPE: multi(work)})
    await handler.add_tasks([make_task(n, force_store=True) for n in range(2)])
    assert (await handler.process_batch(QUEUE)).failed == 2


# Metas

METAS: dict[str, Any] = {
    "nan": {"x": float("nan")},
    "object": {"x": object()},
    "cycle": {"x": _cycle()},
    "surrogate": {"\ud800": 1},
    "huge": {"x": "x" * (10 * KIB * KIB)},
    "10^5 levels": {"x": _nested(100_000)},
    "library's own keys": {"last_error": "mine", "failed_at": 1, "poison": 1},
    "no mapping": 7,
    "pairs": [("a", 1)],
    "keys that are no texts": {1: "a", None: "b"},
}


@pytest.mark.parametrize("why", METAS)
async def test_d5_an_odd_meta_does_not_keep_a_task_from_failing(engines: Engines, why: str) -> None:
    found = await _run(engines, lambda task, actions: actions.fail(task, "real", METAS[why]))
    assert found.status is TaskStatus.FAILED
    assert isinstance(found.execution_stats["last_error"], str)
    assert "poison" not in found.execution_stats
    if why != "no mapping" and why != "pairs":
        assert found.execution_stats["last_error"] == "real"
