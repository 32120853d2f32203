"""The rules of flows and projections find what is wrong, and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from checker import Rules, check
from recorder import Final, FlowPart
from test_checker import Story


class FlowStory(Story):
    """A flow of two steps, started, run and joined as it should be."""

    def __init__(self) -> None:
        super().__init__()
        self.whole()
        self.note("spawn", task="x", children=["s0", "s1", "j"])
        for id in ("s0", "s1", "j"):
            self.run(id, f"run of {id}")
        self.part("s0", "step", 0)
        self.part("s1", "step", 1)
        self.part("j", "join").steps = [
            (0, "success", "run of s0"),
            (1, "success", "run of s1"),
        ]
        self.join = self.finals["j"].flow or FlowPart("none", "join")

    def run(self, id: str, run: str, word: str = "ok") -> None:
        self.note("run.start", task=id, run=run)
        self.note("run.end", task=id, run=run, word=word, result=run)

    def part(self, id: str, kind: str, index: int = -1) -> FlowPart:
        part = FlowPart("f", kind, index, 2)
        self.finals[id] = Final(id, "executed", f"run of {id}", flow=part)
        return part


def test_a_good_flow_has_no_violation() -> None:
    assert FlowStory().found() == set()


def _no_join(story: FlowStory) -> None:
    del story.finals["j"]


def _two_joins(story: FlowStory) -> None:
    story.note("spawn", task="x", children=["k"])
    story.run("k", "run of k")
    story.part("k", "join").steps = story.join.steps


def _no_step(story: FlowStory) -> None:
    del story.finals["s1"]


def _incomplete(story: FlowStory) -> None:
    story.join.steps.pop()


def _step_twice(story: FlowStory) -> None:
    story.join.steps.insert(0, story.join.steps[0])


def _result_of_nobody(story: FlowStory) -> None:
    story.join.steps[0] = (0, "success", "another")


def _result_of_another_run(story: FlowStory) -> None:
    story.fault("kill", wait=0.0)
    story.run("s0", "again")
    story.join.steps[0] = (0, "success", "again")


def _failed_for_nothing(story: FlowStory) -> None:
    story.join.steps[0] = (0, "fail", None)


def _aborted_for_nothing(story: FlowStory) -> None:
    story.join.aborted = True


def _not_aborted(story: FlowStory) -> None:
    story.note("run.start", task="s0", run="bad")
    story.note("run.end", task="s0", run="bad", word="fail")
    story.finals["s0"].status = "failed"
    story.join.steps[0] = (0, "fail", None)
    story.join.policy = "abort"


def _no_sentinel(story: FlowStory) -> None:
    story.join.timed_out = True


def _two_ends(story: FlowStory) -> None:
    story.join.aborted = story.join.timed_out = True


def _barrier_lost(story: FlowStory) -> None:
    story.join.lost = True


def _reopened(story: FlowStory) -> None:
    story.note("change", call="flow", task="f", word="sent ready")


def _row_goes_back(story: FlowStory) -> None:
    story.note("change", call="projection", task="s0", word="processing scheduled")


def _row_changes_its_end(story: FlowStory) -> None:
    story.note("change", call="projection", task="s0", word="failed executed")


def _row_disagrees(story: FlowStory) -> None:
    story.finals["s0"].told = "failed"


def _row_stays_behind(story: FlowStory) -> None:
    story.finals["s0"].told = "processing"


@pytest.mark.parametrize(
    ("invariant", "plant"),
    [
        ("I9", _no_join),
        ("I9", _two_joins),
        ("I9", _no_step),
        ("I9", _incomplete),
        ("I9", _step_twice),
        ("I9", _result_of_nobody),
        ("I9", _result_of_another_run),
        ("I9", _failed_for_nothing),
        ("I9", _aborted_for_nothing),
        ("I9", _not_aborted),
        ("I9", _no_sentinel),
        ("I9", _two_ends),
        ("I9", _barrier_lost),
        ("I10", _reopened),
        ("I10", _row_goes_back),
        ("I10", _row_changes_its_end),
        ("I10", _row_disagrees),
        ("I10", _row_stays_behind),
    ],
)
def test_a_planted_violation_of_a_flow_is_found(
    invariant: str, plant: Callable[[FlowStory], None]
) -> None:
    story = FlowStory()
    plant(story)
    assert invariant in story.found()


def test_with_projections_beside_a_run_that_was_told_and_never_settled_may_be_cancelled() -> None:
    """Its row says executed; without such a run, or in one transaction, it may not."""
    story = FlowStory()
    story.finals["s0"].status = "cancelled"
    story.finals["s0"].told = "executed"
    beside = Rules(beside=True)

    def found(rules: Rules) -> set[str]:
        return {each.invariant for each in check(story.events, story.finals.values(), rules)}

    assert "I10" not in found(beside)
    assert "I10" in found(Rules())
    story.events[:] = [event for event in story.events if event.task != "s0"]
    assert "I10" in found(beside)


def test_with_a_barrier_beside_the_first_that_counted_stays() -> None:
    """The row may have the result of a later run; the join has the one that counted first."""
    story = FlowStory()
    story.fault("kill", wait=0.0)
    story.note("count", task="s0", result="run of s0")
    story.run("s0", "again")
    story.finals["s0"].result = "again"
    rules = Rules(beside=True)
    assert not check(story.events, story.finals.values(), rules)
    story.join.steps[0] = (0, "success", "again")
    assert {each.invariant for each in check(story.events, story.finals.values(), rules)} == {"I9"}
