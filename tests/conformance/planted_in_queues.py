"""Broken queues."""

from __future__ import annotations

import asyncio
import heapq
from datetime import UTC, datetime

import msgspec
from planting import FAULTS, Fault, fault

from taskloom.memory import InMemoryQueue
from taskloom.memory import channel as channels
from taskloom.memory.channel import Channel
from taskloom.memory.line import Line

_NEVER = datetime.max.replace(tzinfo=UTC)


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
