"""Leases: what this worker holds, and keeping it held while it works."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any

from msgspec.structs import replace

from taskloom.clock import Clock
from taskloom.errors import UnavailableError
from taskloom.interfaces.message_queue import MessageQueue
from taskloom.interfaces.task_storage import TaskStorage
from taskloom.outage import reason
from taskloom.outcomes import Delivery, Outcome

__all__ = ["Claim", "Keeper"]

_log = logging.getLogger(__name__)

MARGIN = 0.1
"""The part of a lease that is never trusted: for the way to the engine and back."""
SHORTEST_CALL_LIMIT = 6.0
"""More than an engine's own waiting for a lock, so that its error is seen, not ours."""
CHUNK = 1000
"""Deliveries per `extend` call."""


class Claim:
    """The deliveries of one claim call, under one lease.

    Trusted until the start of the call that set the lease, plus the lease, minus a margin, on the
    monotonic clock: a renewal that timed out is unknown, not done.
    """

    __slots__ = (
        "_on_ended",
        "_settled",
        "open",
        "parked",
        "queue_id",
        "rows",
        "size",
        "tally",
        "trusted_until",
    )

    def __init__(
        self,
        queue_id: str,
        deliveries: Iterable[Delivery],
        trusted_until: float,
        on_ended: Callable[[Outcome, Claim], None],
    ) -> None:
        self.queue_id = queue_id
        self.open = {delivery.task.id: delivery for delivery in deliveries}
        self.size = len(self.open)
        self.trusted_until = trusted_until
        self.rows: dict[str, Delivery] = {}
        """The leases on the rows that a storage beside the queue has of these tasks."""
        self.parked: set[str] = set()
        """Ids that only their row still holds: the queue was told that it is done with them."""
        self.tally: dict[str, int] = {}
        """What became of its deliveries, counted by the settler."""
        self._on_ended = on_ended
        self._settled = asyncio.Event()
        if not self.open:
            self._settled.set()

    def ended(self, outcome: Outcome) -> None:
        """A run of one of its deliveries ended; the settler takes over."""
        self._on_ended(outcome, self)

    def replace(self, delivery: Delivery, **changes: Any) -> Delivery:
        """The same delivery with a changed task, in place of the one that is held."""
        changed = replace(delivery, task=replace(delivery.task, **changes))
        self.open[delivery.task.id] = changed
        return changed

    def park(self, row: Delivery) -> None:
        """From now on the lease on this row is what holds the task."""
        self.rows[row.task.id] = row
        self.parked.add(row.task.id)

    def close(self, ids: Iterable[str]) -> None:
        """These deliveries are settled, or given up: the lease is nobody's business any more."""
        for id in ids:
            self.open.pop(id, None)
            if self.rows:
                self.rows.pop(id, None)
        if not self.open:
            self._settled.set()

    async def wait_settled(self) -> None:
        """Return when every delivery has been settled or given up."""
        await self._settled.wait()


