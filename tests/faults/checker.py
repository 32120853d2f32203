"""The checker: from events, and the tasks as storage has them at the end, to violations.

A pure function. Each violation names its invariant (I1 to I16), the task and the events.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise

from case import TERMINAL, Case, Rules, Violation
from flow_rules import FLOW_RULES, ended_early
from history import Claimed, History, Run, read_history
from recorder import Event, Final
from recovery import found_again

__all__ = ["Rules", "Violation", "check"]

ENDED = TERMINAL | {"done"}
"""What a settle says; "done": acknowledged by a process that wrote nothing about it."""

UNSAID = 1.0
"""Seconds by which a process may outlive a commit that it never told of, on a starved machine."""


def check(
    events: Iterable[Event],
    finals: Iterable[Final],
    rules: Rules | None = None,
    figures: Mapping[str, int] | None = None,
) -> list[Violation]:
    """What is wrong with a history that ended with a drain; `figures`: tasks by status."""
    rows = {final.id: final for final in finals}
    case = Case(read_history(events), rows, rules or Rules(), figures)
    return [violation for rule in _RULES for violation in rule(case)]


def _all_terminal(case: Case) -> Iterator[Violation]:
    for id in case.history.accepted:
        if id not in case.finals:
            yield Violation("I1", id, "accepted by add_tasks, and storage does not know it")
    for final in case.finals.values():
        if final.status not in TERMINAL:
            yield Violation("I1", final.id, f"still {final.status} after the drain")


def _all_or_none_added(case: Case) -> Iterator[Violation]:
    for name, call in case.history.calls.items():
        known = [spec.id for spec in call.specs if spec.id in case.finals]
        if call.word == "fail" and known:
            yield Violation("I1", known[0], f"add call {name} failed, and yet it was added")
        whole = not (case.rules.apart or case.rules.in_steps)
        half = 0 < len(known) < len(call.specs) and whole
        if call.word == "unknown" and half:
            yield Violation("I1", known[0], f"add call {name} was half accepted")


def _one_terminal_state(case: Case) -> Iterator[Violation]:
    for id, settles in case.history.settled.items():
        ends = [each for each in settles if each.accepted and each.status in ENDED]
        told = ", ".join(f"{end.status} at {end.t:.3f} by {end.pid}" for end in ends)
        # What is stored may be put on a queue apart from it again, by someone who is late: whoever
        # gets it then finds its row, which has one end.
        if len(ends) > 1 and id not in case.history.rows and not _put_again(case, id):
            yield Violation("I2", id, f"ended {len(ends)} times: {told}")
        final = case.finals.get(id)
        if ends and final is not None and ends[-1].status not in (final.status, "done"):
            yield Violation("I2", id, f"is {final.status} in storage, but ended: {told}")


def _one_end_of_a_row(case: Case) -> Iterator[Violation]:
    for id, written in case.history.rows.items():
        ends = {status for _, status in written if status in TERMINAL}
        final = case.finals.get(id)
        if final is not None and not ends <= {final.status}:
            yield Violation("I2", id, f"is {final.status} in storage, which accepted {ends}")


def _nothing_invented(case: Case) -> Iterator[Violation]:
    known = case.history.specs.keys() | case.history.spawned.keys()
    for id in case.history.runs.keys() - known:
        yield Violation("I3", id, f"nobody added it: {case.history.runs[id][0]}")
    for id in case.finals.keys() - known:
        yield Violation("I3", id, "in storage, and nobody added it")


def _ends_are_true(case: Case) -> Iterator[Violation]:
    early = ended_early(case)
    for id, final in case.finals.items():
        runs = case.history.runs.get(id, [])
        spec = case.history.specs.get(id)
        good = [run for run in runs if run.word == "ok"]
        sentinel = final.flow is not None and final.flow.kind == "sentinel"
        true = sentinel or any(run.result == final.result for run in good)
        if final.status == "executed" and not true:
            told = ", ".join(map(str, runs)) or "it never ran"
            yield Violation("I4", id, f"executed with {final.result!r}, but: {told}")
        if final.status == "failed":
            yield from _failed_truly(case, final, runs)
        if final.status == "expired" and (spec is None or spec.until > 1e17):
            yield Violation("I4", id, "expired, and had no time to expire at")
        asked = final.status == "cancelled" and final.flow is not None and final.flow.id in early
        if final.status in ("ignored", "cancelled") and not asked:
            yield Violation("I4", id, f"{final.status}, and nobody asked for that")


def _failed_truly(case: Case, final: Final, runs: Sequence[Run]) -> Iterator[Violation]:
    history, id = case.history, final.id
    if not final.poison:
        if not any(run.word == "fail" and run.attempt == final.retry_count for run in runs):
            yield Violation("I4", id, f"failed, but its last attempt ({final.retry_count}) did not")
        return
    claims = history.claims.get(id, [])
    hands = {claimed.pid for claimed in claims} | {run.pid for run in runs}
    hit = sum(bool(history.faults.get(pid)) for pid in hands) + _unsaid(history, claims)
    if hit < case.rules.max_deliveries:
        yield Violation("I4", id, f"set aside as poison after only {hit} deliveries were cut short")


def _unsaid(history: History, claims: Sequence[Claimed]) -> int:
    """Deliveries to processes that died before they could say so."""
    unsaid = 0
    for before, after in pairwise(sorted(claims, key=lambda each: each.t)):
        died = sum(before.t < t < after.t for pid, t in history.deaths.items() if pid != before.pid)
        unsaid += min(died, max(0, after.deliveries - before.deliveries - 1))
    return unsaid


def _extra_runs_explained(case: Case) -> Iterator[Violation]:
    for id, runs in case.history.runs.items():
        for before, after in pairwise(runs):
            if before.word == "fail" and after.attempt == before.attempt + 1:
                continue
            finished = before.word in ("ok", "fail")
            if _put_again(case, id) or _started_late(case.history, after):
                continue
            lease = _lease_of(case.history, before)
            since = before.start if lease is None else lease.since
            if not case.history.fault_between(before.pid, since, after.start, hard=finished):
                yield Violation("I5", id, f"ran again without a reason: {before}, then {after}")


def _put_again(case: Case, id: str) -> bool:
    """Whether its parent ran more than once, on a queue that does not know it from before."""
    parent = case.history.spawned.get(id, "")
    return case.rules.forgets and len(case.history.runs.get(parent, ())) > 1


def _lease_of(history: History, run: Run) -> Claimed | None:
    """The last lease that its process was given before it started; None: none was seen."""
    claims = [c for c in history.claims.get(run.task, ()) if c.pid == run.pid and c.t <= run.start]
    return claims[-1] if claims else None


def _started_late(history: History, run: Run) -> bool:
    """Whether its process was held up between the claim and the start, past its lease."""
    lease = _lease_of(history, run)
    if lease is None or run.start < lease.until:
        return False
    return bool(history.fault_between(run.pid, lease.since, run.start, hard=True))


def _leases_respected(case: Case) -> Iterator[Violation]:
    history = case.history
    for id, claims in history.claims.items():
        settled = {each.epoch for each in history.settled.get(id, []) if each.accepted}
        for before, after in pairwise(claims):
            # A release raises the epoch too; a dead process may have settled it and not said so.
            taken = after.epoch == before.epoch + 1 and before.epoch not in settled
            if not taken or history.deaths.get(before.pid, float("inf")) <= after.t + UNSAID:
                continue
            if after.t < before.until - case.rules.skew:
                heard = _asked_again(history, id, before, after.t)
                if history.cut_between(before.pid, before.since, heard):
                    continue  # it gave the task up, and did not hear that this was done
                if _stopped_as_it_settled(history, id, before, after):
                    continue
                yield Violation("I6", id, f"taken before its lease ended: {_held(before, after)}")
            elif not history.fault_between(before.pid, before.since, after.t):
                yield Violation("I6", id, f"a living worker lost it: {_held(before, after)}")


def _asked_again(history: History, id: str, lease: Claimed, t: float) -> float:
    """When a settle under this lease was said again, and refused; no earlier than `t`."""
    said = (each for each in history.settled.get(id, ()) if each.epoch == lease.epoch)
    return max([t, *(each.since for each in said if not each.accepted)])


def _stopped_as_it_settled(history: History, id: str, before: Claimed, after: Claimed) -> bool:
    """Whether its process stopped between the end of the run and what its server answered to it."""
    ends = [run.end for run in history.runs.get(id, ()) if run.pid == before.pid]
    faults = history.faults.get(before.pid, ())
    stops = [t for t, word in faults if word == "stop" and t <= after.t]
    return any(before.since <= end <= stop for end in ends for stop in stops)


def _held(before: Claimed, after: Claimed) -> str:
    return (
        f"process {before.pid} had it under epoch {before.epoch} until {before.until:.3f} at "
        f"least, process {after.pid} claimed it as {after.epoch} at {after.since:.3f}"
    )


def _no_overlap(case: Case) -> Iterator[Violation]:
    groups: dict[str, list[Run]] = defaultdict(list)
    for id, runs in case.history.runs.items():
        if len(runs) > 1:
            groups[id] = runs
        for run in runs:
            if run.lock:
                groups[f"lock {run.lock}"].append(run)
    for runs in groups.values():
        runs = sorted(runs, key=lambda run: run.start)
        for before, after in pairwise(runs):
            end = min(before.end, case.history.deaths.get(before.pid, float("inf")))
            if after.start >= end:
                continue
            if not case.history.fault_between(before.pid, before.start, after.start):
                yield Violation("I6", after.task, f"at the same time: {before} and {after}")


def _fenced(case: Case) -> Iterator[Violation]:
    for id, settles in case.history.settled.items():
        good = sorted((each for each in settles if each.accepted), key=lambda each: each.t)
        newest = None
        for each in good:
            if newest is not None and each.epoch < newest.epoch and each.since > newest.t:
                yield Violation(
                    "I7",
                    id,
                    f"process {each.pid} settled it under epoch {each.epoch} at {each.t:.3f}, "
                    f"after {newest.pid} had under {newest.epoch} at {newest.t:.3f}",
                )
            if newest is None or each.epoch > newest.epoch:
                newest = each
        for each in good:
            for claimed in case.history.claims.get(id, []):
                if claimed.epoch > each.epoch and claimed.t <= each.since:
                    yield Violation(
                        "I7",
                        id,
                        f"process {each.pid} settled it under epoch {each.epoch} at "
                        f"{each.t:.3f}, when it was {claimed.pid}'s under {claimed.epoch}",
                    )


def _attempts_bounded(case: Case) -> Iterator[Violation]:
    limit = case.rules.max_deliveries
    for id, runs in case.history.runs.items():
        spec = case.history.specs.get(id)
        retries = spec.retries if spec is not None else 0
        for run in runs:
            if run.attempt > retries:
                yield Violation("I8", id, f"has {retries} retries: {run}")
        # What was released in a shutdown does not count.
        counted = Counter(run.attempt for run in runs if run.word != "cancelled")
        for attempt, count in counted.items():
            if count > limit:
                yield Violation("I8", id, f"attempt {attempt} was started {count} times")


def _releases_not_counted(case: Case) -> Iterator[Violation]:
    for id, releases in case.history.released.items():
        epochs = {epoch for _, epoch in releases}
        for before, after in pairwise(case.history.claims.get(id, [])):
            next_one = after.epoch == before.epoch + 2  # one for the release, one for the claim
            if before.epoch in epochs and next_one and after.deliveries > before.deliveries:
                yield Violation(
                    "I8",
                    id,
                    f"its release under epoch {before.epoch} counted: delivery "
                    f"{before.deliveries} was followed by {after.deliveries}",
                )


def _in_order(case: Case) -> Iterator[Violation]:
    lines: dict[str, list[str]] = defaultdict(list)
    for call in case.history.calls.values():
        for spec in call.specs:
            if spec.key and case.history.runs.get(spec.id):
                lines[spec.key].append(spec.id)
    for key, ids in lines.items():
        for before, after in pairwise(ids):
            first, second = (case.history.runs[id][0] for id in (before, after))
            if second.start < first.start:
                yield Violation("I11", after, f"key {key}: {second} came before {before}, {first}")


def _in_time(case: Case) -> Iterator[Violation]:
    for id, spec in case.history.specs.items():
        ended = float("inf")
        for run in case.history.runs.get(id, []):
            if run.start < spec.after - case.rules.skew:
                yield Violation("I12", id, f"{spec.after - run.start:.3f} s too early: {run}")
            # Apart from its storage, a queue delivers again what ended and was not acknowledged:
            # that run makes up for the children of the first.
            makes_up = case.rules.apart and run.start > ended
            if run.start > spec.until + case.rules.skew and not makes_up:
                yield Violation("I12", id, f"{run.start - spec.until:.3f} s too late: {run}")
            if run.word:
                ended = min(ended, run.end)


def _figures_agree(case: Case) -> Iterator[Violation]:
    if case.figures is None:
        return
    real = Counter(final.status for final in case.finals.values() if final.stored)
    told = {status: count for status, count in case.figures.items() if count}
    if told != dict(real):
        yield Violation("I14", "", f"the public figures say {told}, storage holds {dict(real)}")


def _children_once(case: Case) -> Iterator[Violation]:
    children: dict[str, set[str]] = defaultdict(set)
    for final in case.finals.values():
        if final.parent:
            children[final.parent].add(final.id)
    for id, final in case.finals.items():
        if final.status != "executed":
            continue
        good = [run for run in case.history.runs.get(id, []) if run.word == "ok"]
        wanted = set(good[-1].children) if good else set()
        if missing := wanted - children[id]:
            yield Violation("I15", id, f"{len(missing)} of its {len(wanted)} children are missing")
        if extra := children[id] - wanted:
            yield Violation("I15", id, f"{len(extra)} children more than {good[-1:]} declared")


def _nothing_left(case: Case) -> Iterator[Violation]:
    for event in case.history.left:
        yield Violation("I16", event.task, f"process {event.pid} left behind: {event.word}")


_RULES: tuple[Callable[[Case], Iterator[Violation]], ...] = (
    _all_terminal,
    _all_or_none_added,
    _one_terminal_state,
    _one_end_of_a_row,
    _nothing_invented,
    _ends_are_true,
    _extra_runs_explained,
    _leases_respected,
    _no_overlap,
    _fenced,
    _attempts_bounded,
    _releases_not_counted,
    _in_order,
    _in_time,
    found_again,
    _figures_agree,
    _children_once,
    _nothing_left,
    *FLOW_RULES,
)
