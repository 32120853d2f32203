"""Reading stored payloads directly gives what reading their JSON gives."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum, IntFlag, StrEnum
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple, Optional, Required, TypedDict
from uuid import UUID

import msgspec
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET, Meta, Struct, UnsetType

from taskloom.codec import decode, encode
from taskloom.payload_decoder import decoder_of, reader_of


class Letter(Enum):
    A = "a"
    B = "b"


class Size(IntEnum):
    S = 1
    L = 2


class Word(StrEnum):
    A = "a"


class Flags(IntFlag):
    FIRST = 1
    SECOND = 2


class Pair(NamedTuple):
    a: int
    b: str = "x"


@dataclass
class Record:
    a: int
    b: list[float] = field(default_factory=list)


class Loose(TypedDict, total=False):
    a: Required[int]
    b: date


class Point(Struct):
    x: int
    y: float = 0.0


class One(Struct, tag="one"):
    a: int


class Two(Struct, tag="two"):
    a: str


class First(Struct, tag=1, tag_field="k"):
    a: int


class Second(Struct, tag=2, tag_field="k"):
    a: str


class Row(Struct, array_like=True):
    a: int
    b: str = "q"


class Renamed(Struct, rename="camel", forbid_unknown_fields=True):
    some_name: int
    other: bool = False


class Unset(Struct):
    u: int | UnsetType = UNSET


class Checked(Struct):
    x: int

    def __post_init__(self) -> None:
        if self.x < 0:
            raise ValueError("below zero")


class Node(Struct):
    a: int
    b: list[Node] = []


class Model(pydantic.BaseModel):
    a: int


DIRECT: list[Any] = [
    *(int, float, str, bool, None, datetime, date, time, timedelta, UUID, Decimal),
    *(Letter, Size, Word, Pair, Record, Loose, Point, Row, Renamed, Unset, Checked, Node),
    *(One | Two, First | Second, Point | list[int] | str | None),
    *(int | None, int | float, int | str, float | str | None, datetime | int, Letter | int),
    *(list[int], list[float], set[int], frozenset[str], tuple[int, ...], tuple[int, str]),
    *(dict[str, int], dict[str, list[Record]], Sequence[int], Mapping[str, float]),
    *(list[set[date]], frozenset[tuple[int, int]], list[Point | None]),
    *(Literal["a", "b"], Literal[1, 2], Literal[1, "a", None]),
    *(Annotated[int, Meta(ge=0, lt=10)], Annotated[float, Meta(gt=0)]),
    *(Annotated[str, Meta(pattern="^a", max_length=2)], Annotated[datetime, Meta(tz=True)]),
    *(Annotated[list[int], Meta(max_length=2)], Annotated[dict[str, int], Meta(min_length=1)]),
]
"""What needs no JSON."""

THROUGH_JSON: list[Any] = [
    *(Any, list, dict, dict[str, Any], list[Any]),
    *(dict[int, str], dict[UUID, int], dict[Word, int], dict[Literal["a", "b"], int]),
    *(bytes, bytearray, msgspec.Raw, Flags, Model, list[Model]),
]

PLACES = ["a", "b", "x", "u", "k", "type", "someName", "some_name", "1", "2020-01-01", "\x00"]
LEAVES: list[Any] = [
    *(None, True, False, 0, 1, 2, -1, -5, 2**31, 2**53 + 1, 2**63, 2**64, -(2**63) - 1),
    *(10**25, 10**309, 10**400, 0.0, -0.0, 1.0, 2.0, 1.5, 1e16, 1e308, 5e-324),
    *("", "a", "b", "ab", "1", "one", "two", "null", "true", "é", "\x00", "NaN", "1e400", "1.10"),
    *("2020-01-01", "2020-13-01", "2020-01-01T00:00:00", "2020-01-01T00:00:00.1234567Z"),
    *("2020-01-01 00:00:00+05:30", "12:30:00", "12:30:00Z", "P1D", "PT1.5S", "-P3W", "P1Y"),
    *("00000000-0000-0000-0000-000000000007", "00000000000000000000000000000007", "YQ==", "YQ"),
]
leaves = st.sampled_from(LEAVES) | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
places = st.sampled_from(PLACES)
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(places, inner, max_size=4),
    max_leaves=6,
)


def shaped(leaf: object) -> list[Any]:
    """`leaf` in the places where the types above look for something."""
    return [
        *(leaf, [leaf], [leaf, leaf], [1, leaf], {"a": leaf}, {"a": 1, "b": leaf}),
        *({"x": leaf}, {"u": leaf}, {"someName": leaf}, {"a": 1, "b": [leaf]}),
        *({"k": leaf, "a": 1}, {"type": leaf, "a": 1}, {"a": 1, "b": [{"a": leaf}]}),
        *(
            [[leaf]],
            [[leaf, leaf]],
            [{"a": leaf}],
            {"a": [{"a": leaf}]},
            {str(leaf): 1},
            {"1": leaf},
        ),
    ]


REFUSED = "refused: "


@cache
def ways(kind: Any) -> list[Callable[[Any], Any]]:
    """How a stored value is read, and how its JSON would be."""
    decoder = decoder_of(kind, "value", "test")
    return [reader_of(decoder), lambda value: decoder.decode(encode(value))]


def told(read: Callable[[Any], Any], value: Any) -> str:
    """What is made of `value`, or what is said of it; types, signs and zones included."""
    try:
        made = read(value)
    except msgspec.ValidationError as error:
        return f"{REFUSED}{error}"
    return repr(bytes(made) if isinstance(made, msgspec.Raw) else made)


@pytest.mark.parametrize("kind", [*DIRECT, *THROUGH_JSON], ids=repr)
def test_reading_a_stored_value_equals_reading_its_json(kind: Any) -> None:
    accepted = 0
    directly, by_json = ways(kind)
    for value in [shape for leaf in LEAVES for shape in shaped(leaf)]:
        answer = told(directly, value)
        assert answer == told(by_json, value), value
        accepted += not answer.startswith(REFUSED)
    assert accepted > 0


@given(kind=st.sampled_from([*DIRECT, *THROUGH_JSON]), value=values)
@settings(max_examples=1000, deadline=None)
def test_reading_any_value_equals_reading_its_json(kind: Any, value: Any) -> None:
    directly, by_json = ways(kind)
    stored = decode(encode(value))
    assert told(directly, stored) == told(by_json, stored)


@pytest.mark.parametrize(
    "kind", [list[int], dict[str, list[int]], Loose, Any, list, dict[str, Any]]
)
def test_what_is_made_shares_nothing_with_the_stored_value(kind: Any) -> None:
    read, _ = ways(kind)
    examples: list[Any] = [[1, 2], {"a": [1]}, {"a": 1}]
    fitting = [item for item in examples if not told(read, item).startswith(REFUSED)]
    for stored in fitting:
        before = encode(stored)
        spoil(read(stored))
        assert encode(stored) == before
    assert fitting


def spoil(value: Any) -> None:
    """Empty every list and dict there is."""
    for inner in list(value.values() if isinstance(value, dict) else value):
        if isinstance(inner, list | dict):
            spoil(inner)
    value.clear()


def goes_directly(kind: Any) -> bool:
    """JSON has no NaN: what goes through it comes out as null, which is no float."""
    holder = Optional[kind]  # noqa: UP045 (`None | None` is no type)
    read, _ = ways(tuple[holder, float])
    return not told(read, (None, math.nan)).startswith(REFUSED)


def test_only_what_needs_json_goes_through_it() -> None:
    assert [kind for kind in DIRECT if not goes_directly(kind)] == []
    assert [kind for kind in THROUGH_JSON if goes_directly(kind)] == []
