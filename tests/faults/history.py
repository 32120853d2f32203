"""Events, sorted into what each task, each process and each call went through."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable

from msgspec import Struct
from recorder import Event, Spec

__all__ = ["HARD", "Claimed", "History", "Run", "Settled", "read_history"]

HARD = frozenset({"kill", "stop", "cont", "stall", "block", "insist", "own-end", "cut"})
"""Faults after which a run that had ended may come again: its outcome may not have been written.

A `term` is none of them: what ended before or during an orderly shutdown stays settled.
"""


class Run(Struct):
    """One execution of a task by a worker."""

    task: str
    run: str
    pid: int
    start: float
    attempt: int
    lock: str
    end: float = float("inf")
    word: str = ""
    """ok, fail, cancelled; empty while it runs, for ever if its process died."""
    result: object = None
    children: list[str] = []

    def __str__(self) -> str:
        end = f"{self.end:.3f} {self.word}" if self.word else "no end"
        return (
            f"run {self.run} (process {self.pid}, attempt {self.attempt}, {self.start:.3f}-{end})"
        )


class Claimed(Struct):
    """A task under a lease."""

    since: float
    t: float
    pid: int
    epoch: int
    deliveries: int
    until: float
    """The lease ends no earlier, as far as this or a renewal was seen."""


class Settled(Struct):
    """What a settle said about a task."""

    since: float
    t: float
    pid: int
    epoch: int
    status: str
    accepted: bool


class Call(Struct):
    """An `add_tasks`: what it was given, and what came of it."""

    specs: list[Spec]
    word: str = "unknown"


class History:
    """What happened, by whom it happened to."""

    def __init__(self) -> None:
        self.calls: dict[str, Call] = {}
        self.specs: dict[str, Spec] = {}
        self.spawned: dict[str, str] = {}
        """Children that a run said it would add, and their parents."""
        self.runs: dict[str, list[Run]] = defaultdict(list)
        self.claims: dict[str, list[Claimed]] = defaultdict(list)
        self.released: dict[str, list[tuple[float, int]]] = defaultdict(list)
        self.settled: dict[str, list[Settled]] = defaultdict(list)
        self.rows: dict[str, list[tuple[float, str]]] = defaultdict(list)
        """What a storage apart from the queue has written about a task, and when it said so."""
        self.faults: dict[int, list[tuple[float, str]]] = defaultdict(list)
        self.spans: dict[int, list[tuple[float, float, str]]] = defaultdict(list)
        """Faults that lasted: from when until when, and what; all of them are hard."""
        self.deaths: dict[int, float] = {}
        self.left: list[Event] = []
        self.changes: list[Event] = []
        """Of rows of projections and barriers."""
        self.counted: dict[str, list[tuple[float, object]]] = defaultdict(list)
        """When a barrier was known to have counted a step, and with what result."""
        self._by_run: dict[str, Run] = {}

    @property
    def accepted(self) -> dict[str, Spec]:
        """What `add_tasks` returned for."""
        calls = [call for call in self.calls.values() if call.word == "ok"]
        return {spec.id: spec for call in calls for spec in call.specs}

    def fault_between(self, pid: int, start: float, end: float, *, hard: bool = False) -> str:
        """The first fault that hit `pid` from `start` to `end`; empty if there was none."""
        faults = self.faults.get(pid, [])
        for t, word in faults[bisect_left(faults, (start, "")) :]:
            if t > end:
                break
            if not hard or word in HARD:
                return word
        spans = self.spans.get(pid, [])
        return next((word for since, t, word in spans if since < start and t > end), "")

    def cut_between(self, pid: int, start: float, end: float) -> bool:
        """Whether `pid` may not have heard what its server answered."""
        return any(word == "cut" and start <= t <= end for t, word in self.faults.get(pid, ()))

    def take(self, event: Event) -> None:
        """One event; they come in order of time."""
        match event.kind:
            case "run.start":
                run = Run(event.task, event.run, event.pid, event.t, event.attempt, event.lock)
                self.runs[event.task].append(run)
                self._by_run[event.run] = run
            case "run.end":
                self._end(event)
            case "spawn":
                for child in event.children:
                    self.spawned[child] = event.task
            case "claim" | "extend" | "release" | "settle":
                self._lease(event)
            case "row":
                for id, _, status in event.keys:
                    self.rows[id].append((event.t, status))
            case "add.invoke":
                self.calls[event.call] = Call(event.specs)
                self.specs.update((spec.id, spec) for spec in event.specs)
            case "add.ok" | "add.fail" | "add.unknown":
                self.calls[event.call].word = event.kind[4:]
            case "fault":
                self._fault(event)
            case "process.ended" if event.target in self.deaths:
                # The kill was noted before it was sent: what began until now was hit by it too.
                self.deaths[event.target] = event.t
                self.faults[event.target].append((event.t, "kill"))
            case "left":
                self.left.append(event)
            case "change":
                self.changes.append(event)
            case "count":
                self.counted[event.task].append((event.t, event.result))

    def _end(self, event: Event) -> None:
        run = self._by_run.get(event.run)
        if run is not None:
            run.end, run.word = event.t, event.word
            run.result, run.children = event.result, event.children

    def _lease(self, event: Event) -> None:
        until = event.since + event.lease
        for id, epoch, word in event.keys:
            if event.kind == "claim":
                claimed = Claimed(event.since, event.t, event.pid, epoch, int(word), until)
                self.claims[id].append(claimed)
            elif event.kind == "extend":
                for claimed in self.claims[id]:
                    if claimed.epoch == epoch:
                        claimed.until = max(claimed.until, until)
            elif event.kind == "release":
                self.released[id].append((event.t, epoch))
            else:
                status, _, refused = word.partition(" ")
                settled = Settled(event.since, event.t, event.pid, epoch, status, not refused)
                self.settled[id].append(settled)

    def _fault(self, event: Event) -> None:
        # Noticed when it was over: it lasted from `since` on.
        times = {event.t, event.since or event.t}
        if event.since:
            self.spans[event.target].append((event.since, event.t, event.word))
        self.faults[event.target].extend((t, event.word) for t in times)
        if event.word in ("kill", "own-end"):
            self.deaths.setdefault(event.target, event.t)


def read_history(events: Iterable[Event]) -> History:
    """`events`, which may come in any order, as a history."""
    history = History()
    for event in sorted(events, key=lambda each: each.t):
        history.take(event)
    for faults in history.faults.values():
        faults.sort()
    for claims in history.claims.values():
        claims.sort(key=lambda each: each.epoch)
    return history
