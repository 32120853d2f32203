"""Settling with flows: what follows from runs, and what that means for flows.

One transaction where there are any. Without, in this order, each step safe to repeat: flows opened,
what follows added, steps counted, joins added, waiting steps cancelled, joins noted, and last the
endings, which are the acknowledgement. Who finds a flow `ready` hands its join over again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from msgspec.structs import replace

from taskloom.flows import FlowStepResult, NewFlow, join_task, step_id
from taskloom.interfaces import FlowNews, FlowSettled
from taskloom.mongodb import changing, flows, projections, settling
from taskloom.mongodb.asking import by_ids
from taskloom.mongodb.changing import insert_new
from taskloom.mongodb.flows import Flow, Said
from taskloom.mongodb.rows import document, micros, read_task
from taskloom.mongodb.schema import Collection, Collections
from taskloom.mongodb.settling import Written
from taskloom.mongodb.transacting import Writing
from taskloom.outcomes import Ending, Settlement
from taskloom.projections import FLOW_ERRORS, flow_projection
from taskloom.task import Task, TaskStatus

__all__ = ["settle"]

logger = logging.getLogger("taskloom.mongodb")


async def settle(
    at: Writing, kept: Collections, plan: Settlement, rows: Written, now: datetime
) -> FlowSettled:
    """Write `plan`, of which `rows` are the documents."""
    gone = await settling.begin(at, kept.tasks, rows, now)
    going = [
        ending for ending, row in zip(plan.endings, rows.ends, strict=True) if row.key not in gone
    ]
    new = [*plan.flows, *(flow for ending in going for flow in ending.flows)]
    opened = await _open(at, kept.flows, new, now)
    await settling.add_what_follows(at, kept, rows, gone)
    refused = await settling.change_waiting(at, kept.tasks, rows, now)
    said = _what_was_said(going)
    await _say_cancelled(at, kept.tasks, said, plan.cancelled)
    news = await _move(at, kept, {flow.flow_id for flow in new}, said, now)
    if plan.projecting:
        await _project(at, kept.projections, [f for f in new if f.flow_id in opened], news, now)
    return FlowSettled(await settling.finish(at, kept.tasks, rows, gone, now) + refused, news)


async def _open(at: Writing, kept: Collection, new: Iterable[NewFlow], now: datetime) -> set[str]:
    rows = [flows.new_document(f.flow_id, f.total_steps, f.join, micros(now)) for f in new]
    return await insert_new(at, kept, rows)


def _what_was_said(endings: Iterable[Ending]) -> dict[str, Said]:
    said: dict[str, Said] = {}
    for ending in endings:
        task = ending.delivery.task
        meta = task.metadata.flow
        if meta is None:
            continue
        if ending.step is not None:
            _say(said, task, ending.step)
        elif meta.is_timeout and ending.status.terminal:  # the time is over even if it was poison
            before = said.get(meta.flow_id, Said())
            said[meta.flow_id] = replace(before, times_out=True)
    return said


def _say(said: dict[str, Said], task: Task[Any], step: FlowStepResult) -> None:
    meta = task.metadata.flow
    assert meta is not None, "a step knows its flow"
    before = said.get(meta.flow_id, Said())
    now = replace(before, steps=[*before.steps, step])
    if step.status == "fail" and meta.failure_policy == "abort" and not before.aborts:
        now = replace(now, aborts=True, trigger=step.step_index)
    said[meta.flow_id] = now


async def _say_cancelled(
    at: Writing, tasks: Collection, said: dict[str, Said], ids: Sequence[str]
) -> None:
    """Steps that were cancelled have failed.

    Those that were cancelled before are said again: they count once, and whoever cancelled them may
    have died before saying so.
    """
    if not ids:
        return
    for each in await by_ids(at, tasks, ids, status=TaskStatus.CANCELLED.value):
        task = read_task(each)
        meta = task.metadata.flow
        if meta is not None and not (meta.is_join or meta.is_timeout):
            reason = task.execution_stats.get("cancelled_reason", "")
            _say(said, task, FlowStepResult(meta.step_index, "fail", error=f"cancelled: {reason}"))


async def _move(
    at: Writing, kept: Collections, new: set[str], said: Mapping[str, Said], now: datetime
) -> list[FlowNews]:
    """Apply what was said, and hand over the joins of flows that are ready."""
    found = await flows.fetch(at, kept.flows, new | said.keys()) if new or said else {}
    changed = [
        await flows.advance(at, kept, flow, said[id], micros(now)) if id in said else flow
        for id, flow in sorted(found.items())
    ]
    return await _hand_over(at, kept, [flow for flow in changed if flow.state == "ready"], now)


async def _hand_over(
    at: Writing, kept: Collections, ready: Sequence[Flow], now: datetime
) -> list[FlowNews]:
    """Add the joins of flows, and cancel what has not started of those that ended early."""
    templates = _templates(ready)
    steps = await flows.read_steps(at, kept, list(templates)) if templates else {}
    news: list[FlowNews] = []
    for flow in ready:
        template = templates.get(flow.flow_id)
        if template is None:
            continue
        counted = steps[flow.flow_id]
        join = join_task(template, counted, now=now, end=flow.end or "completed")
        await insert_new(at, kept.tasks, [document(join)])
        cancelled = await _cancel_the_rest(at, kept.tasks, flow, counted, now)
        if await flows.mark_sent(at, kept.flows, flow.flow_id, micros(now)):
            record = replace(flow, state="sent").record(template)
            news.append(FlowNews(record, join, tuple(cancelled)))
    return news


def _templates(ready: Iterable[Flow]) -> dict[str, Task[Any]]:
    """The joins of those flows that have one to hand over."""
    templates: dict[str, Task[Any]] = {}
    for flow in ready:
        join = flow.join()
        if join is not None and join.metadata.flow is not None:
            templates[flow.flow_id] = join
        elif flow.join_body is not None:
            logger.error("flow %s cannot hand over its join: its record is none", flow.flow_id)
    return templates


async def _cancel_the_rest(
    at: Writing, tasks: Collection, flow: Flow, steps: Iterable[FlowStepResult], now: datetime
) -> list[str]:
    """Cancel the steps of a flow that ended early which wait; their ids.

    One that runs is left to its end, which counts for nothing any more.
    """
    if flow.end not in FLOW_ERRORS:
        return []
    counted = {step.step_index for step in steps}
    left = [step_id(flow.flow_id, index) for index in range(flow.total) if index not in counted]
    kept = set(await changing.cancel(at, tasks, left, FLOW_ERRORS[flow.end], now))
    return [id for id in left if id not in kept]


async def _project(
    at: Writing,
    kept: Collection,
    opened: Iterable[NewFlow],
    news: Iterable[FlowNews],
    now: datetime,
) -> None:
    """Write the rows of entities whose flows began, or ended early."""
    rows = [flow_projection(flow.join, "processing", now) for flow in opened]
    for each in news:
        record = each.record
        if record.end in FLOW_ERRORS:
            error = FLOW_ERRORS[record.end]
            rows.append(flow_projection(record.flow.join, "failed", now, error=error))
    if entries := [row for row in rows if row is not None]:
        await projections.upsert(at, kept, entries)
