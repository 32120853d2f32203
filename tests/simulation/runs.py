"""The runs of user code in a history, and what happened around each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from simulation.flow_model import FlowModel, replayed
from simulation.history import Event

__all__ = ["Facts", "Run"]

WRONG = ("fail", "raise", "silent")


class Run(NamedTuple):
    """One call of user code for one task, from its claim to its end."""

    start: Event
    claimed: float
    end: Event | None
    """None: its worker died first."""
    ended: float

    @property
    def task(self) -> str:
        return self.start.task

    @property
    def who(self) -> str:
        return self.start.who

    @property
    def number(self) -> int:
        number: int = self.start.about["run"]
        return number

    @property
    def word(self) -> str:
        """The word it spoke; "cut" when it was cancelled or its worker died."""
        return "cut" if self.end is None else str(self.end.about["word"])

    @property
    def children(self) -> tuple[str, ...]:
        return () if self.end is None else self.end.about["children"]


class Facts:
    """A history, indexed."""

    def __init__(self, events: Iterable[Event]) -> None:
        self.events = list(events)
        self.place = {id(event): place for place, event in enumerate(self.events)}
        """Which event came first; many happen at one time."""
        self.by_kind: dict[str, list[Event]] = defaultdict(list)
        self.by_task: dict[str, list[Event]] = defaultdict(list)
        for event in self.events:
            self.by_kind[event.kind].append(event)
            if event.task:
                self.by_task[event.task].append(event)
        self.crashes = {event.who: event.at for event in self.by_kind["crash"]}
        self.stops = {event.who: event.at for event in self.by_kind["stop"]}
        self.parents: dict[str, str] = {}
        self.runs: dict[str, list[Run]] = {id: self._runs(id) for id in self.by_task}
        self.flows: dict[str, FlowModel] = replayed(self.events)
        self._kin: dict[str, set[str]] = {}
        for flow in self.flows.values():
            self._kin |= {id: {flow.id} for id in flow.tasks}
            self._kin[flow.join_id] = {flow.id, *flow.tasks}
            if flow.by:
                self.parents |= dict.fromkeys(flow.tasks, flow.by)
        for runs in self.runs.values():
            self.parents |= {child: run.task for run in runs for child in run.children}

    def _runs(self, id: str) -> list[Run]:
        ends = {e.about["run"]: e for e in self.by_task[id] if e.kind == "end"}
        claims: dict[str, float] = {}
        runs = []
        for event in self.by_task[id]:
            if event.kind == "claim":
                claims[event.who] = event.at
            if event.kind == "start":
                end = ends.get(event.about["run"])
                ended = end.at if end else self.crashes.get(event.who, float("inf"))
                runs.append(Run(event, claims.get(event.who, event.at), end, ended))
        return runs

    def of(self, id: str, *kinds: str) -> list[Event]:
        return [event for event in self.by_task[id] if event.kind in kinds]

    def lineage(self, id: str) -> set[str]:
        """The task, its parent, and so on; of a join, the steps of its flow."""
        line, open_ids = {id}, [id]
        while open_ids:
            id = open_ids.pop()
            kin = self._kin.get(id, set()) | {self.parents.get(id, id)}
            open_ids += sorted(kin - line)
            line |= kin
        return line

    def named(self, id: str, until: float) -> list[Event]:
        """Faults of calls about this task or those it comes from."""
        line = self.lineage(id)
        faults = self.by_kind["fault"]
        return [e for e in faults if e.at <= until and not line.isdisjoint(e.about["ids"])]

    def troubled(self, who: str, since: float, until: float) -> bool:
        """Whether a worker died, was stopped or lost its engines for a while in this time.

        One call that was refused, or whose answer was lost, is no such while: it is repeated.
        """
        if since <= self.crashes.get(who, -1.0) <= until:
            return True
        if since <= self.stops.get(who, -1.0) <= until:
            return True
        faults = [e for e in self.by_kind["fault"] if e.who == who and since <= e.at <= until]
        return len(faults) > 1 or any(not _repeated(fault) for fault in faults)


def _repeated(fault: Event) -> bool:
    return fault.about["fault"] in ("refused", "lost") and fault.about["call"] in _REPEATED


_REPEATED = (
    *("settle", "ack", "release", "extend", "extend_leases", "recover_stale", "claim_due"),
    *("barrier.open", "barrier.record", "barrier.early", "barrier.results", "barrier.joined"),
    *("barrier.get", "project"),
)
