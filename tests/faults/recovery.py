"""I13: what a killed process had in hand is found again in time."""

from __future__ import annotations

from collections.abc import Iterator

from case import Case, Violation
from history import Claimed, History, Run

__all__ = ["found_again", "recoveries"]


def recoveries(history: History) -> Iterator[tuple[Run, float, float]]:
    """Runs that a killed process had in hand and did not settle: when it died, when they went on.

    Infinite where the run never came again.
    """
    settled = {
        (each.pid, id)
        for id, settles in history.settled.items()
        for each in settles
        if each.accepted
    }
    for id, runs in history.runs.items():
        starts = [run.start for run in runs]
        for run in runs:
            died = history.deaths.get(run.pid)
            if died is None or run.start > died or (run.pid, id) in settled or run.word:
                continue
            yield run, died, min((t for t in starts if t > died), default=float("inf"))


def found_again(case: Case) -> Iterator[Violation]:
    """Within the lease, and what is tolerated beyond it."""
    limit = case.rules.lease + case.rules.recovery
    for run, died, again in recoveries(case.history):
        since, found = _next_holder(case.history, run.task, died, again, limit)
        final = case.finals.get(run.task)
        ends = ("expired", "cancelled")  # whoever found it had no need to run it
        over = final is not None and (final.poison or final.status in ends)
        if found - since > limit and not (over and found == float("inf")):
            claims = [(c.pid, round(c.t, 3)) for c in case.history.claims.get(run.task, [])]
            yield Violation(
                "I13",
                run.task,
                f"{run} was cut short at {died:.3f}; it went on at {again:.3f}; found "
                f"{found - since:.3f} s after its holder's death; claims: {claims[-12:]}",
            )


def _next_holder(
    history: History, task: str, died: float, again: float, limit: float
) -> tuple[float, float]:
    """Since when nobody living held the task, and when somebody did.

    Whoever found it may have been killed before starting it: then it has to be found within the
    limit of that death. With a living holder it is found; it may then wait for its slot or lock.
    """
    since, deliveries = died, 0
    for claim in history.claims.get(task, []):
        if claim.t > died:
            if claim.t >= again:
                break
            since = _unsaid(history, claim, claim.deliveries - deliveries - 1, since, limit)
            dead = history.deaths.get(claim.pid, float("inf"))
            if claim.t - since > limit or dead >= again:
                return since, claim.t
            since = max(since, dead)
        deliveries = claim.deliveries
    return since, again


def _unsaid(history: History, claim: Claimed, times: int, since: float, limit: float) -> float:
    """Since when nobody had it if so many found it in time, and died before they could say so."""
    for _ in range(times):
        deaths = [t for t in history.deaths.values() if since < t <= min(since + limit, claim.t)]
        since = max(deaths, default=since)
    return since
