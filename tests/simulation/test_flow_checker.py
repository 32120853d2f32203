"""The rules of flows and projections: quiet about a good flow, clear about each kind of bad one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from simulation.checker import check
from simulation.history import Event, Final
from simulation.test_checker import NOW, end, event, start
from taskloom import EntityRef, FlowJoin, FlowStep, FlowStepResult, Task, TaskStatus
from taskloom.flows import join_task, new_flow


class Story:
    """A flow of two steps on an entity: what its barrier and its events said, and its tasks."""

    def __init__(self) -> None:
        steps = [FlowStep("step", "q", {}, EntityRef("e", "thing")) for _ in range(2)]
        options: dict[str, Any] = {"failure_policy": "abort", "timeout": 5, "now": NOW}
        self.flow, tasks = new_flow("f", steps, FlowJoin("join", "q"), **options)
        self.steps = [_ended(task, run) for run, task in enumerate(tasks[:2], 1)]
        self.sentinel = tasks[2].replace(status=TaskStatus.EXECUTED)
        self.results = [FlowStepResult(index, "success", {"run": index + 1}) for index in range(2)]
        self.join = _ended(join_task(self.flow.join, self.results, now=NOW), 3)
        self.events = [event(1, "flow.open", "f", total=2, join=self.flow.join, by="")]
        for run, task in enumerate((*self.steps, self.join), 1):
            self.events += [event(2, "claim", task.id, receipt=1, count=1), *_run(run, task.id)]
        self.barrier = [
            event(3, "flow.steps", "f", results=tuple(self.results), abort=False),
            event(4, "flow.joined", "f"),
            event(4, "flow.told", "f", end="completed"),
        ]
        self.rows = {step.id: "executed" for step in self.steps}

    def ends(self, kind: str, end: str, **about: Any) -> None:
        """It ended early instead, before anything counted."""
        first = event(3, kind, "f", **{"results": (), **about})
        self.barrier = [first, event(4, "flow.joined", "f"), event(4, "flow.told", "f", end=end)]
        self.join = _ended(join_task(self.flow.join, [], now=NOW, end=end), 3)  # type: ignore[arg-type]

    def found(self) -> list[str]:
        tasks = [*self.steps, self.sentinel, self.join]
        final = Final({task.id: task for task in tasks}, projections=self.rows)
        events = sorted([*self.events, *self.barrier], key=lambda event: event.at)
        found = check(events, final, max_deliveries=3)
        return [text.split("\n")[0] for text in found]


def _ended(task: Task[Any], run: int) -> Task[Any]:
    return task.replace(status=TaskStatus.EXECUTED, execution_result={"run": run})


def _run(run: int, id: str) -> list[Event]:
    return [start(2, run, id), end(2, run)._replace(task=id)]


def test_a_good_flow_is_quiet() -> None:
    assert Story().found() == []


def test_a_timed_out_flow_is_quiet() -> None:
    story = Story()
    story.ends("flow.early", "timed_out", timed_out=True)
    assert story.found() == []


def _still_open(story: Story) -> None:
    story.barrier = []


def _joined_twice(story: Story) -> None:
    story.barrier.append(event(5, "flow.joined", "f"))


def _no_join(story: Story) -> None:
    story.join = story.join.replace(id="another")


def _another_result(story: Story) -> None:
    results = [replace(story.results[0], result={"run": 9}), story.results[1]]
    story.join = _ended(join_task(story.flow.join, results, now=NOW), 3)


def _step_missing(story: Story) -> None:
    story.join = _ended(join_task(story.flow.join, story.results[:1], now=NOW), 3)


def _later_result(story: Story) -> None:
    late = replace(story.results[0], result={"run": 2})
    story.barrier.insert(0, event(2.5, "flow.steps", "f", results=(late,), abort=False))


def _result_of_no_run(story: Story) -> None:
    story.events = [each for each in story.events if each.task != story.steps[0].id]


def _wrong_flag(story: Story) -> None:
    story.join = _ended(join_task(story.flow.join, story.results, now=NOW, end="aborted"), 3)


def _aborted_for_nothing(story: Story) -> None:
    story.ends("flow.steps", "aborted", abort=True)


def _timed_out_without_a_sentinel(story: Story) -> None:
    story.ends("flow.early", "timed_out", timed_out=True)
    story.sentinel = story.steps[0]


def _told_of_two_ends(story: Story) -> None:
    story.barrier.append(event(5, "flow.told", "f", end="aborted"))


def _told_of_another_end(story: Story) -> None:
    story.barrier[-1] = event(4, "flow.told", "f", end="timed_out")


def _went_on(story: Story) -> None:
    story.ends("flow.early", "timed_out", timed_out=True)
    id = story.steps[0].id
    story.events.insert(0, event(1, "row", id, old="", new="queued", poison=False))
    for index, each in enumerate(story.events):
        if each.task == id and each.kind != "row":
            story.events[index] = each._replace(at=6)


def _cancelled_and_run(story: Story) -> None:
    id = story.steps[0].id
    story.events.insert(0, event(1, "row", id, old="queued", new="cancelled", poison=False))


def _row_goes_back(story: Story) -> None:
    id = story.steps[0].id
    story.events.append(event(5, "project", id, old="executed", new="processing", asked=""))


def _row_disagrees(story: Story) -> None:
    story.rows[story.steps[0].id] = "failed"


@pytest.mark.parametrize(
    ("invariant", "plant"),
    [
        ("I9", _still_open),
        ("I9", _joined_twice),
        ("I9", _no_join),
        ("I9", _another_result),
        ("I9", _step_missing),
        ("I9", _later_result),
        ("I9", _result_of_no_run),
        ("I9", _wrong_flag),
        ("I9", _aborted_for_nothing),
        ("I9", _timed_out_without_a_sentinel),
        ("I9", _told_of_two_ends),
        ("I9", _told_of_another_end),
        ("I9", _went_on),
        ("I9", _cancelled_and_run),
        ("I10", _row_goes_back),
        ("I10", _row_disagrees),
    ],
)
def test_a_bad_flow_is_told(invariant: str, plant: Callable[[Story], None]) -> None:
    story = Story()
    plant(story)
    told = story.found()
    assert any(text.startswith(f"{invariant} ") for text in told), told
