"""Flows and what counted of their steps: functions of a connection inside a transaction.

A flow's row is read under a lock, changed as a value, and written back; the steps themselves are
only inserted. Everything takes many flows, locked in the order of their ids, so that two writers
with row locks cannot wait for each other. Times are microseconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, Literal

from msgspec import Struct, field
from msgspec.json import Decoder
from sqlalchemy import (
    BigInteger,
    Connection,
    Delete,
    Executable,
    Integer,
    Row,
    Select,
    Text,
    Update,
    and_,
    bindparam,
    delete,
    literal,
    or_,
    select,
    true,
    update,
)

from taskloom.codec import decode, encode
from taskloom.flows import FlowEnd, FlowStepResult, NewFlow
from taskloom.interfaces import BarrierState, FlowRecord
from taskloom.sql.dialect import Source, insert_into, over_rows, raw_bytes
from taskloom.sql.rows import moment
from taskloom.sql.schema import flow_steps, flows
from taskloom.task import Task

__all__ = [
    "Flow",
    "NewRow",
    "Said",
    "StepRow",
    "advance",
    "end_early",
    "fetch",
    "lock",
    "mark_sent",
    "open_flows",
    "prune",
    "read_steps",
    "record",
    "search",
    "step_row",
    "unsent",
    "write",
]

_f, _s = flows.c, flow_steps.c

NewRow = tuple[str, int, str | None]
"""A flow to open: its id, how many steps, its join as JSON."""
StepRow = tuple[str, int, str, str, str]
"""A step in the order of the table's columns."""

_IDS = Source(flow_id=Text())
_NEW = Source(flow_id=Text(), total=Integer(), join_body=Text())
_STEPS = Source(flow_id=Text(), step_index=Integer(), status=Text(), result=Text(), error=Text())
_FLOWS = Source(
    flow_id=Text(),
    counted=Integer(),
    failed=Integer(),
    state=Text(),
    end_=Text(),
    trigger=Integer(),
    ended_at=BigInteger(),
    sent_at=BigInteger(),
)


_COLUMNS = (
    *(_f.flow_id, _f.total, _f.counted, _f.failed, _f.state, _f.end_, _f.trigger),
    raw_bytes(_f.join_body).label("join_body"),
    *(_f.started_at, _f.ended_at, _f.sent_at),
)
"""A `Flow`, in the order of its fields."""

_decode_join = Decoder(Task[Any]).decode


class Flow(Struct):
    """A row, locked: change it and `write` it."""

    flow_id: str
    total: int
    counted: int
    failed: int
    state: Literal["open", "ready", "sent"]
    end: FlowEnd | None
    trigger: int | None
    join_body: bytes | None
    started_at: int
    ended_at: int | None
    sent_at: int | None

    def join(self) -> Task[Any] | None:
        """The join without results; None where none was given, or its bytes are none (any more)."""
        try:
            return None if self.join_body is None else _decode_join(self.join_body)
        except (ValueError, RecursionError):
            return None

    def record(self, join: Task[Any]) -> FlowRecord:
        """The row as people see it."""
        return FlowRecord(
            NewFlow(self.flow_id, self.total, join),
            self.state,
            self.end,
            self.counted,
            self.failed,
            moment(self.started_at),
            None if self.ended_at is None else moment(self.ended_at),
            self.trigger,
        )

    def barrier_state(self) -> BarrierState:
        """Where it stands, as `record_steps` says it."""
        early = self.end in ("aborted", "timed_out")
        return BarrierState(
            -1 if early else self.total - self.counted,
            joined=self.state == "sent",
            aborted=early,
            timed_out=self.end == "timed_out",
        )


class Said(Struct, frozen=True):
    """What is said about flows at one time, in the order in which it counts."""

    steps: list[StepRow] = field(default_factory=list)
    aborted: dict[str, int | None] = field(default_factory=dict)
    """Flows to abort, with the index of the step that is the reason."""
    timed_out: set[str] = field(default_factory=set)


def step_row(flow_id: str, step: FlowStepResult) -> StepRow:
    """A step as a row. Raises `TypeError` or `ValueError` for a result that JSON cannot hold."""
    result, error = encode(step.result).decode(), encode(step.error).decode()
    return flow_id, step.step_index, step.status, result, error


