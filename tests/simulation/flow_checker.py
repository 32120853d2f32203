"""I9 and I10: what must be true of flows and of projections."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from simulation.flow_model import FlowModel
from simulation.history import Event
from taskloom import FlowResults, Task, TaskStatus, flow_results

if TYPE_CHECKING:
    from simulation.checker import Case

__all__ = ["FLOW_RULES"]

_FORWARD = {
    *(("", new) for new in ("scheduled", "processing", "executed", "failed")),
    *(("scheduled", new) for new in ("processing", "executed", "failed")),
    *(("processing", new) for new in ("executed", "failed")),
}


def _one_join(case: Case) -> Iterator[str]:
    """I9: a flow that has tasks ends in one way, and hands one join over, with what counted."""
    for flow in case.facts.flows.values():
        if flow.steps[0] not in case.final.rows:
            continue  # opened by someone who died, or heard nothing, before adding its tasks
        joins = [id for id, row in case.final.rows.items() if _joins(row, flow.id)]
        if joins != [flow.join_id]:
            yield f"I9 flow {flow.id} ended {flow.end or 'never'} and has {len(joins)} joins"
            continue
        if len(flow.joined) != 1:
            yield f"I9 flow {flow.id} was noted as joined {len(flow.joined)} times"
        yield from _tells_the_truth(case, flow, flow_results(case.final.rows[flow.join_id]))


def _joins(row: Task[Any], flow_id: str) -> bool:
    meta = row.metadata.flow
    return meta is not None and meta.is_join and meta.flow_id == flow_id


def _tells_the_truth(case: Case, flow: FlowModel, results: FlowResults) -> Iterator[str]:
    said = "aborted" if results.aborted else "timed_out" if results.timed_out else "completed"
    if said != flow.end or (results.aborted and results.timed_out):
        yield f"I9 the join of flow {flow.id} says {said}, and it is {flow.end}"
    if results.barrier_lost:
        yield f"I9 the join of flow {flow.id} says that its barrier was lost"
    counted = [flow.first[index] for index in sorted(flow.first)]
    if results.steps != counted:
        yield f"I9 the join of flow {flow.id} has {results.steps}, and {counted} counted first"
    if flow.end == "completed" and [step.step_index for step in counted] != [*range(flow.total)]:
        yield f"I9 flow {flow.id} is complete without all of its steps"
    for step in results.steps:
        runs = case.facts.runs.get(flow.steps[step.step_index], ())
        good = [{"run": run.number} for run in runs if run.word == "success"]
        if step.status == "success" and step.result not in good:
            yield f"I9 flow {flow.id}: no run of step {step.step_index} came to {step.result}"


def _ends_as_asked(case: Case) -> Iterator[str]:
    """I9: nobody aborts a flow that is to go on, or is told of two ends."""
    for flow in case.facts.flows.values():
        meta = flow.join.metadata.flow
        assert meta is not None
        if flow.end == "aborted" and not (_failed(flow) and meta.failure_policy == "abort"):
            yield f"I9 flow {flow.id} was aborted, and nothing asked for that"
        if flow.end == "timed_out" and flow.tasks[-1] not in case.final.rows:
            yield f"I9 flow {flow.id} timed out, and had no time-out"
        if len(flow.told) > 1 or not {flow.end}.issuperset(flow.told):
            yield f"I9 flow {flow.id} ended {flow.end} and was told to be {flow.told}"


def _failed(flow: FlowModel) -> bool:
    """Whether a step failed in the call that ended it, be it one that had counted before."""
    return flow.trigger is not None and any(
        result.status == "fail" for result in flow.trigger.about["results"]
    )


def _stays_cancelled(case: Case) -> Iterator[str]:
    """I9: a step that was cancelled before it was claimed does not start."""
    for flow in case.facts.flows.values():
        for id in flow.steps:
            events = case.facts.of(id, "row", "claim", "start", "revive")
            cancelled = claimed = False
            for event in events:
                if event.kind == "row":
                    cancelled = event.about["new"] == "cancelled"
                    claimed = False
                elif event.kind == "claim":
                    claimed = cancelled
                elif event.kind == "start" and claimed:
                    yield f"I9 step {id} was cancelled, claimed after that, and ran"


def _rest_is_cancelled(case: Case) -> Iterator[str]:
    """I9: what of a flow waited when it ended early does not start once its join is noted."""
    for flow in case.facts.flows.values():
        if flow.end not in ("aborted", "timed_out") or not flow.joined or flow.trigger is None:
            continue
        for step in flow.steps:
            before, after = _around(case, step, flow.joined[0], ("claim", "start"))
            at_once, _ = _around(case, step, flow.trigger, ("claim", "start"))
            left_alone = len(before) == len(at_once) and _waited(case, step, flow.trigger)
            ran = {event.kind for event in after} == {"claim", "start"}
            if left_alone and ran and not case.facts.of(step, "revive"):
                yield f"I9 step {step} waited when flow {flow.id} ended {flow.end}, and ran"


def _around(
    case: Case, task: str, middle: Event, kinds: tuple[str, ...]
) -> tuple[list[Event], list[Event]]:
    """The events of a task before another event, and after it."""
    place = case.facts.place
    events, at = case.facts.of(task, *kinds), place[id(middle)]
    before = [event for event in events if place[id(event)] < at]
    return before, events[len(before) :]


def _waited(case: Case, task: str, until: Event) -> bool:
    """Whether a stored task was with nobody: new, or given back for another attempt."""
    before, _ = _around(case, task, until, ("row", "claim", "back", "settle", "release"))
    said = [event.kind for event in before if event.kind != "row"]
    return bool(before) and (not said or said[-1] in ("back", "settle"))


def _rows_go_forward(case: Case) -> Iterator[str]:
    """I10: no row of a projection goes back, or leaves a terminal status."""
    for event in case.facts.by_kind["project"]:
        old, new = event.about["old"], event.about["new"]
        if old != new and (old, new) not in _FORWARD:
            yield f"I10 the projection of {event.task} went from {old} to {new}"


def _rows_agree(case: Case) -> Iterator[str]:
    """I10: where nothing went wrong, the rows say what became of the tasks."""
    facts = case.facts
    if facts.by_kind["fault"] or facts.crashes or facts.stops or facts.by_kind["revive"]:
        return
    for id, row in case.final.rows.items():
        told = case.final.projections.get(id)
        if row.entity is not None and told != _as_told(row):
            yield f"I10 task {id} is {row.status.value}, and its projection {told}"
    for flow in facts.flows.values():
        meta, join = flow.join.metadata.flow, case.final.rows.get(flow.join_id)
        if meta is None or meta.entity is None or join is None:
            continue
        wanted = _as_told(join) if flow.end == "completed" else "failed"
        if case.final.projections.get(flow.id) != wanted:
            told = case.final.projections.get(flow.id)
            yield f"I10 flow {flow.id} ended {flow.end}, and its projection {told}"


def _as_told(row: Task[Any]) -> str:
    return "executed" if row.status is TaskStatus.EXECUTED else "failed"


FLOW_RULES = (
    _one_join,
    _ends_as_asked,
    _stays_cancelled,
    _rest_is_cancelled,
    _rows_go_forward,
    _rows_agree,
)
