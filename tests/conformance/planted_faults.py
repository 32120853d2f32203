"""Memory engines broken on purpose, one rule at a time: do the suites notice?

As a script it prints which case noticed which fault first.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import patch

import msgspec
import pytest
from msgspec import UNSET
from test_memory import Virtual

from taskloom.codec import decode
from taskloom.memory import InMemoryCache, InMemoryQueue, InMemoryStorage, archive, writes
from taskloom.memory import channel as channels
from taskloom.memory import storage as storages
from taskloom.memory.channel import Channel
from taskloom.memory.line import Line
from taskloom.memory.shelves import Row, Shelves
from taskloom.memory.writes import Writer
from taskloom.task import TaskStatus
from taskloom.testing import CacheConformance, ManualClock, QueueConformance, StorageConformance

ENGINES = {
    "queue": (QueueConformance, InMemoryQueue),
    "storage": (StorageConformance, InMemoryStorage),
    "cache": (CacheConformance, InMemoryCache),
}
_NEVER = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Fault:
    """Attributes of an engine replaced: `patches` are (where, attribute, replacement)."""

    name: str
    suite: str
    patches: tuple[tuple[Any, str, Any], ...]

    @contextmanager
    def planted(self) -> Iterator[None]:
        with ExitStack() as stack:
            for where, attribute, replacement in self.patches:
                stack.enter_context(patch.object(where, attribute, replacement))
            yield


FAULTS: list[Fault] = []


def fault(suite: str, name: str, where: Any, attribute: str) -> Callable[[Any], Any]:
    """The decorated function, called with the original first, takes the attribute's place."""
    original = getattr(where, attribute)

    def plant(broken: Callable[..., Any]) -> Callable[..., Any]:
        def replacement(*args: Any, **kwargs: Any) -> Any:
            return broken(original, *args, **kwargs)

        FAULTS.append(Fault(name, suite, ((where, attribute, replacement),)))
        return broken

    return plant


# Queue


@fault("queue", "ack, extend and release do not compare epochs", Channel, "split")
def _(original, self, deliveries):
    held = {each.task.id: self.items.get(each.task.id) for each in deliveries}
    return {id: item for id, item in held.items() if item and item.lease}, []


@fault("queue", "ack takes the task from whoever holds it", InMemoryQueue, "ack")
async def _(original, self, deliveries):
    lost = await original(self, deliveries)
    for each in lost:
        channel = self._channel(each.receipt[0])
        item = channel.items.get(each.task.id)
        if item is not None and item.lease:
            channel.drop({item.id: item})
    return lost


@fault("queue", "ack does not say what was lost", InMemoryQueue, "ack")
async def _(original, self, deliveries):
    await original(self, deliveries)
    return []


@fault("queue", "ack forgets only every other delivery", InMemoryQueue, "ack")
async def _(original, self, deliveries):
    return await original(self, deliveries[::2])


@fault("queue", "a lease never ends", Channel, "_new_lease")
def _(original, self, end, held):
    return original(self, float("inf"), held)


@fault("queue", "a lease ends at once", Channel, "_new_lease")
def _(original, self, end, held):
    return original(self, 0.0, held)


@fault("queue", "a task whose lease ends is gone", Channel, "_ripen")
def _(original, self, moment, now):
    while self._ends and self._ends[0][0] <= moment:
        for id in self._held.pop(heapq.heappop(self._ends)[1], {}):
            del self.items[id]
    original(self, moment, now)


@fault("queue", "a lost lease does not count", Channel, "take")
def _(original, self, *args):
    return [msgspec.structs.replace(each, delivery_count=1) for each in original(self, *args)]


@fault("queue", "a claim gives a task to two", Channel, "take")
def _(original, self, *args):
    taken = original(self, *args)
    if taken and taken[-1].delivery_count == 1:
        self._ready.push(self.items[taken[-1].task.id])
    return taken


@fault("queue", "a claim ignores its limit", Channel, "take")
def _(original, self, limit, *args):
    return original(self, limit + 1, *args)


