"""Mistakes planted in the library, one at a time, each of which the simulation has to notice."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from msgspec.structs import replace

from taskloom import UnavailableError
from taskloom.carriers import SteppedCarrier
from taskloom.flow_keeper import FlowKeeper
from taskloom.identity import DerivedIds, new_id
from taskloom.interfaces import FlowRecord
from taskloom.lane import Lane
from taskloom.leases import Keeper
from taskloom.locks import TaskLocks
from taskloom.memory import InMemoryFlowBarrier, InMemoryProjections, InMemoryStorage
from taskloom.memory.channel import Channel
from taskloom.memory.writes import Writer
from taskloom.outcomes import Delivery

__all__ = ["MISTAKES", "planted"]

MISTAKES: dict[str, tuple[Any, str, Callable[..., Any]]] = {}
"""By name: where, which method, and what takes its place (called with the original first)."""


@contextmanager
def planted(name: str) -> Iterator[None]:
    """The library with this mistake."""
    where, method, mistake = MISTAKES[name]
    original = getattr(where, method)

    def replacement(*args: Any, **options: Any) -> Any:
        return mistake(original, *args, **options)

    with patch.object(where, method, replacement):
        yield


def _mistake(where: Any, method: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def plant(mistake: Callable[..., Any]) -> Callable[..., Any]:
        MISTAKES[mistake.__name__.replace("_", " ")] = (where, method, mistake)
        return mistake

    return plant


Writing = Callable[..., Awaitable[set[str]]]


@_mistake(SteppedCarrier, "carry_out")
async def acknowledged_before_settled(
    original: Writing, self: SteppedCarrier, verdicts: Sequence[Any], *args: Any, **options: Any
) -> set[str]:
    done = [v.outcome.delivery for v in verdicts if v.back is None and not v.released]
    if done:
        await self._parts.queue.ack(done)
    return await original(self, verdicts, *args, **options)


@_mistake(SteppedCarrier, "carry_out")
async def outcome_lost_when_settling_fails(
    original: Writing, self: SteppedCarrier, *args: Any, **options: Any
) -> set[str]:
    try:
        return await original(self, *args, **options)
    except UnavailableError:
        return set()


@_mistake(Channel, "split")
def no_fence_on_the_queue(
    original: Any, self: Channel, deliveries: Iterable[Delivery]
) -> tuple[dict[str, Any], list[Delivery]]:
    held, lost = {}, []
    for delivery in deliveries:
        item = self.items.get(delivery.receipt[1])
        if item is not None and item.lease:
            held[item.id] = item
        else:
            lost.append(delivery)
    return held, lost


@_mistake(Writer, "_end")
def no_fence_in_the_storage(original: Any, self: Writer, ending: Any, fenced: bool) -> bool:
    done: bool = original(self, ending, False)
    return done


@_mistake(DerivedIds, "next_id")
def random_child_ids(
    original: Any, self: DerivedIds, type: str, queue_id: str, payload: Any
) -> str:
    return new_id()


@_mistake(Channel, "give_back")
def release_counts_as_delivery(original: Any, self: Channel, item: Any, *args: Any) -> None:
    original(self, item, *args)
    item.deliveries += 1


@_mistake(InMemoryStorage, "recover_stale")
async def rescued_by_age(original: Any, self: InMemoryStorage, **options: Any) -> int:
    count: int = await original(self, **{**options, "stale_after": 0.3})
    return count


@_mistake(Keeper, "renew")
async def leases_not_renewed(original: Any, self: Keeper) -> None:
    """Nothing."""


@_mistake(Lane, "_refused")
def expiry_not_looked_at(original: Any, self: Lane, *args: Any) -> None:
    """Nothing is refused."""


@_mistake(TaskLocks, "take")
async def hashes_not_locked(original: Any, self: TaskLocks, deliveries: Any) -> list[Delivery]:
    return []


@_mistake(FlowKeeper, "_hand_over")
async def join_noted_before_it_is_added(original: Any, self: FlowKeeper, record: FlowRecord) -> Any:
    if not await self.barrier.mark_joined(record.flow.flow_id):
        return None
    return await original(self, record)


@_mistake(FlowKeeper, "_hand_over")
async def join_handed_over_once_more(original: Any, self: FlowKeeper, record: FlowRecord) -> Any:
    again = record.flow.join.replace(id=new_id())
    await original(self, replace(record, flow=replace(record.flow, join=again)))
    return await original(self, record)


@_mistake(InMemoryFlowBarrier, "_count")
def last_result_of_a_step_counts(
    original: Any, self: InMemoryFlowBarrier, flow: Any, result: Any, body: bytes
) -> None:
    original(self, flow, result, body)
    flow.steps[result.step_index] = body


@_mistake(SteppedCarrier, "carry_out")
async def steps_acknowledged_before_they_count(
    original: Writing, self: SteppedCarrier, verdicts: Sequence[Any], *args: Any, **options: Any
) -> set[str]:
    steps = [v.outcome.delivery for v in verdicts if v.ending is not None and v.ending.step]
    if steps:
        await self._parts.queue.ack(steps)
    return await original(self, verdicts, *args, **options)


@_mistake(FlowKeeper, "_cancel")
async def steps_of_aborted_flows_go_on(original: Any, self: FlowKeeper, ids: Any, end: str) -> Any:
    return ()


@_mistake(InMemoryProjections, "upsert_projections")
async def last_row_of_projections_stays(
    original: Any, self: InMemoryProjections, entries: Sequence[Any]
) -> None:
    self._rows.update((entry.task_id, entry) for entry in entries)


@_mistake(SteppedCarrier, "_give_up")
async def delivery_not_given_up(
    original: Writing, self: SteppedCarrier, verdicts: Any, steps: Any
) -> set[str]:
    return set()
