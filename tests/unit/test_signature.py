"""Arguments become a payload and come back as the annotated types."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any, TypedDict, cast
from uuid import UUID

import msgspec
import pydantic
import pytest

from taskloom.actions import ExecutorActions
from taskloom.codec import decode, encode
from taskloom.errors import InvalidTaskError
from taskloom.signature import BatchSignature, TaskSignature
from taskloom.task import Task as Job

if TYPE_CHECKING:
    from taskloom.nowhere import Missing  # type: ignore[import-not-found]

    from taskloom.task import Task

ACTIONS = cast(ExecutorActions, object())


@dataclass
class Address:
    street: str
    numbers: list[int]


class Point(msgspec.Struct):
    x: int
    y: int = 0


class Options(TypedDict, total=False):
    fast: bool


class User(pydantic.BaseModel):
    name: str
    born: datetime


class Color(Enum):
    RED = "red"


def payload(function: Callable[..., Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
    return TaskSignature(function).payload(args, kwargs, f"{function.__name__}.enqueue()")


def task_with(payload: object) -> Job[Any]:
    return Job(type="t", queue_id="q", payload=payload)


def call(function: Callable[..., Any], payload: object) -> Any:
    args, kwargs = TaskSignature(function).arguments(task_with(payload), ACTIONS)
    return function(*args, **kwargs)


def send(to: str, subject: str = "Hi", *, copies: int = 1) -> tuple[str, str, int]:
    return to, subject, copies


def mixed(first: int, /, second: int, *, third: int = 3) -> tuple[int, int, int]:
    return first, second, third


def typed(  # type: ignore[no-untyped-def]
    address: Address,
    point: Point,
    options: Options,
    user: User,
    at: datetime,
    color: Color,
    id: UUID,
    price: Decimal,
    pair: tuple[int, str],
    names: set[str],
    raw: bytes,
    maybe: int | None,
    by_number: dict[int, list[Point]],
    small: Annotated[int, msgspec.Meta(lt=10)],
    anything,
) -> Any:
    return locals()


TYPED: dict[str, Any] = {
    "address": Address("Elm", [1, 2]),
    "point": Point(1, 2),
    "options": {"fast": True},
    "user": User(name="Ada", born=datetime(1815, 12, 10, tzinfo=UTC)),
    "at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    "color": Color.RED,
    "id": UUID(int=7),
    "price": Decimal("1.10"),
    "pair": (1, "a"),
    "names": {"a", "b"},
    "raw": b"\x00\xff",
    "maybe": None,
    "by_number": {3: [Point(1)]},
    "small": 9,
    "anything": {"deep": [1, None, "x"]},
}


# Binding.


def test_payload_has_every_parameter_by_name_in_order_with_defaults() -> None:
    assert list(payload(send, "a").items()) == [("to", "a"), ("subject", "Hi"), ("copies", 1)]
    assert list(payload(send, copies=2, to="a")) == ["to", "subject", "copies"]
    assert payload(send, "a", "Ho") == {"to": "a", "subject": "Ho", "copies": 1}
    assert payload(mixed, 1, 2, third=4) == {"first": 1, "second": 2, "third": 4}


@pytest.mark.parametrize(
    ("args", "kwargs", "words"),
    [
        ((), {}, "missing a required argument: 'to'"),
        (("a", "b", "c"), {}, "too many positional arguments"),
        (("a",), {"to": "b"}, "multiple values for argument 'to'"),
        (("a",), {"body": "b"}, "got an unexpected keyword argument 'body'"),
    ],
)
def test_arguments_that_do_not_fit_are_worded_like_python(
    args: tuple[Any, ...], kwargs: dict[str, Any], words: str
) -> None:
    with pytest.raises(TypeError, match=rf"^send\.enqueue\(\) {words}$"):
        payload(send, *args, **kwargs)


def test_positional_only_and_keyword_only_parameters() -> None:
    assert call(mixed, payload(mixed, 1, second=2)) == (1, 2, 3)
    with pytest.raises(TypeError, match="'first'"):
        payload(mixed, first=1, second=2)


def test_a_function_without_parameters_has_an_empty_payload() -> None:
    def nothing() -> str:
        return "done"

    assert payload(nothing) == {}
    assert call(nothing, {}) == "done"


# Types.


def test_every_type_comes_back_as_annotated() -> None:
    stored = payload(typed, **TYPED)
    assert decode(encode(stored)) == stored  # plain JSON values
    assert call(typed, stored) == TYPED


@pytest.mark.parametrize("name", sorted(TYPED.keys() - {"anything", "options"}))
def test_a_wrong_value_is_an_error_that_names_function_and_argument(name: str) -> None:
    with pytest.raises(TypeError, match=rf"^typed\.enqueue\(\): argument '{name}'.*: "):
        payload(typed, **(TYPED | {name: ["wrong", {}, {}]}))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"maybe": "3"}, "argument 'maybe': expected int | null, got str"),
        ({"small": 10}, "argument 'small': expected int <= 9"),
        ({"at": "soon"}, "argument 'at': invalid RFC3339 encoded datetime"),
        ({"color": "blue"}, "argument 'color': invalid enum value 'blue'"),
        ({"address": Address("Elm", cast(Any, ["x"]))},
         "argument 'address' at numbers[0]: expected int, got str"),
        ({"address": {"street": "Elm"}},
         "argument 'address': object missing required field numbers"),
        ({"user": {"name": 1, "born": "x"}},
         "argument 'user': name: Input should be a valid string; "
         "born: Input should be a valid datetime or date, input is too short"),
        ({"by_number": {"a": []}}, "argument 'by_number' (a key): expected int, got str"),
    ],
)  # fmt: skip
def test_what_a_mismatch_says(change: dict[str, Any], words: str) -> None:
    with pytest.raises(TypeError) as caught:
        payload(typed, **(TYPED | change))
    assert str(caught.value) == f"typed.enqueue(): {words}"


def test_a_mismatch_speaks_of_python_types() -> None:
    with pytest.raises(TypeError, match=r"^send\.enqueue\(\): argument 'to': expected str, got d"):
        payload(send, {"a": 1})
    with pytest.raises(TypeError, match=r"argument 'to': expected str, got tuple$"):
        payload(send, (1,))


@pytest.mark.parametrize("value", [float("nan"), object(), "\ud800", float("inf")])
def test_what_json_cannot_hold_names_the_argument(value: object) -> None:
    def loose(first: Any, second: Any) -> None: ...

    with pytest.raises(InvalidTaskError, match=r"^loose\.enqueue\(\): argument 'second': "):
        payload(loose, 1, value)


def test_a_payload_that_is_too_large_as_a_whole_is_refused() -> None:
    def loose(first: str, second: str) -> None: ...

    with pytest.raises(InvalidTaskError, match=r"^loose\.enqueue\(\): arguments: "):
        payload(loose, "x" * 5_000_000, "x" * 5_000_000)


def test_a_default_that_does_not_fit_is_found_when_it_is_used() -> None:
    def sloppy(name: str = cast(Any, None)) -> None: ...

    assert payload(sloppy, "a") == {"name": "a"}
    with pytest.raises(TypeError, match="argument 'name': expected str, got null"):
        payload(sloppy)


# Stored payloads and newer code.


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        ({"to": 1}, "argument 'to': expected str, got int"),
        ({}, "argument 'to' is missing"),
        ({"to": "a", "body": "b"}, "argument 'body' is not known"),
        (["a"], "payload: expected object, got list"),
        (None, "payload: expected object, got null"),
    ],
)
def test_a_stored_payload_that_no_longer_fits_names_the_argument(stored: Any, words: str) -> None:
    with pytest.raises(TypeError) as caught:
        call(send, stored)
    assert str(caught.value) == f"send: the stored payload does not fit: {words}"


def test_parameters_that_the_payload_lacks_take_their_defaults() -> None:
    assert call(send, {"to": "a"}) == ("a", "Hi", 1)


# What is injected.


def test_injected_parameters_are_no_part_of_the_payload() -> None:
    def injected(
        first: int, actions: ExecutorActions, second: int = 2, *, task: Task[int]
    ) -> tuple[Any, ...]:
        return first, actions, second, task

    signature = TaskSignature(injected)
    assert signature.payload((1,), {}, "x") == {"first": 1, "second": 2}
    task = task_with({"first": 1, "second": 3})
    args, kwargs = signature.arguments(task, ACTIONS)
    assert injected(*args, **kwargs) == (1, ACTIONS, 3, task)
    with pytest.raises(TypeError, match="unexpected keyword argument 'task'"):
        signature.payload((1,), {"task": task}, "x")


def test_what_is_injected_by_keyword_alone() -> None:
    def injected(first: int, *, task: Task[int]) -> tuple[Any, ...]:
        return first, task

    task = task_with({"first": 1})
    args, kwargs = TaskSignature(injected).arguments(task, ACTIONS)
    assert injected(*args, **kwargs) == (1, task)


# Functions that cannot be tasks.


def test_what_can_never_be_a_task_is_refused_at_once() -> None:
    def many(*names: str) -> None: ...
    def keywords(**names: str) -> None: ...
    def method(self: Any, name: str) -> None: ...
    def generator() -> Any:
        yield 1

    async def async_generator() -> Any:
        yield 1

    with pytest.raises(TypeError, match=r"^many: \*names: .*cannot be part of a payload"):
        TaskSignature(many)
    with pytest.raises(TypeError, match=r"^keywords: \*\*names"):
        TaskSignature(keywords)
    with pytest.raises(TypeError, match=r"^method: a method cannot be a task"):
        TaskSignature(method)
    for function in (generator, async_generator):
        with pytest.raises(TypeError, match="a generator cannot be a task"):
            TaskSignature(function)
    with pytest.raises(TypeError, match="a task is a function, not str"):
        TaskSignature(cast(Any, "send"))


def test_names_are_resolved_at_the_first_use() -> None:
    def forward(item: DefinedBelow) -> Any:
        return item

    signature = TaskSignature(forward)
    assert signature.payload((DefinedBelow(3),), {}, "x") == {"item": {"number": 3}}
    assert call(forward, {"item": {"number": 3}}) == DefinedBelow(3)


@dataclass
class DefinedBelow:
    number: int


def test_a_name_that_cannot_be_resolved_says_what_to_do() -> None:
    def lost(fine: int, item: Missing) -> Missing: ...

    signature = TaskSignature(lost)
    with pytest.raises(TypeError, match=r"^lost: .*'Missing' of parameter 'item'.* module level"):
        signature.prepare()


def test_the_return_annotation_need_not_be_resolved() -> None:
    def lost(fine: int) -> Missing: ...

    assert payload(lost, 3) == {"fine": 3}


class Connection: ...


@pytest.mark.parametrize("hint", [Connection, list[Connection], Connection | None, type[int]])
def test_a_type_that_json_cannot_make_is_refused_by_name(hint: Any) -> None:
    def use(fine: int, db: Any) -> None: ...

    use.__annotations__["db"] = hint
    with pytest.raises(TypeError, match=r"^use: parameter 'db' cannot be part of a payload: "):
        TaskSignature(use).prepare()


def test_a_union_that_json_cannot_tell_apart_is_refused_by_name() -> None:
    def use(either: list[int] | set[int]) -> None: ...

    with pytest.raises(TypeError, match=r"^use: parameter 'either' cannot be part of a payload: "):
        TaskSignature(use).prepare()


# Batches.


def insert(tasks: list[Task[Point]], actions: ExecutorActions) -> None: ...


def test_a_row_is_a_payload_and_comes_back_as_a_row() -> None:
    signature = BatchSignature(insert)
    assert signature.payload(Point(1), "insert.enqueue()") == {"x": 1, "y": 0}
    task = task_with({"x": 1})
    row = signature.row(task)
    assert (row.id, row.payload) == (task.id, Point(1))


def test_a_wrong_row_is_an_error() -> None:
    signature = BatchSignature(insert)
    with pytest.raises(TypeError, match=r"^insert\.enqueue\(\): row\.x: expected int, got str$"):
        signature.payload({"x": "1"}, "insert.enqueue()")
    with pytest.raises(TypeError, match=r"^insert\.enqueue\(\): row\.x: expected int, got array$"):
        signature.payload({"x": [1]}, "insert.enqueue()")
    with pytest.raises(InvalidTaskError, match=r"^insert\.enqueue\(\): row: "):
        signature.payload(object(), "insert.enqueue()")
    with pytest.raises(TypeError, match=r"^insert: the stored payload does not fit: row: expected"):
        signature.row(task_with([1]))


def test_a_batch_function_takes_tasks_and_actions() -> None:
    def one(tasks: list[Task[Point]]) -> None: ...
    def rows(tasks: list[Point], actions: ExecutorActions) -> None: ...
    def loose(tasks, actions): ...  # type: ignore[no-untyped-def]

    with pytest.raises(TypeError, match=r"^one: with batch= a function takes two parameters"):
        BatchSignature(one)
    with pytest.raises(TypeError, match=r"^rows: annotate 'tasks' as list\[Task\[Row\]\]"):
        BatchSignature(rows).prepare()
    assert BatchSignature(loose).payload({"any": 1}, "x") == {"any": 1}