def open_flows(conn: Connection, rows: Sequence[NewRow], now: int) -> set[str]:
    """Insert flows; a known one is left as it is. The ids that were new."""
    return {id for result in over_rows(conn, _open, rows, now=now) for (id,) in result}


@cache
def _open() -> Executable:
    new = _NEW.table()
    values: dict[str, Any] = {
        "flow_id": new.c.flow_id,
        "total": new.c.total,
        "counted": literal(0),
        "failed": literal(0),
        "state": literal("open"),
        "join_body": new.c.join_body,
        "started_at": bindparam("now", type_=BigInteger()),
    }
    statement = insert_into(flows).from_select(list(values), select(*values.values()).where(true()))
    return statement.on_conflict_do_nothing(index_elements=["flow_id"]).returning(_f.flow_id)


def lock(conn: Connection, flow_ids: Iterable[str]) -> dict[str, Flow]:
    """The flows that are known, for this transaction alone; in the order of their ids."""
    rows = [(flow_id,) for flow_id in set(flow_ids)]
    found = (_flow(row) for result in over_rows(conn, _lock, rows) for row in result)
    return {flow.flow_id: flow for flow in found}


def _rows() -> Select[Any]:
    return select(*_COLUMNS)


def _flow(row: Row[Any]) -> Flow:
    values: tuple[Any, ...] = tuple(row)
    return Flow(*values)


@cache
def _lock() -> Select[Any]:
    ids = _IDS.table()
    query = _rows().where(_f.flow_id.in_(select(ids.c.flow_id)))
    return query.order_by(_f.flow_id).with_for_update()


def advance(conn: Connection, found: Mapping[str, Flow], said: Said, now: int) -> list[Flow]:
    """Apply what was said to the open flows among `found`; those, to be written.

    First all steps, then what aborts, then whether all have counted, then the time-outs.
    """
    going = {id: flow for id, flow in found.items() if flow.state == "open"}
    first: dict[tuple[str, int], StepRow] = {}
    for step in said.steps:
        # An index that the flow does not have is nobody's: an error would stop the neighbours.
        if step[0] in going and 0 <= step[1] < going[step[0]].total:
            first.setdefault(step[:2], step)
    for result in over_rows(conn, _keep, list(first.values())):
        for row in result:
            going[row.flow_id].counted += 1
            going[row.flow_id].failed += row.status == "fail"
    for flow in going.values():
        end = _end_of(flow, said)
        if end is not None:
            flow.state, flow.end, flow.ended_at = "ready", end, now
            flow.trigger = said.aborted.get(flow.flow_id)
    return list(going.values())


def _end_of(flow: Flow, said: Said) -> FlowEnd | None:
    if flow.flow_id in said.aborted:
        return "aborted"
    if flow.counted == flow.total:
        return "completed"
    return "timed_out" if flow.flow_id in said.timed_out else None


@cache
def _keep() -> Executable:
    new = _STEPS.table()
    names = [column.name for column in flow_steps.c]
    statement = insert_into(flow_steps).from_select(names, select(*new.c).where(true()))
    keys = ["flow_id", "step_index"]
    return statement.on_conflict_do_nothing(index_elements=keys).returning(_s.flow_id, _s.status)


def write(conn: Connection, changed: Iterable[Flow]) -> None:
    """Write locked flows back."""
    rows = [
        (f.flow_id, f.counted, f.failed, f.state, f.end, f.trigger, f.ended_at, f.sent_at)
        for f in changed
    ]
    for result in over_rows(conn, _write, rows):
        result.close()


@cache
def _write() -> Update:
    new = _FLOWS.table()
    values = {column.name: column for column in new.c if column.name != "flow_id"}
    return update(flows).where(_f.flow_id == new.c.flow_id).values(**values)


def record(
    conn: Connection, flow_id: str, steps: list[StepRow], abort: bool, now: int
) -> BarrierState:
    """Count steps of one flow, and abort it if asked to. As `FlowBarrier.record_steps`."""
    found = lock(conn, [flow_id])
    if flow_id not in found:
        return BarrierState(-1, known=False)
    flow = found[flow_id]
    for row in steps:
        if not 0 <= row[1] < flow.total:
            raise ValueError(f"flow {flow_id} has no step {row[1]}")
    trigger = next((row[1] for row in steps if row[2] == "fail"), None)
    said = Said(steps, {flow_id: trigger} if abort else {})
    write(conn, advance(conn, found, said, now))
    return flow.barrier_state()


