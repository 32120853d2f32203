"""Settling with flows: what follows from runs, and what that means for flows, as one transaction.

Everything is done for all flows of a plan at once: a handful of statements, however many steps.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace
from sqlalchemy import Connection

from taskloom.codec import encode
from taskloom.flows import FlowStepResult, NewFlow, join_task, step_id
from taskloom.interfaces import FlowNews, FlowSettled
from taskloom.outcomes import Ending, Settlement
from taskloom.projections import FLOW_ERRORS, flow_projection
from taskloom.sql import adding, flows, projections, settling
from taskloom.sql.changing import cancel, fetch
from taskloom.sql.flows import Flow, Said
from taskloom.sql.rows import full_rows, moment, read_task
from taskloom.sql.settling import SettlePart, Written
from taskloom.sql.tallies import Changes, change_tallies
from taskloom.task import FlowMeta, Task

__all__ = ["Prepared", "prepare", "settle"]

logger = logging.getLogger("taskloom.sql")


class Prepared(Struct, frozen=True):
    """A settlement as rows, in parts, made before the transaction."""

    plan: Settlement
    parts: list[tuple[Settlement, Written]]
    """In each, an id stands for one thing only: so is it clear what an id that is refused means."""


class _Accepted(Struct, frozen=True):
    """What the tables of tasks took."""

    endings: list[Ending] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


def prepare(plan: Settlement, now: datetime) -> Prepared:
    """`plan` as rows. Raises `InvalidTaskError` for a task that no row can hold."""
    return Prepared(plan, [(part, settling.prepare(part, now)) for part in _parts(plan)])


def _parts(plan: Settlement) -> list[Settlement]:
    rest = replace(plan, endings=(), cancelled=(), revived=(), unqueued=())
    parts = [replace(rest, added=(), endings=tuple(each)) for each in _rounds(plan.endings)]
    parts[-1] = replace(parts[-1], added=plan.added)
    if plan.cancelled or plan.revived or plan.unqueued:
        parts.append(replace(plan, endings=(), added=()))
    return parts


def _rounds(endings: Sequence[Ending]) -> list[Iterable[Ending]]:
    """Groups in which no task occurs twice, as one may that was lost, came back and ended."""
    rounds: list[dict[str, Ending]] = [{}]
    for ending in endings:
        id = ending.delivery.task.id
        free = next((each for each in rounds if id not in each), None)
        if free is None:
            rounds.append(free := {})
        free[id] = ending
    return [each.values() for each in rounds]


def settle(conn: Connection, plan: Prepared, now: int, settle_part: SettlePart) -> FlowSettled:
    """Write it all, or nothing. Raises as `settle_part` does."""
    changes: Changes = {}
    accepted = _settle_tasks(conn, plan, now, settle_part, changes)
    new = [*plan.plan.flows, *(flow for ending in accepted.endings for flow in ending.flows)]
    opened = flows.open_flows(conn, [_new_row(flow) for flow in new], now)
    said = _what_was_said(accepted.endings)
    _say_cancelled(conn, said, accepted.cancelled, plan.plan.reason)
    touched = {flow.flow_id for flow in new}
    touched.update(said.timed_out, (row[0] for row in said.steps))
    found = flows.lock(conn, touched)
    changed = flows.advance(conn, found, said, now)
    news = _hand_over(
        conn, [flow for flow in found.values() if flow.state == "ready"], now, changes
    )
    sent = [found[each.record.flow.flow_id] for each in news]
    flows.write(conn, {flow.flow_id: flow for flow in (*changed, *sent)}.values())
    if plan.plan.projecting:
        _project(conn, [flow for flow in new if flow.flow_id in opened], news, moment(now))
    change_tallies(conn, changes)
    return FlowSettled(accepted.refused, news)


def _settle_tasks(
    conn: Connection, plan: Prepared, now: int, settle_part: SettlePart, changes: Changes
) -> _Accepted:
    accepted = _Accepted()
    for part, written in plan.parts:
        missed = settle_part(conn, written, now, changes)
        accepted.refused.extend(missed)
        gone = set(missed)
        accepted.endings.extend(e for e in part.endings if e.delivery.task.id not in gone)
        accepted.cancelled.extend(id for id in part.cancelled if id not in gone)
    return accepted


def _new_row(flow: NewFlow) -> flows.NewRow:
    return flow.flow_id, flow.total_steps, encode(flow.join).decode()


def _what_was_said(endings: Iterable[Ending]) -> Said:
    said = Said()
    for ending in endings:
        meta = ending.delivery.task.metadata.flow
        if meta is None:
            continue
        if ending.step is not None:
            _say(said, meta, ending.step)
        elif meta.is_timeout and ending.status.terminal:  # the time is over even if it was poison
            said.timed_out.add(meta.flow_id)
    return said


def _say(said: Said, meta: FlowMeta, step: FlowStepResult) -> None:
    said.steps.append(flows.step_row(meta.flow_id, step))
    if step.status == "fail" and meta.failure_policy == "abort":
        said.aborted.setdefault(meta.flow_id, step.step_index)


def _say_cancelled(conn: Connection, said: Said, ids: Sequence[str], reason: str) -> None:
    """Steps that were cancelled have failed."""
    for row in fetch(conn, ids).values():
        meta = read_task(row).metadata.flow
        if meta is not None and not (meta.is_join or meta.is_timeout):
            step = FlowStepResult(meta.step_index, "fail", error=f"cancelled: {reason}")
            _say(said, meta, step)


def _hand_over(
    conn: Connection, ready: Sequence[Flow], now: int, changes: Changes
) -> list[FlowNews]:
    """Add the joins of flows, and cancel what has not started of those that ended early."""
    templates = _templates(ready)
    ending = [flow for flow in ready if flow.flow_id in templates]
    steps = flows.read_steps(conn, list(templates))
    joins = {
        flow.flow_id: join_task(
            templates[flow.flow_id],
            steps[flow.flow_id],
            now=moment(now),
            end=flow.end or "completed",
        )
        for flow in ending
    }
    adding.insert(conn, full_rows(list(joins.values())), changes)
    cancelled = _cancel_the_rest(conn, ending, steps, now, changes)
    for flow in ending:
        flow.state, flow.sent_at = "sent", now
    return [
        FlowNews(
            flow.record(templates[flow.flow_id]),
            joins[flow.flow_id],
            tuple(cancelled.get(flow.flow_id, ())),
        )
        for flow in ending
    ]


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


def _cancel_the_rest(
    conn: Connection,
    ended: Iterable[Flow],
    steps: dict[str, list[FlowStepResult]],
    now: int,
    changes: Changes,
) -> dict[str, list[str]]:
    """Cancel the steps of flows that ended early which wait; their ids by flow.

    One that runs is left to its end, which counts for nothing any more.
    """
    missing: dict[str, dict[str, str]] = {}
    for flow in ended:
        if flow.end in FLOW_ERRORS:
            counted = {step.step_index for step in steps[flow.flow_id]}
            left = (index for index in range(flow.total) if index not in counted)
            of_flow = {step_id(flow.flow_id, index): flow.flow_id for index in left}
            missing.setdefault(FLOW_ERRORS[flow.end], {}).update(of_flow)
    cancelled: dict[str, list[str]] = {}
    for reason, owners in missing.items():
        # Whoever settles one of them holds it and wants the flow, which we hold: not to be waited
        # for. What is being claimed just now runs, and is left to its end.
        kept = set(cancel(conn, list(owners), reason, now, changes, patient=False))
        for id, flow_id in owners.items():
            if id not in kept:
                cancelled.setdefault(flow_id, []).append(id)
    return cancelled


def _project(
    conn: Connection, opened: Iterable[NewFlow], news: Iterable[FlowNews], at: datetime
) -> None:
    """Write the rows of entities whose flows began, or ended early."""
    rows = [flow_projection(flow.join, "processing", at) for flow in opened]
    for each in news:
        record = each.record
        if record.end in FLOW_ERRORS:
            error = FLOW_ERRORS[record.end]
            rows.append(flow_projection(record.flow.join, "failed", at, error=error))
    projections.upsert(conn, [row for row in rows if row is not None])
