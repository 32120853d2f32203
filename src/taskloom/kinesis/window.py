"""The window of a shard: what was read of it and is not settled, and how far all is settled."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator

from msgspec import Struct
from msgspec.structs import force_setattr

from taskloom.kinesis.progress import Progress
from taskloom.kinesis.records import Record, read_task
from taskloom.outcomes import Delivery, UnreadableRecord

__all__ = ["Item", "Receipt", "Window"]

NOTHING = Progress()


class Item(Struct, eq=False, gc=False):
    """A record in the window: it waits (`lease` is 0), is held until then, or is settled."""

    record: Record
    due: float = 0.0
    lease: float = 0.0
    epoch: int = 0
    deliveries: int = 0
    settled: bool = False

    @property
    def number(self) -> int:
        """Its place in the shard."""
        return self.record.number


class Receipt(Struct, frozen=True, eq=False, gc=False):
    """Where a delivery came from, and under which claim."""

    window: Window
    item: Item
    epoch: int

    def is_current(self) -> bool:
        """Whether the claim's lease still holds, as of the last `ripen` of its window."""
        item = self.item
        return item.epoch == self.epoch and item.lease > 0 and self.window.is_open


class Window:
    """Records in the order they were read. Times are monotonic seconds; nothing here waits.

    Records of one line (those of a key, else of an id) are delivered one after the other: the next
    when the one before is settled. It goes on from the `progress` of those who held the shard
    before: what they had settled is settled here, and what they had delivered counts.
    """

    def __init__(self, queue_id: str, shard_id: str, progress: Progress = NOTHING) -> None:
        self.queue_id = queue_id
        self.shard_id = shard_id
        self.mark = progress.mark
        """The last number up to which all are settled."""
        self.changes = 0
        """Grows whenever `progress` does."""
        self.is_open = True
        """Whether receipts still count: the shard is ours."""
        self.gives = True
        """Whether anything may be claimed: False while the shard is on its way to somebody else."""
        self.held = 0
        """How many are with a worker."""
        self.lapsed = 0
        """How many leases ran out, ever."""
        self._before = progress
        self._last = -1 if progress.mark is None else progress.mark
        named = [last for _, last in progress.done]
        self._reach = max([self._last, *named, *progress.tries])
        """No record with a higher number was ever delivered."""
        self._order: deque[Item] = deque()
        self._lines: dict[str, deque[Item]] = {}
        self._ready: list[tuple[int, Item]] = []
        self._later: list[tuple[float, int, Item]] = []
        self._ends: list[tuple[float, int, int, Item]] = []

    def __len__(self) -> int:
        """How many records it holds, the settled ones behind an unsettled one included."""
        return len(self._order)

    @property
    def is_done(self) -> bool:
        """Everything read was settled."""
        return not self._order

    def add(self, record: Record, *, settled: bool = False) -> None:
        """Take a record that follows those taken before; `settled`: it needs no delivery."""
        before, number = self._before, record.number
        item = Item(record, settled=settled or before.is_done(number))
        item.deliveries = before.tries.get(number, 0)
        self._last = number
        self._order.append(item)
        if item.settled:
            self._advance()
            return
        line = self._lines.setdefault(record.line, deque())
        line.append(item)
        if line[0] is item:
            heapq.heappush(self._ready, (item.number, item))

    def take(self, limit: int, lease: float, now: float) -> list[Delivery | UnreadableRecord]:
        """Lease up to `limit` records that wait, in order."""
        self.ripen(now)
        taken: list[Delivery | UnreadableRecord] = []
        while self._ready and len(taken) < limit and self.gives and self.is_open:
            _, item = heapq.heappop(self._ready)
            item.epoch += 1
            item.deliveries += 1
            self.changes += 1
            self._reach = max(self._reach, item.number)
            self.held += 1
            self._hold(item, now + lease)
            taken.append(self._delivery(item))
        return taken

    def _delivery(self, item: Item) -> Delivery | UnreadableRecord:
        receipt, record = Receipt(self, item, item.epoch), item.record
        if record.reason:
            return UnreadableRecord(
                record.data, record.reason, receipt, item.deliveries, self.queue_id
            )
        # Read anew each time: what a worker does to its copy stays with it.
        task = record.task if item.epoch == 1 and record.task else read_task(record.data)
        record.task = None
        if task.queue_id != self.queue_id:  # others may write to the stream, too
            force_setattr(task, "queue_id", self.queue_id)
        return Delivery(task, receipt, item.deliveries)

    def _hold(self, item: Item, end: float) -> None:
        item.lease = end
        heapq.heappush(self._ends, (end, item.number, item.epoch, item))

    def extend(self, item: Item, end: float) -> None:
        """Hold a held item until `end`."""
        self._hold(item, end)

    def settle(self, item: Item) -> None:
        """A held item is done."""
        self._let_go(item)
        item.settled = True
        line = self._lines[item.record.line]
        line.popleft()
        if line:
            heapq.heappush(self._ready, (line[0].number, line[0]))
        else:
            del self._lines[item.record.line]
        self._advance()

    def give_back(self, item: Item, due: float) -> None:
        """A held item waits again, at its place, from `due` on. It was not delivered."""
        self._let_go(item)
        item.deliveries -= 1
        if due:
            heapq.heappush(self._later, (due, item.number, item))
        else:
            heapq.heappush(self._ready, (item.number, item))

    def _let_go(self, item: Item) -> None:
        item.lease = 0.0
        self.changes += 1
        self.held -= 1

    def _advance(self) -> None:
        order = self._order
        while order and order[0].settled:
            self.mark = order.popleft().number
            self.changes += 1

    def progress(self) -> Progress:
        """What whoever holds the shard next is to know."""
        done: list[tuple[int, int]] = []
        tries: dict[int, int] = {}
        follows = False
        for item in self._order:
            if item.number > self._reach:
                break
            if item.settled:
                done.append((done.pop()[0] if follows else item.number, item.number))
            elif item.deliveries:
                tries[item.number] = item.deliveries
            follows = item.settled
        before = self._before
        done += [each for each in before.done if each[1] > self._last]
        tries |= {number: n for number, n in before.tries.items() if number > self._last}
        return Progress(self.mark, tuple(done), tries)

    def ripen(self, now: float) -> None:
        """What has become due waits in line again, and so does what its holder has lost."""
        while self._later and self._later[0][0] <= now:
            _, number, item = heapq.heappop(self._later)
            heapq.heappush(self._ready, (number, item))
        while self._ends and self._ends[0][0] <= now:
            _, _, epoch, item = heapq.heappop(self._ends)
            if item.epoch == epoch and 0 < item.lease <= now:
                self._let_go(item)
                self.lapsed += 1
                heapq.heappush(self._ready, (item.number, item))

    def pause(self, now: float) -> float:
        """Seconds until time alone makes something claimable."""
        times = [heap[0][0] for heap in (self._later, self._ends) if heap]
        return max(0.0, min(times) - now) if times else float("inf")

    def waiting(self, now: float) -> int:
        """How many are neither held, nor settled, nor kept back for a while."""
        self.ripen(now)
        return sum(not each.settled for each in self._order) - self.held - len(self._later)

    def close(self) -> Iterator[str]:
        """The shard is not ours any more: no receipt counts. The ids that were not settled."""
        self.is_open = False
        return (item.record.id for item in self._order if not item.settled)
