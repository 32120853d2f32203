"""Joins whose results are more than a document of MongoDB holds, at their real size."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from taskloom import Task
from taskloom.errors import InvalidTaskError
from taskloom.flows import FlowStep, FlowStepResult, flow_results, join_task, new_flow
from taskloom.mongodb.rows import decode_task, document
from taskloom.task import FlowJoin

LIMIT = 15 * 1024 * 1024
MB = 1_000_000


def join_of(*results: FlowStepResult) -> Task[Any]:
    now = datetime.now(UTC)
    steps = [FlowStep("step", "q", None) for _ in results]
    new, _ = new_flow("f", steps, FlowJoin("join", "q"), now=now)
    return join_task(new.join, results, now=now)


def step(index: int, size: int) -> FlowStepResult:
    """One whose result is `size` bytes as JSON."""
    return FlowStepResult(index, "success", "x" * (size - 2))


@pytest.mark.parametrize(
    ("sizes", "dropped"),
    [
        ((2, 5 * MB, 4 * MB, 6 * MB), []),
        ((2, 5 * MB, 4 * MB, 7 * MB), [3]),
        ((7 * MB, 2, 8 * MB, 9 * MB, MB), [2, 3]),
    ],
    ids=["it fits", "the largest", "the two largest"],
)
def test_it_goes_without_its_largest_results(
    sizes: tuple[int, ...], dropped: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    join = join_of(*(step(index, size) for index, size in enumerate(sizes)))
    body = document(join)["body"]
    assert len(body) <= LIMIT
    told = flow_results(decode_task(body, join.id)).steps
    given = flow_results(join).steps
    assert [each.step_index for each in told if each != given[each.step_index]] == dropped
    for index in dropped:
        assert told[index].result == {"result_dropped": sizes[index]}
    warned = f"flow f: the results of {len(dropped)} of its {len(sizes)} steps are"
    said = [each.message.partition(" dropped:")[0] for each in caplog.records]
    assert said == ([warned] if dropped else [])


def test_what_is_large_without_results_is_refused() -> None:
    join = join_of(FlowStepResult(0, "fail", error="x" * LIMIT), step(1, 100))
    with pytest.raises(InvalidTaskError, match=r"^payload: 15,72.* holds 16 MB"):
        document(join)
