"""From a history and what was left at the end to violations: a pure function.

The invariants are those of the design, I1 to I10, I12, I14 to I16; I9 and I10 are
`flow_checker`'s. What nothing went wrong for
excuses nothing: a second run, an overlap or a rescue must follow from a fault, a failed attempt, a
wish of the client, or from one of these in the line of its parents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import Any

from simulation.flow_checker import FLOW_RULES
from simulation.history import Event, Final
from simulation.runs import WRONG, Facts, Run
from taskloom import Task, TaskStatus
from taskloom.flows import TIMEOUT_TYPE

__all__ = ["Case", "check"]

_SPOKEN = ("success", "fail", "again")
_SAID = ("ack", "release", "back", "settle")
"""What an engine accepts about a delivery."""
_TERMINAL = {status.value for status in TaskStatus if status.terminal}


def check(events: Iterable[Event], final: Final, *, max_deliveries: int) -> list[str]:
    """What is wrong, each with the invariant, the task and its events; empty when nothing is."""
    case = Case(Facts(events), final, max_deliveries)
    return [f"{found}\n{_story(case.facts, found)}" for rule in _RULES for found in rule(case)]


class Case:
    """A history, and what the rules ask of it."""

    def __init__(self, facts: Facts, final: Final, max_deliveries: int) -> None:
        self.facts = facts
        self.final = final
        self.max_deliveries = max_deliveries
        invoked = facts.by_kind["add.invoke"]
        self.roots: dict[str, Task[Any]] = {e.task: e.about["fields"] for e in invoked}
        self.accepted = {event.task for event in facts.by_kind["add.ok"]}
        """Every one of these must end; what the adder heard nothing of may."""
        self.declared = {
            child
            for runs in facts.runs.values()
            for run in runs
            if run.word in _SPOKEN
            for child in run.children
        }
        for flow in facts.flows.values():
            self.declared.update((*flow.tasks, flow.join_id))

    def good_run(self, id: str) -> Run | None:
        """The run that a task was executed by, if it was."""
        good = [run for run in self.facts.runs.get(id, ()) if run.word == "success"]
        row = self.final.rows.get(id)
        if row is not None:
            if row.status is not TaskStatus.EXECUTED:
                return None
            return next((run for run in good if {"run": run.number} == row.execution_result), None)
        acks = self.facts.of(id, "ack")
        for run in reversed(good):
            if any(ack.who == run.who and ack.at >= run.ended for ack in acks):
                return run
        return None


def _finishes(case: Case) -> Iterator[str]:
    """I1, and I14: what was accepted, and what that declared, has ended, and nothing waits."""
    if case.final.unfinished:
        yield f"I1 not everything ended in time; waiting: {case.final.waiting}"
    for event in case.facts.by_kind["broken"]:
        yield f"I1 an error nobody expected: {event.about['error']}"
    for id in sorted(case.accepted):
        if id in case.final.rows or id in case.final.waiting or case.facts.of(id, "ack"):
            continue
        yield f"I1 task {id} was accepted and is gone"
    for id, row in case.final.rows.items():
        if not row.status.terminal:
            yield f"I14 task {id} is {row.status.value} at the end"


def _ends_once(case: Case) -> Iterator[str]:
    """I2: nothing leaves a terminal status but by the wish of the client."""
    for event in case.facts.by_kind["row"]:
        if event.about["old"] in _TERMINAL and not _wished(case, event, "revive"):
            yield f"I2 task {event.task} went from {event.about['old']} to {event.about['new']}"


def _wished(case: Case, event: Event, wish: str) -> bool:
    return any(e.at <= event.at for e in case.facts.of(event.task, wish))


def _knows_what_runs(case: Case) -> Iterator[str]:
    """I3: nothing runs, or is stored, that nobody added."""
    known = case.roots.keys() | case.declared
    for id in sorted((case.final.rows.keys() | _started(case)) - known):
        yield f"I3 task {id} was never added"


def _started(case: Case) -> set[str]:
    return {event.task for event in case.facts.by_kind["start"]}


def _ends_for_a_reason(case: Case) -> Iterator[str]:
    """I4: a final status follows from what happened; so does an acknowledgement without a row."""
    for id, row in case.final.rows.items():
        reason = _REASONS.get(row.status)
        if reason is not None and not reason(case, id, row):
            yield f"I4 task {id} is {row.status.value} without a reason"
    for ack in case.facts.by_kind["ack"]:
        if ack.task not in case.final.rows and not _ran_to_an_end(case, ack):
            yield f"I4 task {ack.task} was acknowledged without having ended"


def _ran_to_an_end(case: Case, ack: Event) -> bool:
    runs = [run for run in case.facts.runs[ack.task] if run.ended <= ack.at]
    return any(run.word == "success" or run.word in WRONG for run in runs)


def _was_cancelled(case: Case, id: str, row: Task[Any]) -> bool:
    meta = row.metadata.flow
    if meta is not None and case.facts.flows[meta.flow_id].end in ("aborted", "timed_out"):
        return True
    return bool(case.facts.of(id, "cancel"))


def _failed(case: Case, id: str, row: Task[Any]) -> bool:
    if "poison" in row.execution_stats:
        claims = case.facts.of(id, "claim")
        return any(claim.about["count"] > case.max_deliveries for claim in claims)
    wrong = [run for run in case.facts.runs[id] if run.word in WRONG]
    return any(run.start.about["attempt"] >= (row.retries or 0) for run in wrong)


_REASONS: dict[TaskStatus, Callable[[Case, str, Task[Any]], bool]] = {
    TaskStatus.EXECUTED: lambda case, id, row: (
        row.type == TIMEOUT_TYPE or case.good_run(id) is not None
    ),
    TaskStatus.FAILED: _failed,
    TaskStatus.EXPIRED: lambda case, id, row: row.expires_at is not None,
    TaskStatus.IGNORED: lambda case, id, row: row.type == "nobody",
    TaskStatus.CANCELLED: _was_cancelled,
}


def _keeps_cancelled(case: Case) -> Iterator[str]:
    """I2: what the client was told to be cancelled stays so, unless it is revived."""
    for event in case.facts.by_kind["cancel"]:
        row = case.final.rows.get(event.task)
        if not event.about.get("ok") or case.facts.of(event.task, "revive"):
            continue
        if row is None or row.status is not TaskStatus.CANCELLED:
            yield f"I2 task {event.task} was cancelled and did not stay so"


def _runs_again_for_a_reason(case: Case) -> Iterator[str]:
    """I5 and I6: a run after another, or beside it, follows from something."""
    for runs in case.facts.runs.values():
        for before, after in pairwise(runs):
            excused = _excused(case, before, after)
            if before.word not in (*WRONG, "again") and not excused:
                yield f"I5 task {after.task} ran again (run {after.number}) for no reason"
            if after.start.at < before.ended and not excused:
                yield f"I6 task {after.task} ran twice at a time (run {after.number})"


def _excused(case: Case, before: Run, after: Run) -> bool:
    id, facts = before.task, case.facts
    until = after.start.at
    if facts.troubled(before.who, before.claimed, until):
        return True
    # What its own worker failed to say about it is repeated: that alone explains nothing.
    own = (fault.who == before.who and id in fault.about["ids"] for fault in facts.named(id, until))
    if not all(own) or any(f.about["call"] in ("put", "add") for f in facts.named(id, until)):
        return True
    wishes = facts.of(id, "revive", "add.invoke")
    if any(before.claimed <= wish.at <= until for wish in wishes):
        return True
    parent = facts.parents.get(id)
    if parent is not None and len(facts.runs[parent]) > 1:
        return True
    return _moved_meanwhile(facts, before, until)


def _moved_meanwhile(facts: Facts, before: Run, until: float) -> bool:
    """A worker died, and upkeep put on the queue what the queue had given out again just then."""
    runs = [run for run in facts.runs[before.task] if run.start.at <= before.start.at]
    died = any(facts.crashes.get(run.who, until) < until for run in runs)
    lapses = (e for e in facts.of(before.task, "row") if e.about["old"] == "processing")
    return died and any(
        e.about["new"] == "scheduled" and before.claimed - 1.0 <= e.at <= until for e in lapses
    )


def _shares_no_hash(case: Case) -> Iterator[str]:
    """I6: two tasks of one hash do not run at the same time."""
    runs = [
        run
        for id, task in case.roots.items()
        if task.task_hash is not None
        for run in case.facts.runs[id]
    ]
    runs.sort(key=lambda run: run.number)
    for index, before in enumerate(runs):
        for after in runs[index + 1 :]:
            together = after.start.at < before.ended and after.task != before.task
            until = after.start.at
            if together and not case.facts.troubled(before.who, before.claimed, until):
                yield f"I6 task {after.task} ran beside {before.task} of the same hash"


def _refuses_outdated(case: Case) -> Iterator[str]:
    """I7: once a task is claimed again, nothing said under the older claim is accepted."""
    for id, events in case.facts.by_task.items():
        newest = None
        for event in events:
            if event.kind == "claim":
                newest = event.about["receipt"]
            elif event.kind in _SAID and newest not in (None, event.about["receipt"]):
                yield f"I7 task {id}: an outdated {event.kind} of {event.who} was accepted"


def _counts(case: Case) -> Iterator[str]:
    """I8: no more attempts than allowed; deliveries are counted as they happened."""
    for id, events in case.facts.by_task.items():
        for event in events:
            if event.kind == "start" and event.about["attempt"] > _retries(case, id):
                yield f"I8 task {id}: attempt {event.about['attempt'] + 1} is one too many"
        yield from _miscounted(id, events)
    for run in (run for runs in case.facts.runs.values() for run in runs):
        count = _count_of(case, run)
        if count > case.max_deliveries:
            yield f"I8 task {run.task} ran at delivery {count}"


def _retries(case: Case, id: str) -> int:
    task = case.roots.get(id) or case.final.rows.get(id)
    return 99 if task is None or task.retries is None else task.retries


def _count_of(case: Case, run: Run) -> int:
    claims = [e for e in case.facts.of(run.task, "claim") if e.who == run.who]
    counts = [e.about["count"] for e in claims if e.at <= run.start.at]
    return counts[-1] if counts else 0


def _miscounted(id: str, events: list[Event]) -> Iterator[str]:
    """Each claim counts until it is released, and from the start when the task has moved on."""
    open_claims: list[Any] = []
    for event in events:
        if event.kind == "claim":
            open_claims.append(event.about["receipt"])
            if event.about["count"] > len(open_claims):
                yield f"I8 task {id}: delivery {event.about['count']} is {len(open_claims)}"
        elif event.kind == "release" and event.about["receipt"] in open_claims:
            open_claims.remove(event.about["receipt"])
        elif event.kind in ("ack", "back", "settle"):
            open_claims.clear()


def _in_its_time(case: Case) -> Iterator[str]:
    """I12: nothing starts before it is due or after it has expired."""
    for event in case.facts.by_kind["start"]:
        now, expires = event.about["now"], event.about["expires"]
        if now < event.about["due"]:
            yield f"I12 task {event.task} ran before it was due"
        if expires is not None and now >= expires:
            yield f"I12 task {event.task} ran after it had expired"


def _rescues_for_a_reason(case: Case) -> Iterator[str]:
    """I5: what was on the queue comes back from the storage only if a call about it failed."""
    for event in case.facts.by_kind["row"]:
        change = (event.about["old"], event.about["new"])
        if change != ("queued", "scheduled") or _wished(case, event, "revive"):
            continue
        puts = [
            fault
            for fault in case.facts.named(event.task, event.at)
            if fault.about["call"] in ("put", "add") or fault.about["fault"].startswith("crash")
        ]
        if not puts and not _rescheduled(case, event) and not _adder_died(case, event):
            yield f"I5 task {event.task} was lost by the queue and found again by its age"


def _adder_died(case: Case, event: Event) -> bool:
    adders = {e.who for e in case.facts.of(event.task, "add.invoke")}
    parent = case.facts.parents.get(event.task)
    adders |= {run.who for run in case.facts.runs.get(parent or "", ())}
    return any(case.facts.crashes.get(who, event.at) < event.at for who in adders)


def _rescheduled(case: Case, event: Event) -> bool:
    """A retry or another turn that is due later than the queue is to keep it."""
    return any(
        run.ended <= event.at and run.word in (*WRONG, "again")
        for run in case.facts.runs[event.task]
    )


def _has_its_children(case: Case) -> Iterator[str]:
    """I15: the children of an executed task are those of its good run, each once."""
    for id in list(case.facts.runs):
        good = case.good_run(id)
        if good is None:
            continue
        for child in good.children:
            if child not in case.final.rows and not case.facts.of(child, "ack"):
                yield f"I15 task {id} was executed, and its child {child} does not exist"
        yield from _strangers(case, id, good)


def _strangers(case: Case, id: str, good: Run) -> Iterator[str]:
    """Children of runs that were neither the good one nor a failed attempt."""
    allowed = set(good.children)
    again = _began_again(case, id)
    for run in case.facts.runs[id]:
        if run.word in ("fail", "again") or again:
            allowed.update(run.children)
    there = case.final.rows.keys() | _started(case)
    for run in case.facts.runs[id]:
        for child in run.children:
            if child in there and child not in allowed:
                yield f"I15 task {id} has child {child} of run {run.number} beside its good run"


def _began_again(case: Case, id: str) -> bool:
    """Revived, or added once more after its end: a queue beside the storage may forget an id."""
    adds = len(case.facts.of(id, "add.invoke"))
    parent = case.facts.parents.get(id)
    if parent is not None:
        adds += sum(id in run.children for run in case.facts.runs[parent])
    return adds > 1 or bool(case.facts.of(id, "revive"))


def _leaves_nothing(case: Case) -> Iterator[str]:
    """I16."""
    for left in case.final.leftovers:
        yield f"I16 left over: {left}"


_RULES: tuple[Callable[[Case], Iterator[str]], ...] = (
    _finishes,
    _ends_once,
    _knows_what_runs,
    _ends_for_a_reason,
    _keeps_cancelled,
    _runs_again_for_a_reason,
    _shares_no_hash,
    _refuses_outdated,
    _counts,
    _in_its_time,
    _rescues_for_a_reason,
    _has_its_children,
    _leaves_nothing,
    *FLOW_RULES,
)


def _story(facts: Facts, found: str) -> str:
    """The events of the task that a violation names, and every fault."""
    named = {word.rstrip(":,;") for word in found.split()}
    lines = [
        str(event)
        for event in facts.events
        if event.task in named
        or event.kind in ("crash", "stop", "broken")
        or (event.kind == "fault" and not named.isdisjoint(event.about["ids"]))
    ]
    return "\n".join("    " + line for line in lines[:80])
