"""Flows of a simulation, from its seed: plain values that a payload can hold."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from taskloom import EntityRef, FlowJoin, FlowStep
from taskloom.flows import step_id
from taskloom.identity import derive_id

__all__ = ["JOINS", "QUEUE", "make_plan", "options_of", "steps_of", "tasks_of_flow"]

QUEUE = "q"

JOINS: dict[str, dict[str, Any]] = {
    "join": {},
    "shaky": {"fails": 1, "how": "fail"},
    "chained": {"flow": {"steps": [{"type": "step"}, {"type": "work"}], "join": "join"}},
}
"""What joins do, by their type; their payload is the results of their flow."""

_STEPS = ("step", "step", "work", "single", "batch", "nobody")


def make_plan(
    rng: random.Random, behaviour: Callable[[random.Random, int], dict[str, Any]], depth: int = 0
) -> dict[str, Any]:
    """A flow; `behaviour(rng, depth)` makes what a step does."""
    steps = [_step(rng, behaviour, depth) for _ in range(rng.choice((1, 2, 3, 3, 5)))]
    plan: dict[str, Any] = {"steps": steps, "join": rng.choice(("join", "join", *JOINS))}
    plan["failure_policy"] = rng.choice(("continue", "abort"))
    if rng.random() < 0.4:
        plan["timeout"] = rng.choice((0.02, 0.7, 3.0, 8.0))
    if rng.random() < 0.4:
        plan["entity"] = "whole"
    return plan


def _step(
    rng: random.Random, behaviour: Callable[[random.Random, int], dict[str, Any]], depth: int
) -> dict[str, Any]:
    payload = behaviour(rng, 2) if rng.random() < 0.6 else {}
    step: dict[str, Any] = {"type": rng.choice(_STEPS), "payload": payload}
    if rng.random() < 0.3:
        step["entity"] = "part"
    if depth == 0 and rng.random() < 0.1:
        payload["flow"] = make_plan(rng, behaviour, depth + 1)
    return step


def steps_of(plan: dict[str, Any]) -> list[FlowStep]:
    """The steps of a plan."""
    return [
        FlowStep(step["type"], QUEUE, step.get("payload", {}), _entity(step))
        for step in plan["steps"]
    ]


def options_of(plan: dict[str, Any]) -> dict[str, Any]:
    """The other arguments of `start_flow`."""
    return {
        "join": FlowJoin(plan["join"], QUEUE),
        "failure_policy": plan.get("failure_policy", "continue"),
        "timeout": plan.get("timeout"),
        "entity": _entity(plan),
    }


def _entity(of: dict[str, Any]) -> EntityRef | None:
    return EntityRef(of["entity"], "thing") if "entity" in of else None


def tasks_of_flow(flow_id: str, steps: int, *, timed: bool) -> list[str]:
    """The ids of a flow's steps, and of its sentinel if it has one."""
    ids = [step_id(flow_id, index) for index in range(steps)]
    return [*ids, derive_id(flow_id, "timeout")] if timed else ids
