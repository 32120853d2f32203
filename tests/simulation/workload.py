"""What a simulation does, from its seed alone: tasks, when they come, workers, and what fails."""

from __future__ import annotations

import random
from typing import Any, NamedTuple

from simulation.flow_plans import make_plan
from simulation.nemesis import Fault, FaultPlan
from taskloom import EntityRef

__all__ = ["LEASE", "Operation", "Scenario", "make_scenario"]

LEASE = 3.0
_ALL = (Fault.REFUSED, Fault.LOST, Fault.SLOW, Fault.CRASH_BEFORE, Fault.CRASH_AFTER)
_CALLS = ("put", "settle", "ack", "release", "add", "extend", "claim_due", "take_over", "claim")
_FLOW_CALLS = (
    *("barrier.open", "barrier.record", "barrier.get", "barrier.results", "barrier.joined"),
    *("barrier.early", "barrier.record", "add", "put", "settle", "ack", "project", "get"),
)


class Operation(NamedTuple):
    """Something a client does at a time: "add", "cancel" or "retry" tasks, by their specs.

    "flow": start one.
    """

    at: float
    what: str
    tasks: list[dict[str, Any]]
    """Fields of tasks; times are seconds from then."""
    flow: dict[str, Any] = {}


class Scenario(NamedTuple):
    """One simulation."""

    seed: int
    integrated: bool
    """The storage is the queue."""
    workers: int
    operations: list[Operation]
    faults: FaultPlan
    stops: list[float]
    """When a worker is asked to stop, and another one takes its place."""
    flows: bool = False
    """There is a barrier, there are projections, and what they are for."""


def make_scenario(seed: int) -> Scenario:
    """The scenario of a seed. One in five is without faults: there nothing excuses anything."""
    rng = random.Random(seed)
    plan = (_calm, _aimed, _aimed, _random, _random)[seed % 5]
    operations = _operations(rng)
    scenario = Scenario(
        seed,
        integrated=rng.random() < 0.4,
        workers=rng.choice((1, 2, 2)),
        operations=operations,
        faults=plan(rng),
        stops=[rng.uniform(0.1, 6)] if rng.random() < 0.3 else [],
    )
    return _with_flows(scenario) if seed % 2 else scenario


def _with_flows(scenario: Scenario) -> Scenario:
    """Fewer tasks of their own, some on entities; flows; faults aimed at what these call."""
    rng = random.Random(f"flows {scenario.seed}")
    operations = scenario.operations[:1]
    for root in operations[0].tasks:
        if rng.random() < 0.4:
            root["entity"] = EntityRef("lone", "thing")
        if rng.random() < 0.3:
            # At once, only a task of its own gives a flow an id that a seed can repeat.
            ways = ("flow",) if root["type"] == "batch" else ("flow", "inner_flow")
            root["payload"][rng.choice(ways)] = make_plan(rng, _behaviour)
    for _ in range(rng.choice((1, 1, 2))):
        operations.append(Operation(_moment(rng, 3), "flow", [], make_plan(rng, _behaviour)))
    wishes = [each for each in scenario.operations if each.what != "add"]
    faults = scenario.faults
    if faults.aims:
        calls = rng.sample(_FLOW_CALLS, len(faults.aims))
        aims = {(call, rng.choice((1, 1, 2, 3))): rng.choice(_ALL) for call in calls}
        faults = faults._replace(aims=aims)
    return scenario._replace(operations=operations + wishes, faults=faults, flows=True)


def _calm(rng: random.Random) -> FaultPlan:
    return FaultPlan(jitter=rng.choice((0.0, 0.3)))


def _aimed(rng: random.Random) -> FaultPlan:
    """One to three faults, each at a certain call: what follows stands out."""
    aims = {
        (rng.choice(_CALLS), rng.choice((1, 1, 2, 3, 4, 6))): rng.choice(_ALL)
        for _ in range(rng.choice((1, 1, 2, 3)))
    }
    jitter = rng.choice((0.0, 0.3))
    return FaultPlan(aims=aims, crashes=3, heals_at=30.0, jitter=jitter, slowest=LEASE * 1.5)


def _random(rng: random.Random) -> FaultPlan:
    return FaultPlan(
        rate=rng.choice((0.01, 0.03, 0.1, 0.3)),
        kinds=tuple(rng.sample(_ALL, rng.randint(1, len(_ALL)))),
        crashes=rng.randint(0, 3),
        heals_at=rng.uniform(2, 10),
        jitter=rng.choice((0.0, 0.3)),
        slowest=rng.choice((0.5, LEASE / 2, LEASE * 1.5)),
    )


def _operations(rng: random.Random) -> list[Operation]:
    count = rng.randint(1, 5)
    roots = [_root(rng, f"t{number}") for number in range(count)]
    if rng.random() < 0.15:
        for root in rng.sample(roots, min(2, count)):
            root["task_hash"] = "same"
    operations, start = [], 0
    while start < count:
        size = rng.randint(1, 3)
        operations.append(Operation(_moment(rng, 4), "add", roots[start : start + size]))
        start += size
    wishes = [what for what in ("cancel", "retry") if rng.random() < 0.2]
    return operations + [Operation(_moment(rng, 8), what, [rng.choice(roots)]) for what in wishes]


def _moment(rng: random.Random, latest: float) -> float:
    return rng.choice((0.0, round(rng.uniform(0, latest), 3)))


def _root(rng: random.Random, id: str) -> dict[str, Any]:
    """Fields of a task; its payload says what its runs do."""
    fields: dict[str, Any] = {"id": id, "type": rng.choice(_TYPES), "payload": _behaviour(rng)}
    fields["retries"] = rng.randint(0, 2)
    fields["retry_after"] = rng.choice((0.0, 0.1, 0.5))
    fields["force_store"] = rng.random() < 0.4
    if rng.random() < 0.3:
        fields["delay"] = rng.choice((0.5, 2.0, 7.0))
    if rng.random() < 0.1:
        fields["expires_in"] = fields.get("delay", 0.0) + rng.choice((0.05, 1.0))
    if rng.random() < 0.01:
        fields["payload"]["kills"] = True
    return fields


_TYPES = ("work", "work", "work", "single", "brief", "batch", "nobody")


def _behaviour(rng: random.Random, depth: int = 0) -> dict[str, Any]:
    """`fails` attempts go wrong, in the way of `how`, before one succeeds; each naps first."""
    payload: dict[str, Any] = {
        "fails": rng.choice((0, 0, 0, 1, 2, 9)),
        "how": rng.choice(("fail", "raise", "silent")),
        "nap": rng.choice((0.0, 0.0, 0.01, 0.7, LEASE * 1.4)),
        "turns": rng.choice((0, 0, 0, 0, 2)),
    }
    if depth < 2 and rng.random() < 0.5:
        payload["children"] = [_child(rng, depth + 1) for _ in range(rng.randint(1, 2))]
    if depth < 2 and rng.random() < 0.15:
        payload["inner"] = [_child(rng, depth + 1)]
    return payload


def _child(rng: random.Random, depth: int) -> dict[str, Any]:
    payload = _behaviour(rng, depth) if rng.random() < 0.5 else {"nap": 0.0}
    fields: dict[str, Any] = {"type": rng.choice(("work", "brief", "batch")), "payload": payload}
    fields["retries"] = rng.randint(0, 1)
    fields["retry_after"] = 0.1
    fields["force_store"] = rng.random() < 0.3
    return fields
