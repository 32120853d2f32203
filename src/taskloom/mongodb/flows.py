"""Flows and what counted of their steps.

A flow's document has the `marks` of its steps, 1 for those that failed: which steps count, and when
the flow is over, is decided by one update of one document, transaction or not. Their results are
documents of their own, written before, for a document holds 16 MB. Times are microseconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from msgspec import Struct, field
from msgspec.json import Decoder
from pymongo import ReturnDocument

from taskloom.codec import decode, encode
from taskloom.flows import FlowEnd, FlowStepResult, NewFlow
from taskloom.interfaces import BarrierState, FlowRecord
from taskloom.mongodb.asking import by_ids
from taskloom.mongodb.changing import insert_new
from taskloom.mongodb.rows import Document, moment
from taskloom.mongodb.schema import EVER, Collection, Collections
from taskloom.mongodb.transacting import Writing
from taskloom.task import Task

__all__ = [
    "Flow",
    "Said",
    "advance",
    "end_early",
    "fetch",
    "mark_sent",
    "new_document",
    "prune",
    "read_steps",
    "record",
    "search",
    "unsent",
]

_WITHOUT_MARKS = {"marks": 0}

_decode_join = Decoder(Task[Any]).decode


class Flow(Struct, frozen=True):
    """A document as it was read."""

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

    @classmethod
    def read(cls, found: Mapping[str, Any]) -> Flow:
        return cls(
            found["_id"],
            found["total"],
            found["counted"],
            found["failed"],
            found["state"],
            found.get("end"),
            found.get("trigger"),
            found.get("join"),
            found["started"],
            found.get("ended"),
        )

    def join(self) -> Task[Any] | None:
        """The join without results; None where none was given, or its bytes are none (any more)."""
        try:
            return None if self.join_body is None else _decode_join(self.join_body)
        except (ValueError, RecursionError):
            return None

    def record(self, join: Task[Any]) -> FlowRecord:
        """The flow as people see it."""
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
    """What is said about one flow at one time, in the order in which it counts."""

    steps: list[FlowStepResult] = field(default_factory=list)
    aborts: bool = False
    trigger: int | None = None
    """The index of the step that is the reason to abort it."""
    times_out: bool = False


def new_document(flow_id: str, total: int, join: Task[Any] | None, now: int) -> Document:
    """A flow that is open."""
    new: Document = {"_id": flow_id, "total": total, "marks": {}, "counted": 0, "failed": 0}
    new |= {"state": "open", "started": now}
    return new if join is None else {**new, "join": encode(join)}


async def fetch(at: Writing, flows: Collection, flow_ids: Iterable[str]) -> dict[str, Flow]:
    """The flows that are known, by id."""
    found = await by_ids(at, flows, flow_ids, _WITHOUT_MARKS)
    return {each["_id"]: Flow.read(each) for each in found}


async def record(
    at: Writing, kept: Collections, flow_id: str, said: Said, now: int
) -> BarrierState:
    """Count steps of one flow, and abort it if it is said. As `FlowBarrier.record_steps`."""
    flow = (await fetch(at, kept.flows, [flow_id])).get(flow_id)
    if flow is None:
        return BarrierState(-1, known=False)
    for step in said.steps:
        if not 0 <= step.step_index < flow.total:
            raise ValueError(f"flow {flow_id} has no step {step.step_index}")
    return (await advance(at, kept, flow, said, now)).barrier_state()


async def advance(at: Writing, kept: Collections, flow: Flow, said: Said, now: int) -> Flow:
    """Apply what was said to a flow if it is open; the flow as it is now.

    First all steps, then what aborts, then whether all have counted, then the time-out. An index
    that the flow does not have is nobody's: an error would stop the neighbours.
    """
    if flow.state != "open":
        return flow
    first: dict[int, FlowStepResult] = {}
    for step in said.steps:
        if 0 <= step.step_index < flow.total:
            first.setdefault(step.step_index, step)
    marks = await _keep(at, kept.flow_steps, flow.flow_id, first)
    changed = await kept.flows.find_one_and_update(
        {"_id": flow.flow_id, "state": "open"},
        _counted(marks, said, now),
        projection=_WITHOUT_MARKS,
        return_document=ReturnDocument.AFTER,
        session=at.session,
    )
    if changed is None:  # somebody else has ended it just now
        return (await fetch(at, kept.flows, [flow.flow_id])).get(flow.flow_id, flow)
    return Flow.read(changed)


async def _keep(
    at: Writing, steps: Collection, flow_id: str, first: Mapping[int, FlowStepResult]
) -> dict[str, int]:
    """Keep results; of each index the first stays. Their marks, 1 for those that failed."""
    new = {_step_id(flow_id, index): _step(flow_id, step) for index, step in first.items()}
    made = await insert_new(at, steps, list(new.values()))
    rows = [new[id] for id in made]
    others = [id for id in new if id not in made]
    rows += await by_ids(at, steps, others, {"index": 1, "status": 1})
    return {str(row["index"]): int(row["status"] == "fail") for row in rows}


def _step_id(flow_id: str, index: int) -> str:
    return f"{flow_id}/{index}"


def _step(flow_id: str, step: FlowStepResult) -> Document:
    return {
        "_id": _step_id(flow_id, step.step_index),
        "flow": flow_id,
        "index": step.step_index,
        "status": step.status,
        "result": encode(step.result),
        "error": step.error,
    }


def _counted(marks: Mapping[str, int], said: Said, now: int) -> list[Document]:
    """The update that adds marks, those that are there staying, and ends the flow if it is over."""
    all_marks = {"$objectToArray": "$marks"}
    failures = {"$map": {"input": all_marks, "in": "$$this.v"}}
    ends = [
        {"case": {"$literal": said.aborts}, "then": "aborted"},
        {"case": {"$eq": ["$counted", "$total"]}, "then": "completed"},
        {"case": {"$literal": said.times_out}, "then": "timed_out"},
    ]
    is_over = {"$ne": ["$end", None]}
    return [
        {"$set": {"marks": {"$mergeObjects": [{"$literal": dict(marks)}, "$marks"]}}},
        {"$set": {"counted": {"$size": all_marks}, "failed": {"$sum": failures}}},
        {"$set": {"end": {"$switch": {"branches": ends, "default": None}}}},
        {
            "$set": {
                "state": {"$cond": [is_over, "ready", "open"]},
                "ended": {"$cond": [is_over, now, None]},
                "trigger": {"$literal": said.trigger if said.aborts else None},
            }
        },
    ]


async def end_early(
    at: Writing, kept: Collections, flow_id: str, timed_out: bool, now: int
) -> bool:
    """Abort an open flow, or let it time out; False when it is not open."""
    said = Said(times_out=timed_out, aborts=not timed_out)
    changed = await kept.flows.update_one(
        {"_id": flow_id, "state": "open"}, _counted({}, said, now), session=at.session
    )
    return changed.modified_count > 0


async def mark_sent(at: Writing, flows: Collection, flow_id: str, now: int) -> bool:
    """Note that the join of a `ready` flow was handed over; False when it is not `ready`."""
    sent = {"$set": {"state": "sent", "sent": now}}
    ready = {"_id": flow_id, "state": "ready"}
    return (await flows.update_one(ready, sent, session=at.session)).modified_count > 0


async def read_steps(
    at: Writing, kept: Collections, flow_ids: Sequence[str]
) -> dict[str, list[FlowStepResult]]:
    """What counted of each flow, ordered by index."""
    steps: dict[str, list[FlowStepResult]] = {flow_id: [] for flow_id in flow_ids}
    for flow in await by_ids(at, kept.flows, flow_ids, {"marks": 1}):
        found = kept.flow_steps.find({"flow": flow["_id"]}, session=at.session).sort("index", 1)
        # One that was kept when the flow had ended has no mark.
        steps[flow["_id"]] = [
            _read_step(each) async for each in found if str(each["index"]) in flow["marks"]
        ]
    return steps


def _read_step(found: Mapping[str, Any]) -> FlowStepResult:
    try:
        result = decode(found["result"])
    except (ValueError, RecursionError) as error:
        # Damaged bytes must not keep the join from those steps that can be read.
        return FlowStepResult(found["index"], found["status"], error=f"unreadable: {error}")
    return FlowStepResult(found["index"], found["status"], result, found["error"])


async def search(flows: Collection, limit: int, after: str | None) -> list[Flow]:
    """Flows that have a join, the newest first; none when `after` is not known (any more)."""
    asked: Document = {"join": {"$exists": True}}
    if after is not None:
        last = await flows.find_one({"_id": after}, {"started": 1})
        if last is None:
            return []
        older = {"started": last["started"], "_id": {"$lt": after}}
        asked["$or"] = [{"started": {"$lt": last["started"]}}, older]
    return await _found(flows, asked, [("started", -1), ("_id", -1)], limit)


async def unsent(flows: Collection, before: int, limit: int) -> list[Flow]:
    """Flows with a join that have been `ready` since before a time, the oldest first."""
    ready = {"state": "ready", "ended": {"$lt": before}, "join": {"$exists": True}}
    return await _found(flows, ready, [("ended", 1), ("_id", 1)], limit)


async def _found(
    flows: Collection, asked: Document, order: list[tuple[str, int]], limit: int
) -> list[Flow]:
    if limit <= 0:  # to MongoDB 0 means all
        return []
    found = flows.find(asked, _WITHOUT_MARKS).sort(order).limit(limit)
    return [Flow.read(each) async for each in found]


async def prune(at: Writing, kept: Collections, before: int, limit: int) -> int:
    """Delete at most `limit` flows whose join was handed over before a time, the oldest first."""
    if limit <= 0:
        return 0
    over = {"sent": {"$gt": EVER, "$lt": before}}
    found = kept.flows.find(over, {"_id": 1}, session=at.session).sort("sent", 1).limit(limit)
    ids = [each["_id"] async for each in found]
    if not ids:
        return 0
    # The flow last: as long as it is there, this can be done again.
    await kept.flow_steps.delete_many({"flow": {"$in": ids}}, session=at.session)
    gone = await kept.flows.delete_many({"_id": {"$in": ids}}, session=at.session)
    return gone.deleted_count
