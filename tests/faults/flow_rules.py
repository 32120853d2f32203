"""I9 and I10: what a history and its end must show of flows and of projections."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from case import Case, Violation
from history import Run
from msgspec import Struct
from recorder import Final, FlowPart

__all__ = ["FLOW_RULES", "ended_early"]


class Parts(Struct):
    """The tasks of one flow."""

    steps: dict[int, Final] = {}
    joins: list[tuple[Final, FlowPart]] = []
    sentinel: bool = False
    total: int = 0
    policy: str = ""


def _flows(case: Case) -> dict[str, Parts]:
    flows: dict[str, Parts] = defaultdict(Parts)
    for final in case.finals.values():
        part = final.flow
        if part is None:
            continue
        flow = flows[part.id]
        flow.total, flow.policy = part.total, part.policy
        if part.kind == "step":
            flow.steps[part.index] = final
        elif part.kind == "join":
            flow.joins.append((final, part))
        else:
            flow.sentinel = True
    return flows


def ended_early(case: Case) -> set[str]:
    """The flows whose join says so: what had not started of them was cancelled."""
    parts = [final.flow for final in case.finals.values() if final.flow is not None]
    return {part.id for part in parts if part.aborted or part.timed_out}


def _one_join(case: Case) -> Iterator[Violation]:
    for id, flow in _flows(case).items():
        if missing := set(range(flow.total)) - flow.steps.keys():
            yield Violation("I9", id, f"steps {sorted(missing)} of its {flow.total} do not exist")
        if len(flow.joins) != 1:
            yield Violation("I9", id, f"has {len(flow.joins)} joins")
        for join, told in flow.joins:
            yield from _ended_truly(join, told, flow)
            for index, status, result in told.steps:
                yield from _first_result(case, join, flow.steps.get(index), (status, result))


def _ended_truly(join: Final, told: FlowPart, flow: Parts) -> Iterator[Violation]:
    indices = [index for index, _, _ in told.steps]
    if told.lost or (told.aborted and told.timed_out):
        yield Violation("I9", join.id, f"says what cannot be: {told}")
    if indices != sorted(set(indices)):
        yield Violation("I9", join.id, f"has steps {indices}")
    if not (told.aborted or told.timed_out) and indices != list(range(flow.total)):
        yield Violation("I9", join.id, f"complete, with steps {indices} of {flow.total}")
    failed = any(status == "fail" for _, status, _ in told.steps)
    if told.aborted and not (failed and flow.policy == "abort"):
        yield Violation("I9", join.id, "aborted, and nothing asked for that")
    if failed and flow.policy == "abort" and not (told.aborted or told.timed_out):
        yield Violation("I9", join.id, "a step failed, and it was not aborted")
    if told.timed_out and not flow.sentinel:
        yield Violation("I9", join.id, "timed out, and had no time-out")


def _first_result(
    case: Case, join: Final, step: Final | None, told: tuple[str, object]
) -> Iterator[Violation]:
    status, result = told
    if step is None:
        return
    runs = case.history.runs.get(step.id, [])
    if status == "fail":
        if not (step.poison or any(run.word == "fail" for run in runs)):
            yield Violation("I9", join.id, f"says that {step.id} failed; it never did")
        return
    good = [run for run in runs if run.word == "ok" and run.result == result]
    if not good:
        told_runs = ", ".join(map(str, runs)) or "it never ran"
        yield Violation("I9", join.id, f"{step.id} came to {result!r}, but: {told_runs}")
    elif not case.rules.beside and step.result != result:
        yield Violation("I9", join.id, f"{step.id} is {step.result!r}, its join has {result!r}")
    elif late := _counted_before(case, step, good[0]):
        yield Violation("I9", join.id, f"{step.id} had counted at {late:.3f}, before {good[0]}")


def _counted_before(case: Case, step: Final, run: Run) -> float:
    """When another run of the step was known to have counted before this one began; 0.0: never."""
    counts = [t for t, result in case.history.counted.get(step.id, []) if result != run.result]
    return next((t for t in sorted(counts) if t < run.start), 0.0)


def _rows_go_forward(case: Case) -> Iterator[Violation]:
    """I10, and the states of barriers: a log of what their rows were changed to."""
    orders = {
        "projection": {"scheduled": 0, "processing": 1, "executed": 2, "failed": 2},
        "flow": {"open": 0, "ready": 1, "sent": 2},
    }
    for event in case.history.changes:
        old, new = event.word.split(" ")
        order = orders[event.call]
        if order[new] < order[old] or (order[old] == 2 and new != old):
            yield Violation("I10", event.task, f"its {event.call} went from {old} to {new}")


def _rows_agree(case: Case) -> Iterator[Violation]:
    """I10: the row of a task on an entity says in the end how it ended."""
    for final in case.finals.values():
        if final.told is None:
            continue
        early = final.flow is not None and (final.flow.aborted or final.flow.timed_out)
        fine = {"failed" if early or final.status != "executed" else "executed"}
        if case.rules.beside:  # what was told first stays, though the task may run once more
            fine = {"executed", "failed"}
        if final.status == "cancelled":  # told after the transaction that cancels it
            fine = {"", "scheduled", "processing", "failed"}
            if case.rules.beside and any(run.word == "ok" for run in case.history.runs[final.id]):
                fine.add("executed")  # told; its worker died before the settle, then its flow ended
        if final.told not in fine:
            yield Violation(
                "I10", final.id, f"is {final.status}, and its projection {final.told or 'is none'}"
            )


FLOW_RULES = (_one_join, _rows_go_forward, _rows_agree)