def end_early(conn: Connection, flow_id: str, timed_out: bool, now: int) -> bool:
    """Abort an open flow, or let it time out; False when it is not open."""
    said = Said([], {}, {flow_id}) if timed_out else Said([], {flow_id: None})
    ended = advance(conn, lock(conn, [flow_id]), said, now)
    write(conn, ended)
    return bool(ended)


def mark_sent(conn: Connection, flow_id: str, now: int) -> bool:
    """Note that the join of a `ready` flow was handed over; False when it is not `ready`."""
    statement = update(flows).where(_f.flow_id == flow_id, _f.state == "ready")
    return conn.execute(statement.values(state="sent", sent_at=now)).rowcount > 0


def fetch(conn: Connection, flow_id: str) -> Flow | None:
    """A flow as it is, without a lock."""
    row = conn.execute(_rows().where(_f.flow_id == flow_id)).one_or_none()
    return None if row is None else _flow(row)


def read_steps(conn: Connection, flow_ids: Sequence[str]) -> dict[str, list[FlowStepResult]]:
    """What counted of each flow, ordered by index."""
    steps: dict[str, list[FlowStepResult]] = {flow_id: [] for flow_id in flow_ids}
    for result in over_rows(conn, _steps, [(flow_id,) for flow_id in flow_ids]):
        for row in result:
            steps[row.flow_id].append(_step(row))
    return steps


@cache
def _steps() -> Select[Any]:
    ids = _IDS.table()
    texts = (raw_bytes(_s.result).label("result"), raw_bytes(_s.error).label("error"))
    query = select(_s.flow_id, _s.step_index, _s.status, *texts)
    return query.where(_s.flow_id.in_(select(ids.c.flow_id))).order_by(_s.flow_id, _s.step_index)


def _step(row: Row[Any]) -> FlowStepResult:
    try:
        return FlowStepResult(row.step_index, row.status, decode(row.result), decode(row.error))
    except (ValueError, RecursionError) as error:
        # Damaged bytes must not keep the join from those steps that can be read.
        return FlowStepResult(row.step_index, row.status, error=f"unreadable: {error}")


def search(conn: Connection, limit: int, after: str | None) -> list[Flow]:
    """Flows that have a join, the newest first; none when `after` is not known (any more)."""
    query = _rows().where(_f.join_body.is_not(None)).limit(limit)
    if after is not None:
        last = conn.execute(select(_f.started_at).where(_f.flow_id == after)).scalar_one_or_none()
        if last is None:
            return []
        older = and_(_f.started_at == last, _f.flow_id < after)
        query = query.where(_f.started_at <= last, or_(_f.started_at < last, older))
    rows = conn.execute(query.order_by(_f.started_at.desc(), _f.flow_id.desc()))
    return [_flow(row) for row in rows]


def unsent(conn: Connection, before: int, limit: int) -> list[Flow]:
    """Flows with a join that have been `ready` since before a time, the oldest first."""
    # Spelled out in the statement: only so is the partial index seen to fit.
    ready = _f.state == literal("ready", literal_execute=True)
    query = _rows().where(ready, _f.ended_at < before, _f.join_body.is_not(None))
    rows = conn.execute(query.order_by(_f.ended_at).limit(limit))
    return [_flow(row) for row in rows]


def prune(conn: Connection, before: int, limit: int) -> int:
    """Delete at most `limit` flows whose join was handed over before a time, the oldest first."""
    over = select(_f.flow_id).where(_f.sent_at < before).order_by(_f.sent_at).limit(limit)
    rows = [(flow_id,) for (flow_id,) in conn.execute(over)]
    for statement in (_forget_steps, _forget_flows):
        for result in over_rows(conn, statement, rows):
            result.close()
    return len(rows)


@cache
def _forget_steps() -> Delete:
    return delete(flow_steps).where(_s.flow_id.in_(select(_IDS.table().c.flow_id)))


@cache
def _forget_flows() -> Delete:
    return delete(flows).where(_f.flow_id.in_(select(_IDS.table().c.flow_id)))
