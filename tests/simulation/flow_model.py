"""What barriers were told, replayed: which result counted first, and how each flow ended."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from simulation.flow_plans import tasks_of_flow
from simulation.history import Event
from taskloom import FlowStepResult, Task
from taskloom.flows import join_id

__all__ = ["FlowModel", "replayed"]


class FlowModel:
    """One flow, by the rules of the design."""

    def __init__(self, id: str, total: int, join: Task[Any], by: str) -> None:
        self.id = id
        self.total = total
        self.join = join
        self.by = by
        """The task that started it at once, while it ran."""
        self.join_id = join_id(id)
        self.tasks = tasks_of_flow(id, total, timed=True)
        """Its steps, and the sentinel that it may have."""
        self.first: dict[int, FlowStepResult] = {}
        self.end = ""
        """completed, aborted or timed_out; empty while it is open."""
        self.trigger: Event | None = None
        """The event that ended it."""
        self.joined: list[Event] = []
        self.told: list[str] = []

    @property
    def steps(self) -> list[str]:
        """The ids of its steps, by index."""
        return self.tasks[: self.total]

    def take(self, event: Event) -> None:
        """One event about it; they come in order."""
        about = event.about
        if event.kind == "flow.steps" and not self.end:
            for result in about["results"]:
                self.first.setdefault(result.step_index, result)
            full = "completed" if len(self.first) == self.total else ""
            self._end("aborted" if about["abort"] else full, event)
        elif event.kind == "flow.early" and not self.end:
            self._end("timed_out" if about["timed_out"] else "aborted", event)
        elif event.kind == "flow.joined":
            self.joined.append(event)
        elif event.kind == "flow.told":
            self.told.append(about["end"])

    def _end(self, how: str, event: Event) -> None:
        if how:
            self.end, self.trigger = how, event


def replayed(events: Iterable[Event]) -> dict[str, FlowModel]:
    """Every flow that was opened, by its id."""
    flows: dict[str, FlowModel] = {}
    for event in events:
        if event.kind == "flow.open":
            flows[event.task] = FlowModel(event.task, **event.about)
        elif event.kind.startswith("flow."):
            flows[event.task].take(event)
    return flows