@fault("queue", "a claim takes the last first", Line, "take")
def _(original, self, limit):
    return original(self, limit)[::-1]


@fault("queue", "a late put of an early task waits at the end", Line, "extend")
def _(original, self, items):
    self._row.extend(items)


@fault("queue", "a cancelled claim keeps what it took", InMemoryQueue, "claim")
async def _(original, self, *args, **kwargs):
    taken = await original(self, *args, **kwargs)
    await asyncio.sleep(0)
    return taken


@fault("queue", "a release counts as a delivery", Channel, "give_back")
def _(original, self, item, due, now):
    item.deliveries += 1
    original(self, item, due, now)


@fault("queue", "a release forgets the lost leases", Channel, "give_back")
def _(original, self, item, due, now):
    item.deliveries = 1
    original(self, item, due, now)


@fault("queue", "a release loses its delay", Channel, "give_back")
def _(original, self, item, due, now):
    original(self, item, None, now)


@fault("queue", "a release loses the task", Channel, "give_back")
def _(original, self, item, due, now):
    self.drop({item.id: item})


@fault("queue", "a retry is the old task", Channel, "replace")
def _(original, self, item, due, kept, now):
    original(self, item, due, (item.shell, item.raw), now)


@fault("queue", "a retry does not wait", Channel, "replace")
def _(original, self, item, due, kept, now):
    original(self, item, now, kept, now)


@fault("queue", "a retry keeps the delivery count", Channel, "replace")
def _(original, self, item, due, kept, now):
    count = item.deliveries
    original(self, item, due, kept, now)
    item.deliveries = count


@fault("queue", "put twice makes two", Channel, "put")
def _(original, self, tasks, now):
    known, self.items = self.items, {}
    original(self, tasks, now)
    self.items = known | self.items


@fault("queue", "put does not know what is in flight", Channel, "put")
def _(original, self, tasks, now):
    known = {id: item for id, item in self.items.items() if item.lease}
    self.items = {id: item for id, item in self.items.items() if not item.lease}
    original(self, tasks, now)
    self.items = known | self.items


@fault("queue", "put ignores the time", Channel, "put")
def _(original, self, tasks, now):
    original(self, tasks, _NEVER)


@fault("queue", "extend of a lost lease succeeds", InMemoryQueue, "extend")
async def _(original, self, deliveries, lease):
    await original(self, deliveries, lease)
    return []


@fault("queue", "extend does nothing", Channel, "lease")
def _(original, self, held, end):
    return None


@fault("queue", "extend adds to the lease instead of starting it again", Channel, "lease")
def _(original, self, held, end):
    original(self, held, end + 60)


@fault("queue", "depth counts what is in flight", Channel, "depth")
def _(original, self, moment, now):
    return original(self, moment, now) + sum(map(len, self._held.values()))


@fault("queue", "depth counts what is delayed", Channel, "depth")
def _(original, self, moment, now):
    return original(self, moment, now) + len(self._later)


@fault("queue", "nobody who waits is woken", Channel, "ring")
def _(original, self):
    return None


@fault("queue", "those who wait sleep past the next due time", Channel, "pause")
def _(original, self, moment, now):
    return float("inf")


@fault("queue", "a delivered payload is the stored one", channels, "thaw")
def _(original, shell, raw, _made={}):  # noqa: B006 (one for all calls is the fault)
    return _made.setdefault((shell and shell.id, raw), original(shell, raw))


@fault("queue", "log context is lost", channels, "thaw")
def _(original, shell, raw):
    return original(shell, raw).replace(metadata=type(original(shell, raw).metadata)())


@fault("queue", "retries=None becomes 0", channels, "thaw")
def _(original, shell, raw):
    task = original(shell, raw)
    return task.replace(retries=task.retries or 0)


FAULTS.append(
    Fault(
        "the payload is the caller's own",
        "queue",
        (
            (channels, "keep", lambda task: (task, b"null")),
            (channels, "thaw", lambda task, raw: task),
        ),
    )
)

# Storage


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


# Cache