class Keeper:
    """All claims of a worker; renews each every third of its lease.

    `on_lost` hears of deliveries that turned out not to be ours any more. `renew_locks` is called
    with every renewal. `being_written` names the ids of which something is being written just now:
    a renewal may be answered before that is, and call lost what is done.
    """

    def __init__(
        self,
        queue: MessageQueue,
        storage: TaskStorage,
        lease: float,
        clock: Clock,
        on_lost: Callable[[Claim, Sequence[Delivery]], None],
        renew_locks: Callable[[], Awaitable[None]],
        being_written: Callable[[], set[str]],
    ) -> None:
        self.lease = lease
        self._queue = queue
        self._storage = storage
        self._clock = clock
        self._on_lost = on_lost
        self._renew_locks = renew_locks
        self._being_written = being_written
        self._claims: dict[Claim, float] = {}
        """Each open claim, and when its lease was last set."""
        self._away = False
        self._users = 0
        self._running: asyncio.Task[None] | None = None

    @property
    def call_limit(self) -> float:
        """Seconds that a call on an engine may take before it is given up and repeated."""
        return max(SHORTEST_CALL_LIMIT, self.lease / 2)

    def trust(self, since: float) -> float:
        """Until when a lease set by a call that began at `since` can be trusted."""
        return since + self.lease * (1 - MARGIN)

    def hold(self, claim: Claim, since: float) -> None:
        """Keep `claim`, whose claim call began at `since` (monotonic)."""
        self._claims[claim] = since

    def held(self, queue_id: str | None = None) -> int:
        """How many deliveries are ours and not settled."""
        self._forget_settled()
        return sum(
            len(claim.open)
            for claim in self._claims
            if queue_id is None or claim.queue_id == queue_id
        )

    def deliveries(self, *, without: Claim) -> Iterator[Delivery]:
        """What is ours and not settled, but for one claim."""
        for claim in self._claims:
            if claim is not without:
                yield from claim.open.values()

    # Leases are kept as long as anything may hold one.

    def use(self) -> None:
        """Renew in the background until `leave` was called as often."""
        self._users += 1
        if self._running is None:
            self._running = asyncio.create_task(self._run(), name="taskloom-leases")

    def leave(self) -> None:
        """Whoever called `use` holds nothing any more."""
        self._users -= 1
        if self._users == 0 and self._running is not None:
            self._running.cancel()
            self._running = None

    async def _run(self) -> None:
        while True:
            await self._clock.sleep(self.lease / 6)
            await self.renew()

    async def renew(self) -> None:
        """One pass: extend what was last extended a third of a lease ago."""
        self._forget_settled()
        now = self._clock.monotonic()
        due = [claim for claim, since in self._claims.items() if now - since >= self.lease / 3]
        if not due:
            return
        try:
            async with asyncio.timeout(self.lease / 3):
                await self._renew_locks()
                await self._extend(due)
            self._away = False
        except (UnavailableError, TimeoutError) as error:
            if not self._away:
                _log.warning("leases cannot be renewed: %s; trying again", reason(error))
            self._away = True

    async def confirm(self, claim: Claim) -> set[Delivery]:
        """Renew a new claim at once if its call took a third of the lease; those lost by then.

        The lease could be over before the next pass. Raises as `extend` does, and `TimeoutError`.
        """
        started = self._clock.monotonic()
        if started - self._claims[claim] < self.lease / 3:
            return set()
        gone: set[Delivery] = set()
        async with asyncio.timeout(self.lease / 3):
            for part in _chunks(list(claim.open.values())):
                gone.update(await self._queue.extend(part, self.lease))
        self._renewed(claim, started)
        return gone

    def _renewed(self, claim: Claim, started: float) -> None:
        self._claims[claim] = started
        claim.trusted_until = self.trust(started)

    async def _extend(self, claims: list[Claim]) -> None:
        # By delivery, not by task: a retry may be in a newer claim of ours already.
        deliveries = [(claim, d) for claim in claims for d in claim.open.values()]
        rows = [(claim, row) for claim in claims for row in claim.rows.values()]
        started = self._clock.monotonic()
        gone: set[Delivery] = set()
        for part in _chunks([d for claim, d in deliveries if d.task.id not in claim.parked]):
            gone.update(await self._queue.extend(part, self.lease))
        for part in _chunks([row for _, row in rows]):
            gone.update(await self._storage.extend_leases(part, self.lease))
        for claim in claims:
            self._renewed(claim, started)
        if gone:
            self._tell_lost(deliveries, gone)

    def _tell_lost(self, deliveries: list[tuple[Claim, Delivery]], gone: set[Delivery]) -> None:
        lost: dict[Claim, list[Delivery]] = {}
        being_written = self._being_written()
        for claim, delivery in deliveries:
            id = delivery.task.id
            row = claim.rows.get(id)
            not_queued = delivery in gone and id not in claim.parked
            if not (not_queued or (row is not None and row in gone)):
                continue
            # One that was settled while the renewal was under way is not lost but done.
            if claim.open.get(id) is delivery and id not in being_written:
                lost.setdefault(claim, []).append(delivery)
        for claim, missing in lost.items():
            self._on_lost(claim, missing)

    def _forget_settled(self) -> None:
        settled = [claim for claim in self._claims if not claim.open]
        for claim in settled:
            del self._claims[claim]


def _chunks(deliveries: list[Delivery]) -> Iterator[list[Delivery]]:
    for start in range(0, len(deliveries), CHUNK):
        yield deliveries[start : start + CHUNK]
