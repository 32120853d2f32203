"""The parts of a Loom: from its url, given by name, or both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from taskloom.clock import Clock
from taskloom.errors import ConfigurationError
from taskloom.interfaces import (
    Cache,
    EntityProjections,
    FlowBarrier,
    MessageQueue,
    TaskStorage,
)
from taskloom.interfaces.opening import Opening
from taskloom.urls import Parts, parts_from_url, redacted

__all__ = ["assemble", "distinct", "shown"]


def assemble(
    url: str | None,
    queue: MessageQueue | None,
    storage: TaskStorage | None,
    cache: Cache | None,
    flow_barrier: FlowBarrier | None,
    entity_projections: EntityProjections | None,
    clock: Clock,
) -> Parts:
    """What is given by name, and the rest from the url.

    The barrier and the projections of the url come along with its storage: with another storage
    they are given by name, or there are none.
    """
    if url is not None and not isinstance(url, str):
        raise TypeError(f"url must be a text, not {type(url).__name__}; parts are given by name")
    if storage is None and queue is not None:
        storage = queue.storage
    if queue is not None and storage is not None and cache is not None:
        return Parts(queue, storage, cache, flow_barrier, entity_projections)
    if url is None:
        given: dict[str, Any] = {"queue": queue, "storage": storage, "cache": cache}
        missing = ", ".join(name for name, part in given.items() if part is None)
        raise ConfigurationError(f"without a url every part is given by name; missing: {missing}")
    made = parts_from_url(url, clock)
    if storage is None:
        flow_barrier = flow_barrier or made.flow_barrier
        entity_projections = entity_projections or made.entity_projections
    return Parts(
        made.queue if queue is None else queue,
        made.storage if storage is None else storage,
        made.cache if cache is None else cache,
        flow_barrier,
        entity_projections,
    )


def shown(url: str | None, parts: Parts, by_name: Sequence[object]) -> str:
    """The url where it says everything, else the kinds of the parts; never a password."""
    if url is not None and all(part is None for part in by_name):
        return repr(redacted(url))
    named = {name: part for name, part in parts._asdict().items() if part is not None}
    return ", ".join(f"{name}={type(part).__name__}" for name, part in named.items())


def distinct(parts: Parts) -> list[Opening]:
    """Each part once, in the order they are opened: what a queue stands on before the queue."""
    every: tuple[Opening | None, ...] = (
        parts.storage,
        parts.queue.storage,
        *parts.queue.beneath,
        parts.queue,
        parts.cache,
        parts.flow_barrier,
        parts.entity_projections,
    )
    return list({id(part): part for part in every if part is not None}.values())
