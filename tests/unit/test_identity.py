"""Ids: new ones sort by time, derived ones follow from where they come from."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskloom import InvalidTaskError, Task
from taskloom.current import running
from taskloom.identity import DerivedIds, FreshIds, derive_id, new_id

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)


class Attempt(DerivedIds):
    """What stands in the context while a task runs."""

    def __init__(self) -> None:
        super().__init__("parent:0")

    def log_fields(self) -> dict[str, str]:
        return {}


children = st.lists(
    st.tuples(st.sampled_from("ab"), st.sampled_from("qr"), json_values), max_size=8
)


def test_a_new_id_is_a_uuid_of_version_7_and_sorts_by_time() -> None:
    ids = [new_id() for _ in range(1000)]
    assert {uuid.UUID(id).version for id in ids} == {7}
    assert len(set(ids)) == 1000
    assert ids == sorted(ids)


def test_a_derived_id_is_a_uuid_of_version_5_that_never_changes() -> None:
    assert uuid.UUID(derive_id("a", "b")).version == 5
    # Stored tasks of a run before an upgrade must be recognised after it.
    assert derive_id("a", "b") == derive_id("a", "b") != derive_id("b", "a")


def test_where_one_part_ends_matters() -> None:
    assert derive_id("ab", "c") != derive_id("a", "bc")


@given(made=children, shuffle=st.randoms(use_true_random=False))
def test_a_rerun_makes_the_same_ids_in_whatever_order(made: list[Any], shuffle: Any) -> None:
    again = list(made)
    shuffle.shuffle(again)
    first, second = DerivedIds("parent:0"), DerivedIds("parent:0")
    assert sorted(first.next_id(*each) for each in made) == sorted(
        second.next_id(*each) for each in again
    )


@given(made=children)
def test_no_two_children_of_one_attempt_share_an_id(made: list[Any]) -> None:
    source = DerivedIds("parent:0")
    ids = [source.next_id(*each) for each in made]
    assert len(set(ids)) == len(ids)


@given(child=st.tuples(st.just("t"), st.just("q"), json_values))
def test_another_attempt_makes_other_ids(child: Any) -> None:
    assert DerivedIds("parent:0").next_id(*child) != DerivedIds("parent:1").next_id(*child)


def test_the_order_of_keys_in_a_payload_does_not_matter() -> None:
    one = DerivedIds("p").next_id("t", "q", {"a": 1, "b": 2})
    assert DerivedIds("p").next_id("t", "q", {"b": 2, "a": 1}) == one


def test_fresh_ids_are_new_each_time_and_remembered() -> None:
    source = FreshIds()
    ids = {source.next_id("t", "q", 1) for _ in range(3)}
    assert len(ids) == 3
    assert source.given == ids


def test_a_task_takes_its_id_from_what_runs_here() -> None:
    token = running.set(DerivedIds("parent:0"))
    try:
        made = Task(type="t", queue_id="q", payload={"n": 1})
        given_by_hand = Task(type="t", queue_id="q", payload={"n": 1}, id="mine")
    finally:
        running.reset(token)
    assert made.id == DerivedIds("parent:0").next_id("t", "q", {"n": 1})
    assert given_by_hand.id == "mine"
    assert uuid.UUID(Task(type="t", queue_id="q", payload={"n": 1}).id).version == 7


@pytest.mark.parametrize("payload", [object(), {"a": {1, object()}}])
def test_a_child_with_a_payload_that_json_cannot_hold_says_so(payload: Any) -> None:
    token = running.set(DerivedIds("parent:0"))
    try:
        with pytest.raises(InvalidTaskError, match=r"^payload:"):
            Task(type="t", queue_id="q", payload=payload)
    finally:
        running.reset(token)


def test_a_child_with_a_payload_in_a_cycle_says_so() -> None:
    payload: list[Any] = []
    payload.append(payload)
    token = running.set(DerivedIds("parent:0"))
    try:
        with pytest.raises(InvalidTaskError, match=r"^payload: nested too deeply"):
            Task(type="t", queue_id="q", payload=payload)
    finally:
        running.reset(token)
