"""Broken flow barriers: in memory what counts and ends, on SQLite what is settled with it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from msgspec.structs import replace
from planting import fault

from taskloom.interfaces import BarrierState, FlowBarrier
from taskloom.memory import InMemoryFlowBarrier
from taskloom.memory import flow_barrier as memory
from taskloom.sql import SqlFlowBarrier, flow_settling, flows, settling
from taskloom.task import TaskStatus

_NEVER = datetime.max.replace(tzinfo=UTC)
MEMORY, SQLITE = "barrier", "flows on SQLite"


@fault(MEMORY, "a step counts each time", InMemoryFlowBarrier, "_count")
def _(original, self, flow, result, body):
    repeated = result.step_index in flow.steps
    original(self, flow, result, body)
    flow.total -= repeated


@fault(MEMORY, "of each index the last result stays", InMemoryFlowBarrier, "_count")
def _(original, self, flow, result, body):
    flow.steps.pop(result.step_index, None)
    original(self, flow, result, body)


@fault(MEMORY, "failed steps are not counted", InMemoryFlowBarrier, "_count")
def _(original, self, flow, result, body):
    if result.status == "success":
        original(self, flow, result, body)


@fault(MEMORY, "failures are counted again by repeats", InMemoryFlowBarrier, "_count")
def _(original, self, flow, result, body):
    again = result.step_index in flow.steps
    original(self, flow, result, body)
    flow.failed += again and result.status == "fail"


@fault(MEMORY, "opening again opens anew", InMemoryFlowBarrier, "init_barrier")
async def _(original, self, flow_id, total_steps, *, join=None):
    self._flows.pop(flow_id, None)
    await original(self, flow_id, total_steps, join=join)


@fault(MEMORY, "opening again reopens what has ended", InMemoryFlowBarrier, "init_barrier")
async def _(original, self, flow_id, total_steps, *, join=None):
    known = self._flows.get(flow_id)
    if known is not None and known.state != "open":
        del self._flows[flow_id]
    await original(self, flow_id, total_steps, join=join)


@fault(MEMORY, "an abort forgets the steps beside it", InMemoryFlowBarrier, "record_steps")
async def _(original, self, flow_id, results, *, abort=False):
    return await original(self, flow_id, [] if abort else results, abort=abort)


@fault(MEMORY, "the last step wins over the abort beside it", InMemoryFlowBarrier, "record_steps")
async def _(original, self, flow_id, results, *, abort=False):
    state = await original(self, flow_id, results)
    return await original(self, flow_id, [], abort=True) if abort and state.remaining else state


@fault(MEMORY, "a complete flow is aborted", InMemoryFlowBarrier, "mark_aborted")
async def _(original, self, flow_id, *, timed_out=False):
    flow = self._flows.get(flow_id)
    if flow is not None and flow.state == "ready":
        flow.state = "open"
    return await original(self, flow_id, timed_out=timed_out)


@fault(MEMORY, "an abort is news each time", InMemoryFlowBarrier, "mark_aborted")
async def _(original, self, flow_id, *, timed_out=False):
    await original(self, flow_id, timed_out=timed_out)
    flow = self._flows.get(flow_id)
    return flow is not None and flow.end != "completed"


@fault(MEMORY, "a time-out is an abort", InMemoryFlowBarrier, "mark_aborted")
async def _(original, self, flow_id, *, timed_out=False):
    return await original(self, flow_id)


@fault(MEMORY, "late steps of an aborted flow count", InMemoryFlowBarrier, "record_steps")
async def _(original, self, flow_id, results, *, abort=False):
    flow = self._flows.get(flow_id)
    if flow is not None and flow.end in ("aborted", "timed_out"):
        for result in results:
            self._count(flow, result, memory.encode(result))
    return await original(self, flow_id, results, abort=abort)


@fault(MEMORY, "the trigger is the last failure", InMemoryFlowBarrier, "_end")
def _(original, self, flow_id, flow, end):
    original(self, flow_id, flow, end)
    if flow.trigger is not None:
        flow.trigger = min(flow.steps)


@fault(MEMORY, "an index outside is skipped", InMemoryFlowBarrier, "record_steps")
async def _(original, self, flow_id, results, *, abort=False):
    total = self._flows[flow_id].total if flow_id in self._flows else 0
    inside = [result for result in results if 0 <= result.step_index < total]
    return await original(self, flow_id, inside, abort=abort)


@fault(MEMORY, "an index outside is noticed half-way", InMemoryFlowBarrier, "record_steps")
async def _(original, self, flow_id, results, *, abort=False):
    for result in results[:-1]:
        await original(self, flow_id, [result])
    return await original(self, flow_id, results[-1:], abort=abort)


@fault(MEMORY, "counting is not atomic", InMemoryFlowBarrier, "record_steps")
async def _(original, self, flow_id, results, *, abort=False):
    flow = self._flows.get(flow_id)
    left = None if flow is None else flow.total - len(flow.steps)
    await asyncio.sleep(0)
    state = await original(self, flow_id, results, abort=abort)
    return state if left is None or left < 3 else replace(state, remaining=left - len(results))


@fault(MEMORY, "a join can be marked before the end", InMemoryFlowBarrier, "mark_joined")
async def _(original, self, flow_id):
    if flow_id in self._flows and self._flows[flow_id].state == "open":
        self._ready[flow_id] = self._flows[flow_id]
    return await original(self, flow_id)


@fault(MEMORY, "a join is marked again and again", InMemoryFlowBarrier, "mark_joined")
async def _(original, self, flow_id):
    return await original(self, flow_id) or flow_id in self._sent


@fault(MEMORY, "joined is not said", memory, "_state")
def _(original, flow):
    return replace(original(flow), joined=False)


@fault(MEMORY, "an unknown flow looks aborted", InMemoryFlowBarrier, "record_steps")
async def _(original, self, flow_id, results, *, abort=False):
    state = await original(self, flow_id, results, abort=abort)
    return state if state.known else BarrierState(-1, aborted=True)


@fault(MEMORY, "an unknown flow is opened by its steps", InMemoryFlowBarrier, "record_steps")
async def _(original, self, flow_id, results, *, abort=False):
    await self.init_barrier(flow_id, 10)
    return await original(self, flow_id, results, abort=abort)


@fault(MEMORY, "results come as they came", InMemoryFlowBarrier, "get_step_results")
async def _(original, self, flow_id):
    flow = self._flows.get(flow_id)
    return [] if flow is None else [memory._decode_step(body) for body in flow.steps.values()]


@fault(MEMORY, "an aborted flow with all its steps is complete", InMemoryFlowBarrier, "is_complete")
async def _(original, self, flow_id):
    flow = self._flows.get(flow_id)
    return flow is not None and len(flow.steps) == flow.total


@fault(MEMORY, "the start moves with each step", InMemoryFlowBarrier, "record_steps")
async def _(original, self, flow_id, results, *, abort=False):
    if flow_id in self._flows:
        self._flows[flow_id].started_at = self._clock.now()
    return await original(self, flow_id, results, abort=abort)


@fault(MEMORY, "unsent shows what was sent", InMemoryFlowBarrier, "mark_joined")
async def _(original, self, flow_id):
    flow = self._ready.get(flow_id)
    done = await original(self, flow_id)
    if flow is not None:
        self._ready[flow_id] = flow
    return done


@fault(MEMORY, "unsent ignores the time", InMemoryFlowBarrier, "unsent")
async def _(original, self, *, ready_before, limit):
    return await original(self, ready_before=_NEVER, limit=limit)


@fault(MEMORY, "time-outs are never unsent", InMemoryFlowBarrier, "unsent")
async def _(original, self, *, ready_before, limit):
    found = await original(self, ready_before=ready_before, limit=limit)
    return [each for each in found if each.end != "timed_out"]


@fault(MEMORY, "prune forgets what is ready", InMemoryFlowBarrier, "prune")
async def _(original, self, *, sent_before, limit):
    for flow_id in list(self._ready):
        await self.mark_joined(flow_id)
    return await original(self, sent_before=_NEVER, limit=limit)


@fault(MEMORY, "prune goes by the end, not by the join", InMemoryFlowBarrier, "mark_joined")
async def _(original, self, flow_id):
    done = await original(self, flow_id)
    if done:
        self._sent[flow_id].sent_at = self._sent[flow_id].ended_at
    return done


@fault(MEMORY, "prune ignores its limit", InMemoryFlowBarrier, "prune")
async def _(original, self, *, sent_before, limit):
    return await original(self, sent_before=sent_before, limit=1000)


@fault(MEMORY, "pages repeat their last flow", InMemoryFlowBarrier, "_age")
def _(original, self, flow_id):
    return original(self, flow_id)[0], ""


@fault(MEMORY, "the join is the caller's own", memory, "copied_task")
def _(original, task):
    return task


@fault(SQLITE, "lost endings count", flow_settling, "_settle_tasks")
def _(original, conn, plan, now, settle_part, changes):
    accepted = original(conn, plan, now, settle_part, changes)
    return replace(accepted, endings=list(plan.plan.endings))


@fault(SQLITE, "two words on one task are one", flow_settling, "_rounds")
def _(original, endings):
    return [endings]


@fault(SQLITE, "flows of endings are forgotten", flow_settling, "_new_row")
def _(original, flow):
    return (*original(flow)[:2], None)


@fault(SQLITE, "nobody hands over the join", flow_settling, "_hand_over")
def _(original, conn, ready, now, changes):
    return []


@fault(SQLITE, "the join is handed over again and again", flows, "write")
def _(original, conn, changed):
    again = [replace(each, state="ready") if each.sent_at else each for each in changed]
    original(conn, again)


@fault(SQLITE, "the news are of a join that was not added", flow_settling.adding, "insert")
def _(original, conn, rows, changes):
    return original(conn, [row for row in rows if row[2] != "join"], changes)


@fault(SQLITE, "a join that runs is written over", flow_settling.adding, "insert")
def _(original, conn, rows, changes):
    return flow_settling.adding.put_over(conn, rows, changes)


@fault(SQLITE, "a failure never aborts", flow_settling, "_say")
def _(original, said, meta, step):
    original(said, replace(meta, failure_policy="continue"), step)


@fault(SQLITE, "a failure always aborts", flow_settling, "_say")
def _(original, said, meta, step):
    original(said, replace(meta, failure_policy="abort"), step)


@fault(SQLITE, "the sentinel counts before the steps", flows, "_end_of")
def _(original, flow, said):
    return "timed_out" if flow.flow_id in said.timed_out else original(flow, said)


@fault(SQLITE, "the last step wins over the abort beside it", flows, "_end_of")
def _(original, flow, said):
    return "completed" if flow.counted == flow.total else original(flow, said)


@fault(SQLITE, "a sentinel reopens", flows, "advance")
def _(original, conn, found, said, now):
    for flow in found.values():
        if flow.flow_id in said.timed_out:
            flow.state = "open"
    return original(conn, found, said, now)


@fault(SQLITE, "a sentinel that goes on ends the flow", flow_settling, "_what_was_said")
def _(original, endings):
    return original([replace(each, status=TaskStatus.EXECUTED) for each in endings])


@fault(SQLITE, "an abort leaves what waits", flow_settling, "_cancel_the_rest")
def _(original, conn, ended, steps, now, changes):
    return {}


@fault(SQLITE, "an abort cancels what runs", flow_settling, "_cancel_the_rest")
def _(original, conn, ended, steps, now, changes):
    cancelled = original(conn, ended, steps, now, changes)
    conn.exec_driver_sql("UPDATE taskloom_tasks SET status = 'cancelled', due_at = NULL")
    return cancelled


@fault(SQLITE, "cancelled steps do not count", flow_settling, "_say_cancelled")
def _(original, conn, said, ids, reason):
    pass


@fault(SQLITE, "steps count that could not be cancelled", flow_settling, "_say_cancelled")
def _(original, conn, said, ids, reason):
    rows = conn.exec_driver_sql("SELECT id FROM taskloom_tasks WHERE status = 'processing'")
    original(conn, said, [*ids, *(row[0] for row in rows)] if ids else ids, reason)


@fault(SQLITE, "whatever is cancelled counts as a step", flow_settling, "read_task")
def _(original, row):
    task = original(row)
    if task.metadata.flow is None:
        return task
    flow = replace(task.metadata.flow, is_join=False, is_timeout=False, step_index=0)
    return task.replace(metadata=replace(task.metadata, flow=flow))


@fault(SQLITE, "a settle that finds a flow ready leaves it", flow_settling, "_hand_over")
def _(original, conn, ready, now, changes):
    return original(conn, [flow for flow in ready if flow.ended_at == now], now, changes)


@fault(SQLITE, "an index that is nobody's is an error", flows, "advance")
def _(original, conn, found, said, now):
    for row in said.steps:
        if row[0] in found and row[1] >= found[row[0]].total:
            raise ValueError(row)
    return original(conn, found, said, now)


@fault(SQLITE, "steps of the first flow only", flow_settling, "_what_was_said")
def _(original, endings):
    said = original(endings)
    first = said.steps[0][0] if said.steps else ""
    return replace(said, steps=[row for row in said.steps if row[0] == first])


@fault(SQLITE, "results come as they came", flows, "read_steps")
def _(original, conn, flow_ids):
    steps = original(conn, flow_ids)
    return {id: sorted(of, key=lambda s: str(s.step_index)) for id, of in steps.items()}


@fault(SQLITE, "counters are not written", flows, "write")
def _(original, conn, changed):
    original(conn, [replace(each, counted=0) if each.state == "open" else each for each in changed])


@fault(SQLITE, "a lost lease is an error", settling, "settle")
def _(original, conn, plan, now, changes):
    try:
        return original(conn, plan, now, changes)
    except settling.LeaseLostError:
        raise ValueError from None


@fault(SQLITE, "a settle takes two transactions", SqlFlowBarrier, "settle")
async def _(original, self, plan):
    refused = await self.storage.settle(plan)
    found = await original(self, replace(plan, endings=(), added=()))
    return replace(found, refused=[*refused, *found.refused])


@fault(SQLITE, "there is no settle", SqlFlowBarrier, "settle")
async def _(original, self, plan):
    return await FlowBarrier.settle(self, plan)
