"""Leases: until when a claim is trusted, what is renewed, and who hears of what is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from taskloom import QueueUnavailableError, Task
from taskloom.leases import CHUNK, Claim, Keeper
from taskloom.memory import InMemoryQueue, InMemoryStorage
from taskloom.outcomes import Delivery, Outcome, Word
from taskloom.testing import ManualClock

LEASE = 60.0


class FakeQueue(InMemoryQueue):
    """Answers `extend` as told and notes whom it was asked about."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock)
        self.asked: list[list[str]] = []
        self.gone: set[str] = set()
        self.away = False
        self.takes = 0.0
        self.clock = clock

    async def extend(self, deliveries: Sequence[Delivery], lease: float) -> list[Delivery]:
        self.asked.append([delivery.task.id for delivery in deliveries])
        await self.clock.sleep(self.takes)
        if self.away:
            raise QueueUnavailableError("away")
        return [delivery for delivery in deliveries if delivery.task.id in self.gone]


class FakeStorage(InMemoryStorage):
    """Answers `extend_leases` as told and notes whom it was asked about."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock)
        self.asked: list[list[str]] = []
        self.gone: set[str] = set()

    async def extend_leases(self, deliveries: Sequence[Delivery], lease: float) -> list[Delivery]:
        self.asked.append([delivery.task.id for delivery in deliveries])
        return [delivery for delivery in deliveries if delivery.task.id in self.gone]


class Bench:
    """A keeper with everything it talks to."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.queue = FakeQueue(self.clock)
        self.storage = FakeStorage(self.clock)
        self.lost: list[str] = []
        self.being_written: set[str] = set()
        self.lock_renewals = 0
        self.ended: list[Outcome] = []
        self.keeper = Keeper(
            self.queue,
            self.storage,
            LEASE,
            self.clock,
            self._on_lost,
            self._renew_locks,
            lambda: self.being_written,
        )

    def _on_lost(self, claim: Claim, deliveries: Sequence[Delivery]) -> None:
        self.lost += [delivery.task.id for delivery in deliveries]

    async def _renew_locks(self) -> None:
        self.lock_renewals += 1

    def claim(self, *ids: str, queue_id: str = "q") -> Claim:
        tasks: list[Task[Any]] = [
            Task(type="t", queue_id=queue_id, payload=None, id=id) for id in ids
        ]
        since = self.clock.monotonic()
        claim = Claim(
            queue_id,
            [Delivery(task, None) for task in tasks],
            self.keeper.trust(since),
            lambda outcome, claim: self.ended.append(outcome),
        )
        self.keeper.hold(claim, since)
        return claim


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_lease_is_trusted_from_the_start_of_the_call_less_a_margin(bench: Bench) -> None:
    assert bench.keeper.trust(1000.0) == pytest.approx(1054.0)


async def test_nothing_is_renewed_before_a_third_of_the_lease(bench: Bench) -> None:
    bench.claim("a")
    await bench.clock.advance(LEASE / 3 - 1)
    await bench.keeper.renew()
    assert bench.queue.asked == []


async def test_a_renewal_sets_the_trust_anew_from_its_start(bench: Bench) -> None:
    claim = bench.claim("a", "b")
    await bench.clock.advance(LEASE / 3)
    bench.queue.takes = 5.0
    started = bench.clock.monotonic()
    renewal = asyncio.create_task(bench.keeper.renew())
    await bench.clock.advance(5)
    await renewal
    assert bench.queue.asked == [["a", "b"]]
    assert claim.trusted_until == pytest.approx(started + LEASE * 0.9)
    assert bench.lock_renewals == 1


