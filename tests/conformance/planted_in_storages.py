"""Broken storages."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
from msgspec import UNSET
from planting import fault

from taskloom.memory import InMemoryStorage, archive, writes
from taskloom.memory import storage as storages
from taskloom.memory.shelves import Row, Shelves
from taskloom.memory.writes import Writer
from taskloom.task import TaskStatus

_NEVER = datetime.max.replace(tzinfo=UTC)


@fault("storage", "settle ignores the epoch", Writer, "_end")
def _(original, self, ending, fenced):
    row = self._shelves.rows.get(ending.delivery.task.id)
    receipt = row.epoch if row else 0
    delivery = msgspec.structs.replace(ending.delivery, receipt=receipt)
    return original(self, msgspec.structs.replace(ending, delivery=delivery), fenced)


@fault("storage", "children of lost endings are added", Writer, "_end")
def _(original, self, ending, fenced):
    self._add(ending.children)
    return original(self, ending, fenced)


@fault("storage", "children are forgotten", Writer, "_end")
def _(original, self, ending, fenced):
    return original(self, msgspec.structs.replace(ending, children=()), fenced)


@fault("storage", "settle does not say what was lost", Writer, "_end")
def _(original, self, ending, fenced):
    original(self, ending, fenced)
    return True


@fault("storage", "a repeated settle is refused", Writer, "_end")
def _(original, self, ending, fenced):
    row = self._shelves.rows.get(ending.delivery.task.id)
    waits = row is not None and row.task.status is not TaskStatus.PROCESSING
    return not (fenced and waits) and original(self, ending, fenced)


@fault("storage", "a terminal status is overwritten", Writer, "_end")
def _(original, self, ending, fenced):
    row = self._shelves.rows.get(ending.delivery.task.id)
    if row is None or not row.task.status.terminal or row.epoch != ending.delivery.receipt:
        return original(self, ending, fenced)
    self._shelves.put(Row(self._ended(ending, row), row.epoch))
    return True


@fault("storage", "a queue's delivery overwrites a terminal status", Writer, "_end")
def _(original, self, ending, fenced):
    row = self._shelves.rows.get(ending.delivery.task.id)
    if fenced or row is None:
        return original(self, ending, fenced)
    self._shelves.put(Row(self._ended(ending, row), row.epoch + 1))
    return True


@fault("storage", "a queue's delivery is not stored when there is no row", Writer, "_end")
def _(original, self, ending, fenced):
    return ending.delivery.task.id in self._shelves.rows and original(self, ending, fenced)


@fault("storage", "a queue's delivery leaves the epoch", Writer, "_end")
def _(original, self, ending, fenced):
    row = self._shelves.rows.get(ending.delivery.task.id)
    done = original(self, ending, fenced)
    if row is not None and done and not fenced:
        self._shelves.put(Row(self._shelves.rows[row.task.id].task, row.epoch))
    return done


@fault("storage", "no result becomes None", Writer, "_ended")
def _(original, self, ending, row):
    task = original(self, ending, row)
    return task.replace(execution_result=None) if task.execution_result is UNSET else task


@fault("storage", "stats are replaced by none", Writer, "_ended")
def _(original, self, ending, row):
    return original(self, ending, row).replace(execution_stats=ending.stats or {})


@fault("storage", "a task that runs is cancelled", Writer, "_cancel")
def _(original, self, id, reason):
    row = self._shelves.rows.get(id)
    if row is not None and row.task.status is TaskStatus.PROCESSING:
        self._shelves.put(Row(row.task.replace(status=TaskStatus.SCHEDULED), row.epoch + 1))
    return original(self, id, reason)


@fault("storage", "a cancellation leaves the epoch", Writer, "_cancel")
def _(original, self, id, reason):
    done = original(self, id, reason)
    if done:
        row = self._shelves.rows[id]
        self._shelves.put(Row(row.task.replace(status=TaskStatus.QUEUED), row.epoch - 1))
        self._shelves.put(Row(row.task, row.epoch - 1))
    return done


@fault("storage", "a queued task is not cancelled", Writer, "_cancel")
def _(original, self, id, reason):
    row = self._shelves.rows.get(id)
    return (not row or row.task.status is not TaskStatus.QUEUED) and original(self, id, reason)


@fault("storage", "the reason of a cancellation is lost", Writer, "_cancel")
def _(original, self, id, reason):
    return original(self, id, "")


@fault("storage", "a task that runs is revived", Writer, "_revive")
def _(original, self, task):
    if task.id in self._shelves.rows:
        self._shelves.put(Row(task, self._shelves.rows[task.id].epoch + 1))
    return task.id in self._shelves.rows


@fault("storage", "added tasks replace known ones", Writer, "_add")
def _(original, self, tasks):
    for task in tasks:
        self._shelves.put(Row(task))


@fault("storage", "a settle that fails has written half", writes, "_private")
def _(original, plan):
    return plan


@fault("storage", "add replaces a known task", InMemoryStorage, "add")
async def _(original, self, tasks):
    for task in tasks:
        self._shelves.put(Row(storages.copied_task(task)))
    return list(tasks)


@fault("storage", "add keeps what came before an error", InMemoryStorage, "add")
async def _(original, self, tasks):
    return [new for task in tasks for new in await original(self, [task])]


@fault("storage", "the stored task is the caller's own", storages, "copied_task")
def _(original, task):
    return task


@fault("storage", "get answers in an order of its own", InMemoryStorage, "get")
async def _(original, self, ids):
    return await original(self, sorted(ids))


@fault("storage", "a claim gives a task to two", InMemoryStorage, "claim_due")
async def _(original, self, limit, **kwargs):
    rows = dict(self._shelves.rows)
    taken = await original(self, limit, **kwargs)
    if taken and taken[-1].delivery_count == 1:
        self._shelves.put(rows[taken[-1].task.id])
    return taken


@fault("storage", "a claim leaves the epoch", InMemoryStorage, "_lease")
def _(original, self, row, now, until):
    return original(self, msgspec.structs.replace(row, epoch=0), now, until)


@fault("storage", "a claim takes the last first", InMemoryStorage, "claim_due")
async def _(original, self, limit, **kwargs):
    return (await original(self, limit, **kwargs))[::-1]


@fault("storage", "a claim ignores its queue", InMemoryStorage, "claim_due")
async def _(original, self, limit, *, queue_id=None, **kwargs):
    return await original(self, limit, **kwargs)


@fault("storage", "a claim ignores the time given", InMemoryStorage, "claim_due")
async def _(original, self, limit, *, now=None, **kwargs):
    return await original(self, limit, **kwargs)


@fault("storage", "a claim looks at queues one after the other", Shelves, "ripe")
def _(original, self, shelves, is_ripe):
    for shelf in shelves:
        yield from original(self, [shelf], is_ripe)


@fault("storage", "a lease never ends", InMemoryStorage, "_lapse")
def _(original, self, now):
    return 0


@fault("storage", "recovery ignores leases", InMemoryStorage, "recover_stale")
async def _(original, self, *, now, stale_after):
    self._lapse(_NEVER - timedelta(days=9))
    return await original(self, now=now, stale_after=stale_after)


@fault("storage", "recovery leaves the epoch", InMemoryStorage, "_wait_again")
def _(original, self, row, now):
    return original(self, msgspec.structs.replace(row, epoch=row.epoch - 1), now)


@fault("storage", "recovery ignores what a queue lost", InMemoryStorage, "recover_stale")
async def _(original, self, *, now, stale_after):
    return await original(self, now=now, stale_after=stale_after * 1000)


@fault("storage", "extend of a lost lease succeeds", InMemoryStorage, "extend_leases")
async def _(original, self, deliveries, lease):
    await original(self, deliveries, lease)
    return []


@fault("storage", "unreadable records are kept twice", InMemoryStorage, "set_aside")
async def _(original, self, records):
    await original(self, records)
    for each in [each for each in self._dead.values() if each.raw]:
        self._dead[(each.queue_id, str(len(self._dead)))] = each


@fault("storage", "counts do not go down", Shelves, "_count")
def _(original, self, row, by):
    original(self, row, by) if by > 0 else None


@fault("storage", "upsert replaces all of a task", InMemoryStorage, "upsert")
async def _(original, self, tasks):
    for task in tasks:
        self._shelves.put(Row(storages.copied_task(task)))


@fault("storage", "update ends the lease", InMemoryStorage, "_put")
def _(original, self, row, task):
    self._shelves.put(Row(task, row.epoch + 1))


@fault("storage", "pages repeat their last task", archive, "_age")
def _(original, task):
    return (task.created_at, "")


@fault("storage", "prune ignores its limit", InMemoryStorage, "prune")
async def _(original, self, status, *, ended_before, limit):
    return await original(self, status, ended_before=ended_before, limit=1000)


@fault("storage", "prune ignores the time", InMemoryStorage, "prune")
async def _(original, self, status, *, ended_before, limit):
    return await original(self, status, ended_before=_NEVER, limit=limit)


@fault("storage", "cleanup deletes what runs", InMemoryStorage, "_orphans")
def _(original, self, before):
    return original(self, _NEVER)


@fault("storage", "workers are never forgotten", InMemoryStorage, "record_worker")
async def _(original, self, worker, ttl):
    await original(self, worker, ttl + 3600)


@fault("storage", "what is not due counts as waiting", Shelves, "first")
def _(original, self, shelf):
    entry = original(self, shelf)
    return entry and (min(entry[0], datetime.now(UTC)), *entry[1:])
