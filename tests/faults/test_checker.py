"""The checker finds what is wrong, nothing else, and fast; and the rig finds removed guards."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from checker import Rules, check
from recorder import Event, Final, Spec

A, B, C = 101, 102, 103
"""Three workers."""


class Story:
    """A history made by hand: a task that is added, claimed, run, settled by worker A."""

    def __init__(self, **spec: object) -> None:
        self.events: list[Event] = []
        self.finals: dict[str, Final] = {}
        self.figures: dict[str, int] | None = None
        self.t = 10.0
        self.spec = Spec("x", "plain", result=7, **spec)  # type: ignore[arg-type]
        self.note("add.invoke", call="c", specs=[self.spec])
        self.note("add.ok", call="c")

    def note(self, kind: str, pid: int = A, wait: float = 0.01, **fields: object) -> None:
        """One more event, `wait` seconds after the last one."""
        self.t += wait
        self.events.append(Event(t=self.t, kind=kind, pid=pid, since=self.t, **fields))  # type: ignore[arg-type]

    def claim(self, epoch: int, pid: int = A, deliveries: int = 1, wait: float = 0.01) -> None:
        keys = [("x", epoch, str(deliveries))]
        self.note("claim", pid, wait, lease=1.0, keys=keys)

    def start(self, run: str, pid: int = A, attempt: int = 0, wait: float = 0.01) -> None:
        self.note("run.start", pid, wait, task="x", run=run, attempt=attempt)

    def end(self, run: str, pid: int = A, word: str = "ok") -> None:
        self.note("run.end", pid, task="x", run=run, word=word, result=7)

    def settle(
        self, epoch: int, pid: int = A, status: str = "executed", final: bool = True
    ) -> None:
        self.note("settle", pid, keys=[("x", epoch, status)])
        if final:
            self.finals["x"] = Final("x", status, 7)

    def fault(self, word: str, pid: int = A, wait: float = 0.01) -> None:
        self.note("fault", 1, wait, word=word, target=pid)

    def whole(self) -> Story:
        """Run it, well, from its claim to its settle."""
        self.claim(1)
        self.start("r1")
        self.end("r1")
        self.settle(1)
        return self

    def found(self, rules: Rules | None = None) -> set[str]:
        """The invariants that the checker says were violated."""
        verdict = check(self.events, self.finals.values(), rules, self.figures)
        assert all(violation.text for violation in verdict)
        return {violation.invariant for violation in verdict}


def _killed_and_again() -> Story:
    story = Story()
    story.claim(1)
    story.start("r1")
    story.fault("kill")
    story.claim(2, B, deliveries=2, wait=1.2)
    story.start("r2", B)
    story.end("r2", B)
    story.settle(2, B)
    return story


def _finder_killed(found_after: float = 2.5) -> Story:
    """Killed twice: the second worker had claimed it and not started it."""
    story = Story()
    story.claim(1)
    story.start("r1")
    story.fault("kill")
    story.claim(2, B, deliveries=2, wait=1.2)
    story.fault("kill", B, wait=0.3)
    story.claim(3, C, deliveries=3, wait=found_after)
    story.start("r2", C)
    story.end("r2", C)
    story.settle(3, C)
    return story


def _found_by_one_who_died(deliveries: int = 3) -> Story:
    """Whoever found it in between was killed before it had noted that: the count says so."""
    story = Story()
    story.claim(1)
    story.start("r1")
    story.fault("kill")
    story.fault("kill", B, wait=2.0)
    story.claim(3, C, deliveries=deliveries, wait=2.0)
    story.start("r2", C)
    story.end("r2", C)
    story.settle(3, C)
    return story


def _started_while_being_killed() -> Story:
    """The kill is noted before it is sent, and a run begins in between."""
    story = Story()
    story.claim(1)
    story.fault("kill")
    story.start("r1")
    story.note("process.ended", 1, target=A, word="-9")
    story.claim(2, B, deliveries=2, wait=1.2)
    story.start("r2", B)
    story.end("r2", B)
    story.settle(2, B)
    return story


def _waits_for_its_lock() -> Story:
    """Claimed again in time, given back while another task has its lock, run much later."""
    story = Story(lock="k")
    story.claim(1)
    story.note("run.start", task="x", run="r1", lock="k")
    story.fault("kill")
    story.claim(2, B, deliveries=2, wait=1.2)
    story.note("release", B, keys=[("x", 2, "")])
    story.claim(4, B, deliveries=2, wait=5.0)
    story.note("run.start", B, task="x", run="r2", lock="k")
    story.end("r2", B)
    story.settle(4, B)
    return story


def _stopped_and_refused() -> Story:
    story = Story()
    story.claim(1)
    story.start("r1")
    story.fault("stop")
    story.claim(2, B, deliveries=2, wait=1.2)
    story.start("r2", B)
    story.end("r2", B)
    story.settle(2, B)
    story.fault("cont")
    story.end("r1")
    story.settle(1, status="executed refused", final=False)
    return story


def _failed_once() -> Story:
    story = Story(retries=1)
    story.claim(1)
    story.start("r1")
    story.end("r1", word="fail")
    story.settle(1, status="scheduled", final=False)
    story.claim(2)
    story.start("r2", attempt=1)
    story.end("r2")
    story.settle(2)
    return story


def _released() -> Story:
    story = Story()
    story.claim(1)
    story.note("release", keys=[("x", 1, "")])
    story.claim(3, B)
    story.start("r1", B)
    story.end("r1", B)
    story.settle(3, B)
    return story


def _started_late(held_up: bool = True) -> Story:
    """Stopped between its claim and its start: by then it ran elsewhere."""
    story = Story()
    story.claim(1)
    if held_up:
        story.fault("stop")
    story.claim(2, B, deliveries=2, wait=1.2)
    story.start("r2", B)
    story.end("r2", B)
    story.settle(2, B)
    if held_up:
        story.fault("cont")
    story.start("r1")
    story.end("r1")
    story.settle(1, status="executed refused", final=False)
    return story


def _claimed_slowly(slow: bool = True) -> Story:
    """Most of its lease was over when the answer came: it ended after it, and ran elsewhere."""
    story = Story()
    asked = story.t
    if slow:
        story.note("fault", 1, 0.9, word="stall", target=A)
        story.events[-1].since = asked
    story.claim(1)
    story.events[-1].since = asked
    story.start("r1")
    story.claim(2, B, deliveries=2, wait=1.1)
    story.end("r1")
    story.settle(1, status="executed refused", final=False)
    story.start("r2", B)
    story.end("r2", B)
    story.settle(2, B)
    return story


def _given_up_over_a_cut_connection(cut: bool = True) -> Story:
    """It was released, which the worker did not hear; nobody else knew."""
    story = Story()
    story.claim(1)
    if cut:
        story.fault("cut")
    story.claim(2, B, deliveries=1, wait=0.1)
    story.start("r2", B)
    story.end("r2", B)
    story.settle(2, B)
    return story


def _failed_and_stopped(ended: bool = True) -> Story:
    """Its failure was settled as another attempt, and it stopped before it heard that."""
    story = Story(retries=1)
    story.claim(1)
    story.start("r1")
    if ended:
        story.end("r1", word="fail")
    story.fault("stop")
    story.claim(2, B, deliveries=1, wait=0.1)
    story.start("r2", B, attempt=1)
    story.end("r2", B)
    story.settle(2, B)
    return story


def _set_aside_after_a_death_unsaid(died: bool = True) -> Story:
    """One of those it killed had not yet noted that it had claimed it."""
    story = Story()
    for number, pid in ((1, A), (2, B), (3, 104), (5, 105)):
        story.claim(number, pid, deliveries=number, wait=1.2)
        story.start(f"r{number}", pid)
        story.fault("kill", pid)
        story.note("process.ended", 1, target=pid, word="-9")
        if died and number == 3:
            story.fault("kill", C, wait=0.5)
            story.note("process.ended", 1, target=C, word="-9")
    story.claim(6, 106, deliveries=6, wait=1.2)
    story.note("settle", 106, keys=[("x", 6, "failed")])
    story.finals["x"] = Final("x", "failed", poison=True)
    return story


@pytest.mark.parametrize(
    "tell",
    [
        lambda: Story().whole(),
        _started_late,
        _claimed_slowly,
        _given_up_over_a_cut_connection,
        _failed_and_stopped,
        _set_aside_after_a_death_unsaid,
        _killed_and_again,
        _finder_killed,
        _found_by_one_who_died,
        _started_while_being_killed,
        _waits_for_its_lock,
        _stopped_and_refused,
        _failed_once,
        _released,
    ],
)
def test_a_clean_history_has_no_violation(tell: Callable[[], Story]) -> None:
    assert tell().found() == set()


def _lost(story: Story) -> None:
    story.finals.clear()


def _never_ends(story: Story) -> None:
    story.finals["x"].status = "processing"


def _half_accepted(story: Story) -> None:
    story.note("add.invoke", call="d", specs=[Spec("y", "plain"), Spec("z", "plain")])
    story.note("run.start", task="y", run="y1")
    story.note("run.end", task="y", run="y1", word="ok")
    story.finals["y"] = Final("y", "executed")


def _refused_and_there(story: Story) -> None:
    _half_accepted(story)
    story.note("add.fail", call="d")


def _ends_twice(story: Story) -> None:
    story.settle(1)


def _another_state(story: Story) -> None:
    story.settle(1, status="failed", final=False)


def _invented_run(story: Story) -> None:
    story.note("run.start", task="ghost", run="g1")


def _invented_row(story: Story) -> None:
    story.note("run.start", task="x", run="never")
    story.events.pop()
    story.finals["ghost"] = Final("ghost", "expired")


def _other_result(story: Story) -> None:
    story.finals["x"].result = 8


def _failed_without_failing(story: Story) -> None:
    story.events[-1].keys = []
    story.finals["x"].status = "failed"


def _poison_without_deaths(story: Story) -> None:
    story.events[-1].keys = []
    story.finals["x"] = Final("x", "failed", poison=True)


def _runs_again(story: Story) -> None:
    story.start("r2", B)
    story.end("r2", B)


def _ended_by_nobody(story: Story) -> None:
    """A process that ends without a fault explains nothing."""
    del story.events[-2:]
    story.note("process.ended", 1, target=A, word="-11")
    story.claim(2, B, deliveries=2, wait=1.2)
    story.start("r2", B)
    story.end("r2", B)
    story.settle(2, B)


def _lease_ignored(story: Story) -> None:
    del story.events[-3:]
    story.start("r1")
    story.claim(2, B, deliveries=2)
    story.end("r1")


def _lease_lapsed_by_itself(story: Story) -> None:
    del story.events[-1:]
    story.claim(2, B, deliveries=2, wait=1.5)


def _overlap(story: Story) -> None:
    del story.events[-2:]
    story.start("r2", B)
    story.end("r1")
    story.end("r2", B)


def _same_lock_twice(story: Story) -> None:
    for id in ("y", "z"):
        story.note("add.invoke", call=id, specs=[Spec(id, "keyed", lock="k")])
        story.note("run.start", task=id, run=id, lock="k")
        story.finals[id] = Final(id, "executed")
    for id in ("y", "z"):
        story.note("run.end", task=id, run=id, word="ok")


def _late_word_taken(story: Story) -> None:
    story.claim(2, B, deliveries=2)
    story.settle(1, final=False)


def _older_after_newer(story: Story) -> None:
    story.settle(2, B, status="scheduled", final=False)
    story.settle(1, status="scheduled", final=False)


def _too_many_attempts(story: Story) -> None:
    story.events[3].attempt = 1


def _started_too_often(story: Story) -> None:
    for number in range(6):
        story.fault("kill")
        story.start(f"again{number}")
        story.end(f"again{number}")


def _release_counted(story: Story) -> None:
    story.note("release", keys=[("x", 1, "")])
    story.claim(3, B, deliveries=2)


def _too_early(story: Story) -> None:
    story.spec.after = story.t + 5


def _too_late(story: Story) -> None:
    story.spec.until = 1.0


def _not_found_again(story: Story) -> None:
    story.events[:] = _killed_and_again().events
    for event in story.events[-4:]:
        event.t += 9
        event.since += 9


def _lock_not_found_again(story: Story) -> None:
    """A lock excuses waiting for it, not being forgotten."""
    story.events[:] = _waits_for_its_lock().events
    del story.events[5:7]


def _finder_not_found_again(story: Story) -> None:
    """Whoever found it was killed before starting it, and that was not found in time."""
    story.events[:] = _finder_killed(found_after=3.2).events


def _never_found_again(story: Story) -> None:
    del story.events[-2:]
    story.fault("kill")


def _figures_wrong(story: Story) -> None:
    story.figures = {"executed": 2}


def _child_missing(story: Story) -> None:
    story.note("spawn", task="x", children=["y"])
    story.events[4].children = ["y"]


def _child_too_many(story: Story) -> None:
    story.note("spawn", task="x", children=["y", "z"])
    story.events[4].children = ["y"]
    for id in ("y", "z"):
        story.note("run.start", task=id, run=id)
        story.note("run.end", task=id, run=id, word="ok")
        story.finals[id] = Final(id, "executed", parent="x")


def _left_behind(story: Story) -> None:
    story.note("left", word="a lock")


@pytest.mark.parametrize(
    ("invariant", "plant"),
    [
        ("I1", _lost),
        ("I1", _never_ends),
        ("I1", _half_accepted),
        ("I1", _refused_and_there),
        ("I2", _ends_twice),
        ("I2", _another_state),
        ("I3", _invented_run),
        ("I3", _invented_row),
        ("I4", _other_result),
        ("I4", _failed_without_failing),
        ("I4", _poison_without_deaths),
        ("I5", _runs_again),
        ("I5", _ended_by_nobody),
        ("I6", _lease_ignored),
        ("I6", _lease_lapsed_by_itself),
        ("I6", _overlap),
        ("I6", _same_lock_twice),
        ("I7", _late_word_taken),
        ("I7", _older_after_newer),
        ("I8", _too_many_attempts),
        ("I8", _started_too_often),
        ("I8", _release_counted),
        ("I12", _too_early),
        ("I12", _too_late),
        ("I13", _not_found_again),
        ("I13", _lock_not_found_again),
        ("I13", _finder_not_found_again),
        ("I13", _never_found_again),
        ("I14", _figures_wrong),
        ("I15", _child_missing),
        ("I15", _child_too_many),
        ("I16", _left_behind),
    ],
)
def test_a_planted_violation_is_found(invariant: str, plant: Callable[[Story], None]) -> None:
    story = Story().whole()
    plant(story)
    assert invariant in story.found()


@pytest.mark.parametrize(
    ("invariant", "story"),
    [
        ("I5", _started_late(held_up=False)),
        ("I5", _claimed_slowly(slow=False)),
        ("I13", _found_by_one_who_died(deliveries=2)),
        ("I6", _given_up_over_a_cut_connection(cut=False)),
        ("I6", _failed_and_stopped(ended=False)),
        ("I4", _set_aside_after_a_death_unsaid(died=False)),
    ],
)
def test_an_excuse_needs_its_reason(invariant: str, story: Story) -> None:
    assert invariant in story.found()


def test_tasks_of_a_key_start_in_the_order_they_were_added() -> None:
    def story(first: str, second: str) -> Story:
        told = Story(key="k")
        told.note("add.invoke", call="d", specs=[Spec("y", "plain", key="k")])
        for run, task in enumerate((first, second, first)):
            told.note("run.start", task=task, run=str(run))
        return told

    assert "I11" not in story("x", "y").found()
    assert "I11" in story("y", "x").found()


def test_a_queue_that_forgets_runs_again_what_a_parent_has_put_again() -> None:
    story = Story()
    for run in ("r1", "r2"):
        story.note("run.start", task="parent", run=f"{run}-parent")
        story.note("spawn", task="parent", run=f"{run}-parent", children=["x"])
        story.claim(int(run[1]))
        story.start(run)
        story.end(run)
        story.settle(int(run[1]), status="done", final=False)
    assert {"I2", "I5"} <= story.found(Rules(apart=True))
    assert not {"I2", "I5"} & {
        violation.invariant
        for violation in check(story.events, [], Rules(apart=True, forgets=True))
        if violation.task == "x"
    }


def test_a_queue_apart_may_deliver_again_what_has_ended() -> None:
    """Its row is one, and has one end: a run past its time makes up for the children."""
    story = Story().whole()
    story.spec.until = story.t
    story.fault("kill")
    story.claim(2, B, deliveries=2, wait=1.2)
    story.start("r2", B)
    story.end("r2", B)
    assert story.found(Rules(apart=True)) == set()
    assert "I12" in story.found()


def test_the_order_of_the_files_does_not_matter() -> None:
    story = _killed_and_again()
    random.Random(8).shuffle(story.events)
    assert story.found() == set()


@pytest.mark.timeout(60)
def test_it_keeps_up_with_long_histories() -> None:
    """It takes seconds: what is quadratic in the tasks would take hours."""
    events: list[Event] = []
    finals: list[Final] = []
    for number in range(20_000):
        story = Story().whole()
        for event in story.events:
            event.task = event.task and f"x{number}"
            event.run = event.run and f"r{number}"
            event.call = event.call and f"c{number}"
            event.keys = [(f"x{number}", epoch, word) for _, epoch, word in event.keys]
        story.spec.id = f"x{number}"
        events += story.events
        finals.append(Final(f"x{number}", "executed", 7))
    assert check(events, finals) == []