async def test_a_renewal_that_failed_leaves_the_trust_as_it_was_and_is_told_once(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    claim = bench.claim("a")
    before = claim.trusted_until
    bench.queue.away = True
    for _ in range(3):
        await bench.clock.advance(LEASE / 3)
        await bench.keeper.renew()
    assert claim.trusted_until == before
    assert caplog.text.count("leases cannot be renewed") == 1
    assert bench.lost == []


async def test_after_a_failed_renewal_the_next_pass_tries_again(bench: Bench) -> None:
    bench.claim("a")
    bench.queue.away = True
    await bench.clock.advance(LEASE / 3)
    await bench.keeper.renew()
    bench.queue.away = False
    await bench.keeper.renew()
    assert bench.queue.asked == [["a"], ["a"]]


async def test_running_renews_every_third_for_as_long_as_it_takes(bench: Bench) -> None:
    claim = bench.claim("a")
    bench.keeper.use()
    for _ in range(60):  # two hours
        await bench.clock.advance(LEASE / 3)
        assert claim.trusted_until > bench.clock.monotonic()
    bench.keeper.leave()
    assert len(bench.queue.asked) >= 59


async def test_what_is_being_written_just_now_is_not_called_lost(bench: Bench) -> None:
    bench.claim("a", "b")
    bench.queue.gone = {"a", "b"}
    bench.being_written = {"a"}
    await bench.clock.advance(LEASE / 3)
    await bench.keeper.renew()
    assert bench.lost == ["b"]
    bench.being_written = set()
    await bench.clock.advance(LEASE / 3)
    await bench.keeper.renew()
    assert bench.lost == ["b", "a", "b"]


async def test_what_turned_out_to_be_lost_is_told_and_the_rest_kept(bench: Bench) -> None:
    bench.claim("a", "b")
    bench.queue.gone = {"b"}
    await bench.clock.advance(LEASE / 3)
    await bench.keeper.renew()
    assert bench.lost == ["b"]


async def test_leases_on_rows_beside_the_queue_are_renewed_with_it(bench: Bench) -> None:
    claim = bench.claim("a", "b", "c")
    claim.rows = {id: claim.open[id] for id in ("a", "b")}
    claim.close(["a"])
    await bench.clock.advance(LEASE / 3)
    await bench.keeper.renew()
    assert (bench.queue.asked, bench.storage.asked) == ([["b", "c"]], [["b"]])
    assert bench.lost == []


async def test_a_task_is_lost_when_its_row_is(bench: Bench) -> None:
    claim = bench.claim("a", "b")
    claim.rows = dict(claim.open)
    bench.storage.gone = {"b"}
    await bench.clock.advance(LEASE / 3)
    await bench.keeper.renew()
    assert bench.lost == ["b"]


async def test_one_settled_during_the_renewal_is_done_and_not_lost(bench: Bench) -> None:
    claim = bench.claim("a", "b")
    bench.queue.gone = {"b"}
    bench.queue.takes = 1.0
    await bench.clock.advance(LEASE / 3)
    renewal = asyncio.create_task(bench.keeper.renew())
    await asyncio.sleep(0)
    claim.close(["b"])
    await bench.clock.advance(1)
    await renewal
    assert bench.lost == []


async def test_settled_claims_are_renewed_no_more(bench: Bench) -> None:
    claim = bench.claim("a", "b")
    claim.close(["a"])
    await bench.clock.advance(LEASE / 3)
    await bench.keeper.renew()
    claim.close(["b"])
    await bench.clock.advance(LEASE / 3)
    await bench.keeper.renew()
    assert bench.queue.asked == [["b"]]


async def test_many_deliveries_are_renewed_in_chunks(bench: Bench) -> None:
    bench.claim(*(f"t{number}" for number in range(CHUNK + 1)))
    await bench.clock.advance(LEASE / 3)
    await bench.keeper.renew()
    assert [len(part) for part in bench.queue.asked] == [CHUNK, 1]


async def test_held_counts_what_is_open_by_queue(bench: Bench) -> None:
    first, _ = bench.claim("a", "b"), bench.claim("c", queue_id="r")
    assert (bench.keeper.held(), bench.keeper.held("q"), bench.keeper.held("r")) == (3, 2, 1)
    first.close(["a", "b"])
    assert (bench.keeper.held(), bench.keeper.held("q")) == (1, 0)


async def test_a_claim_is_settled_when_its_last_delivery_is(bench: Bench) -> None:
    claim = bench.claim("a", "b")
    waiting = asyncio.create_task(claim.wait_settled())
    claim.close(["a", "a", "unknown"])
    await asyncio.sleep(0)
    assert not waiting.done()
    claim.close(["b"])
    await waiting


async def test_an_empty_claim_is_settled_from_the_start(bench: Bench) -> None:
    await bench.claim().wait_settled()


async def test_an_outcome_goes_to_whoever_settles(bench: Bench) -> None:
    claim = bench.claim("a")
    outcome = Outcome(claim.open["a"], Word.SUCCESS)
    claim.ended(outcome)
    assert bench.ended == [outcome]
