"""Flows and entity projections on SQLite, beside the plain drain of the same run."""

from __future__ import annotations

import asyncio
from time import perf_counter

from benchmarks.harness import Figure, Options, Result, alternate, database, measure
from benchmarks.ours import QUEUE, counted, drained, filled
from benchmarks.work import Tally, calls
from taskloom import EntityRef, FlowResults

__all__ = ["figures"]

_FLOWS, _STEPS = 1_000, 10
_TASKS = 10_000


def figures(options: Options) -> list[Figure]:
    """Steps and joins a second, tasks with an entity a second, and how a flow's length counts."""
    found = alternate(
        options.rounds,
        {
            "plain": lambda: _measured("plain", tasks=_TASKS)["rate"],
            "flows": lambda: _measured("many", flows=_FLOWS, steps=_STEPS)["rate"],
            "entity": lambda: _measured("entities", tasks=_TASKS)["rate"],
            "long": lambda: _measured("many", flows=1, steps=10_000)["per_step"],
            "short": lambda: _measured("many", flows=1, steps=1_000)["per_step"],
        },
    )
    return [
        Figure(
            what=f"SQLite: {_FLOWS:,} flows of {_STEPS} steps",
            unit="steps and joins/s",
            ours=found["flows"],
            against="plain drain",
            theirs=found["plain"],
            at_least=0.5,
        ),
        Figure(
            what="SQLite: tasks with an entity",
            unit="tasks/s",
            ours=found["entity"],
            against="plain drain",
            theirs=found["plain"],
            at_least=0.5,
        ),
        Figure(
            what="SQLite: one flow of 10,000 steps",
            unit="ms/step",
            ours=found["long"],
            against="of 1,000 steps",
            theirs=found["short"],
            at_most=1.5,
        ),
    ]


def _measured(name: str, **arguments: int) -> Result:
    with database() as path:
        return measure(f"flows:{name}", path=path, **arguments)


def plain(path: str, tasks: int) -> Result:
    """`rate`: tasks a second, pre-added, then drained."""
    return asyncio.run(_drain(path, tasks, entity=False))


def entities(path: str, tasks: int) -> Result:
    """The same with an entity each, projected in the same database."""
    return asyncio.run(_drain(path, tasks, entity=True))


async def _drain(path: str, tasks: int, *, entity: bool) -> Result:
    stop = asyncio.Event()
    tally = Tally(tasks, stop.set)
    loom, noop = counted(f"sqlite:///{path}", tally)
    async with loom:
        if entity:
            # An entity of its own for each hundred tasks, as an order has many.
            for start in range(0, tasks, 100):
                ref = EntityRef(str(start), "order")
                await noop.with_(entity=ref).enqueue_many(calls(start, start + 100))
        else:
            await filled(noop, tasks)
        seconds = await drained(loom, stop)
    tally.check_once()
    return {"rate": tasks / seconds}


def many(path: str, flows: int, steps: int) -> Result:
    """Flows that are there, then drained: `rate` of steps and joins a second, ms `per_step`."""
    return asyncio.run(_many(path, flows, steps))


async def _many(path: str, flows: int, steps: int) -> Result:
    stop = asyncio.Event()
    tally = Tally(flows * steps, lambda: None)
    loom, noop = counted(f"sqlite:///{path}", tally)
    left = set(range(flows))

    @loom.task(queue=QUEUE)
    async def join(results: FlowResults) -> None:
        numbers = [step.step_index for step in results.steps]
        if numbers != list(range(steps)):
            raise AssertionError(f"{len(numbers)} of {steps} steps in a join")
        left.pop()
        if not left:
            stop.set()

    async with loom:
        for flow in range(flows):
            payloads = calls(flow * steps, (flow + 1) * steps)
            ours = [noop.step(each["number"], each["text"]) for each in payloads]
            await loom.start_flow(ours, join=join.join())
        start = perf_counter()
        await drained(loom, stop)
        seconds = perf_counter() - start
    tally.check_once()
    return {"rate": flows * (steps + 1) / seconds, "per_step": 1000 * seconds / (flows * steps)}