@fault("cache", "release does not check the owner", InMemoryCache, "release_many")
async def _(original, self, keys, owner):
    for key in keys:
        await self.delete(key)


@fault("cache", "acquire does not check the owner", InMemoryCache, "acquire_many")
async def _(original, self, keys, owner, ttl):
    await self.release_many(keys, next((e.owner for e in self._entries.values() if e.owner), ""))
    return await original(self, keys, owner, ttl)


@fault("cache", "acquire is not atomic", InMemoryCache, "acquire_many")
async def _(original, self, keys, owner, ttl):
    free = [key for key in keys if self._find(key) is None or self._find(key).owner == owner]
    await asyncio.sleep(0)
    for key in free:
        await self.set(key, owner, ttl)
        self._entries[key].owner = owner
    return set(free)


@fault("cache", "the owner cannot renew its lock", InMemoryCache, "acquire_many")
async def _(original, self, keys, owner, ttl):
    return await original(self, [key for key in keys if self._find(key) is None], owner, ttl)


@fault("cache", "a lock is taken for all keys or none", InMemoryCache, "acquire_many")
async def _(original, self, keys, owner, ttl):
    taken = any((entry := self._find(key)) and entry.owner != owner for key in keys)
    return set() if taken else await original(self, keys, owner, ttl)


@fault("cache", "nothing ever runs out", InMemoryCache, "_keep")
def _(original, self, key, raw, ttl, owner=None):
    original(self, key, raw, None, owner)


@fault("cache", "incr loses the ttl", InMemoryCache, "incr")
async def _(original, self, key, by=1, ttl=None):
    total = await original(self, key, by, ttl)
    self._entries[key].until = float("inf")
    return total


@fault("cache", "incr starts the ttl again", InMemoryCache, "incr")
async def _(original, self, key, by=1, ttl=None):
    total = (await self.get(key) or 0) + by
    await self.set(key, total, ttl)
    return total


@fault("cache", "incr is not atomic", InMemoryCache, "incr")
async def _(original, self, key, by=1, ttl=None):
    old = await self.get(key) or 0
    await asyncio.sleep(0)
    await self.set(key, old + by, ttl)
    return old + by


@fault("cache", "values that are false do not exist", InMemoryCache, "get_many")
async def _(original, self, keys):
    return {key: value for key, value in (await original(self, keys)).items() if value}


@fault("cache", "set keeps the old ttl", InMemoryCache, "set")
async def _(original, self, key, value, ttl=None):
    old = self._find(key)
    await original(self, key, value, ttl)
    if old is not None:
        self._entries[key].until = old.until


@fault("cache", "delete leaves locks", InMemoryCache, "delete")
async def _(original, self, key):
    if (entry := self._find(key)) and entry.owner is None:
        await original(self, key)


@fault("cache", "a value is the caller's own", InMemoryCache, "get")
async def _(original, self, key, _made={}):  # noqa: B006 (one for all calls is the fault)
    entry = self._find(key)
    return entry and _made.setdefault((key, entry.raw), decode(entry.raw))


def first_to_notice(suite: str) -> str | None:
    """The name of the first case of a suite that fails now; None when all pass."""
    cases, engine = ENGINES[suite]
    virtual = type("Broken", (Virtual, cases), {})
    names = [name for part in virtual.__mro__ for name in vars(part) if name.startswith("test_")]
    with asyncio.Runner() as runner:
        return next(
            (name for name in names if not runner.run(_passes(virtual, engine, name))), None
        )


async def _passes(virtual: Any, engine: Any, name: str) -> bool:
    case = virtual()
    case.clock = ManualClock()
    try:
        # A case that would wait for ever has noticed something, too.
        await asyncio.wait_for(getattr(case, name)(engine(case.clock)), 1.0)
    except pytest.skip.Exception:
        return True
    except (Exception, pytest.fail.Exception):
        return False
    return True


if __name__ == "__main__":
    for each in FAULTS:
        with each.planted():
            print(f"{each.suite:8} {each.name:60} {first_to_notice(each.suite) or 'NOBODY'}")
