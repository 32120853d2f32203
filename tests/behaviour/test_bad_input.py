"""SPEC 1.3, FAULTS D4: what no engine could keep is refused, naming the field.

Nothing is half added, and neighbours go on.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from harness import QUEUE, TYPE, Engines, Runs, make_task, single
from taskloom import (
    EntityRef,
    InvalidTaskError,
    Task,
    TaskloomError,
    TaskMetadata,
)

NAIVE = datetime(2030, 1, 1)


def _nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth - 1):
        value = [value]
    return value


def _cycle() -> Any:
    value: dict[str, Any] = {}
    value["me"] = value
    return value


# Refused when the task is made, or at the latest when it is added: field -> values.

NAMES: dict[str, Any] = {
    "empty": "",
    "NUL": "a\x00b",
    "newline": "a\nb",
    "escape": "a\x1b[31m",
    "line separator": "a\u2028b",
    "overlong": "x" * 513,
    "lone surrogate": "a\ud800",
    "not a text": 7,
    "bytes": b"abc",
}
TIMES = {"naive": NAIVE, "text": "2030-01-01", "date": date(2030, 1, 1), "number": 1.0}
COUNTS = {"negative": -1, "fraction": 1.5, "text": "3", "bool": True, "nan": float("nan")}
SECONDS = {
    "negative": -0.001,
    "nan": float("nan"),
    "infinite": float("inf"),
    "negative timedelta": timedelta(seconds=-1),
    "text": "3",
    "bool": True,
}
ENTITIES = {
    "a text": "user",
    "NUL in its id": EntityRef("a\x00", "user"),
    "lone surrogate in its id": EntityRef("\ud800", "user"),
    "lone surrogate in its type": EntityRef("u", "\udfff"),
    "a number as id": EntityRef(7, "user"),  # type: ignore[arg-type]
}
CONTEXTS: dict[str, Any] = {
    "number as value": {"k": 1},
    "number as key": {1: "v"},
    "lone surrogate": {"k": "\ud800"},
    "a list": ["k"],
}

TIME_FIELDS = ("execute_at", "expires_at", "created_at", "updated_at", "processing_started_at")
FIELDS: list[tuple[str, str, Any]] = [
    *((field, why, value) for field in ("type", "queue_id", "id") for why, value in NAMES.items()),
    *(
        (field, why, value)
        for field in ("task_group", "task_hash", "partition_key")
        for why, value in NAMES.items()
    ),
    *((field, why, value) for field in TIME_FIELDS for why, value in TIMES.items()),
    *((field, why, value) for field in ("retries", "retry_count") for why, value in COUNTS.items()),
    *(("retry_after", why, value) for why, value in SECONDS.items()),
    *(("entity", why, value) for why, value in ENTITIES.items()),
]

PAYLOADS: dict[str, Callable[[], Any]] = {
    "nan": lambda: float("nan"),
    "nan deep inside": lambda: {"a": [1, {"b": float("nan")}]},
    "infinity": lambda: [float("inf"), None],
    "lone surrogate": lambda: "a\ud800b",
    "lone surrogate in a key": lambda: {"\udfff": 1},
    "a cycle": _cycle,
    "129 levels": lambda: _nested(129),
    "10^5 levels": lambda: _nested(100_000),
    "10^6 digits": lambda: [10**1_000_000],
    "an object": object,
    "a function": lambda: print,
    "a type": lambda: int,
    "a complex number": lambda: 1j,
    "8 MiB and 1 byte": lambda: "x" * (8 * 1024 * 1024 - 1),
}


async def _refused(engines: Engines, make: Callable[[], Task[Any]], field: str) -> None:
    """Neither `make()` nor its neighbour is added, and the handler goes on."""
    handler, neighbour = engines.handler(), make_task("neighbour", force_store=True)
    with pytest.raises(InvalidTaskError) as caught:  # noqa: PT012 (made or added: either may raise)
        task = make()
        await handler.add_tasks([neighbour, task, make_task("another")])
    assert str(caught.value).startswith(field)
    assert len(str(caught.value)) < 1000
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, TaskloomError)
    assert await engines.is_empty()
    await handler.add_tasks([neighbour])
    assert await engines.queue.depth(QUEUE) == 1


@pytest.mark.parametrize(("field", "why", "value"), FIELDS, ids=lambda value: str(value)[:30])
async def test_1_3_a_field_that_makes_no_sense_is_refused(
    engines: Engines, field: str, why: str, value: Any
) -> None:
    await _refused(engines, lambda: make_task(**{field: value}), field)


@pytest.mark.parametrize("why", CONTEXTS)
async def test_1_4_a_log_context_of_other_than_texts_is_refused(engines: Engines, why: str) -> None:
    metadata = TaskMetadata(log_context=CONTEXTS[why])
    await _refused(engines, lambda: make_task(metadata=metadata), "metadata.log_context")


@pytest.mark.parametrize("why", PAYLOADS)
async def test_d4_a_payload_that_json_cannot_hold_is_refused(engines: Engines, why: str) -> None:
    await _refused(engines, lambda: make_task(PAYLOADS[why]()), "payload")


@pytest.mark.parametrize("route", ["storage", "both"])
async def test_d4_a_bad_payload_is_refused_on_every_route(engines: Engines, route: str) -> None:
    at = datetime.now(UTC) + timedelta(hours=1 if route == "storage" else 0)
    make = lambda: make_task(float("nan"), execute_at=at, force_store=True)  # noqa: E731
    await _refused(engines, make, "payload")


async def test_1_3_execution_stats_that_json_cannot_hold_are_refused(engines: Engines) -> None:
    stats = {"x": float("nan")}
    await _refused(engines, lambda: make_task(execution_stats=stats), "execution_stats")


async def test_1_3_an_execution_result_that_json_cannot_hold_is_refused(engines: Engines) -> None:
    make = lambda: make_task(execution_result=object(), force_store=True)  # noqa: E731
    await _refused(engines, make, "execution_result")


@pytest.mark.parametrize(
    "moment",
    [
        datetime.max.replace(tzinfo=UTC),
        datetime(1, 1, 1, tzinfo=UTC),
        datetime(1960, 1, 1, tzinfo=UTC),
    ],
    ids=str,
)
@pytest.mark.parametrize("field", ["execute_at", "expires_at"])
async def test_1_3_times_at_the_ends_of_the_calendar_are_fine(
    engines: Engines, field: str, moment: datetime
) -> None:
    handler = engines.handler({TYPE: single(Runs())})
    (task,) = await handler.add_tasks([make_task(force_store=True, **{field: moment})])
    await handler.drain(10)
    found = await engines.stored(task)
    assert found is not None
    assert getattr(found, field) == moment


async def test_1_3_a_time_beyond_the_calendar_in_utc_names_its_field(engines: Engines) -> None:
    from datetime import timezone

    beyond = datetime.max.replace(tzinfo=timezone(timedelta(hours=-5)))
    await _refused(engines, lambda: make_task(execute_at=beyond), "execute_at")


async def test_1_3_replace_is_checked_too() -> None:
    task = make_task()
    for change in ({"execute_at": NAIVE}, {"retries": -1}, {"type": ""}, {"retry_after": -1}):
        with pytest.raises(InvalidTaskError, match=f"^{next(iter(change))}"):
            task.replace(**change)


async def test_1_3_an_id_emptied_by_hand_is_refused_when_added(engines: Engines) -> None:
    await _refused(engines, lambda: make_task().replace(id=""), "id")


@pytest.mark.parametrize("thing", [None, {"type": TYPE}, "task", 7])
async def test_1_3_what_is_no_task_is_refused(engines: Engines, thing: Any) -> None:
    with pytest.raises(TypeError, match="Task"):
        await engines.handler().add_tasks([make_task(), thing])
    assert await engines.is_empty()


# Allowed, and coming back as it was

FINE: dict[str, Callable[[], Any]] = {
    "NUL": lambda: {"a\x00b": "\x00"},
    "128 levels": lambda: _nested(128),
    "control characters": lambda: "\x01\x1b\r\n\u2028\u2029\x7f",
    "astral": lambda: "\U0010ffff🧵",
    "dollars and dots": lambda: {"$set": {"a.b": 1}, "__class__": "x", "self": 1, "": None},
    "big numbers": lambda: [2**64 + 1, -(2**63), 10**100, 1e300, 5e-324, -0.5],
    "nothing": lambda: None,
    "many brackets in a text": lambda: "[" * 1000,
    "nulls": lambda: [None, "null", {"null": None}],
    "8 MiB": lambda: "x" * (8 * 1024 * 1024 - 2),
}


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("why", FINE)
async def test_d4_odd_but_possible_payloads_come_back_as_they_were(
    engines: Engines, why: str, stored: bool
) -> None:
    runs, payload = Runs(), FINE[why]()
    handler = engines.handler({TYPE: single(runs)})
    await handler.add_tasks([make_task(payload, force_store=stored)])
    await handler.drain(10)
    assert runs.payloads == [payload]


@pytest.mark.parametrize("name", ["x" * 512, "ü" * 512, "'; DROP TABLE t; --", "a b$.%/{}"])
async def test_1_3_odd_names_are_fine(engines: Engines, name: str) -> None:
    runs = Runs()
    handler = engines.handler({(name, name): single(runs)})
    fields = {"id": name, "task_hash": name, "partition_key": name, "task_group": name}
    await handler.add_tasks([make_task(1, type=name, queue_id=name, force_store=True, **fields)])
    await handler.drain(10)
    assert [task.id for task in runs] == [name]
