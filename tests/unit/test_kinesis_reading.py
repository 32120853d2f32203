"""What a stream does to those who read and write it, and moto does not: on the fake."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from kinesis_cluster import LONG, QUICK, Cluster, cluster, held, keyed, take
from msgspec.structs import replace

from taskloom.errors import ConfigurationError, QueueUnavailableError
from taskloom.interfaces import AdaptiveSnapshot, AdaptiveStrategy, BatchResult
from taskloom.kinesis import KinesisQueue
from taskloom.kinesis.progress import FINISHED, read_progress
from taskloom.kinesis.reader import BATCH, LARGEST_WINDOW
from taskloom.outcomes import Delivery, UnreadableRecord


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with cluster(tmp_path) as found:
        found.fake.stream("s")
        yield found


def payloads(taken: list[Delivery]) -> list[Any]:
    return [each.task.payload for each in taken]


async def checkpoint(here: Cluster) -> str | None:
    return await here.locks.get_checkpoint("s/shardId-000000000000")


async def mark(here: Cluster) -> int | None:
    """Up to which number all is settled."""
    return read_progress(await checkpoint(here)).mark


async def until(queue: KinesisQueue, *, holds: list[str]) -> None:
    """Claim nothing, again and again, until these shards are held."""
    async with asyncio.timeout(5):
        while held(queue) != holds:
            await queue.claim("s", 1, lease=LONG, wait=0.02)


# Writing


async def test_what_a_request_left_is_put_again_and_each_key_keeps_its_order(here: Cluster) -> None:
    refusals = iter(["ProvisionedThroughputExceededException", None, "InternalFailure"])
    here.fake.refuse = lambda place, record: next(refusals, None)
    queue = await here.instance()
    await queue.put("s", [keyed(number, "ab"[number % 2]) for number in range(6)])
    assert [len(request) for request in here.fake.requests] == [2, 2, 2, 1, 1]
    taken = []
    for _ in range(3):
        pair = await take(queue, 2)
        taken += payloads(pair)
        await queue.ack(pair)
    assert [each for each in taken if not each % 2] == [0, 2, 4]
    assert [each for each in taken if each % 2] == [1, 3, 5]


async def test_a_stream_that_takes_part_only_says_which(
    here: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskloom.kinesis.putting.SHORTEST", 0.001)
    here.fake.refuse = lambda place, record: (
        "ProvisionedThroughputExceededException" if b'payload":2' in record["Data"] else None
    )
    queue = await here.instance()
    with pytest.raises(QueueUnavailableError, match="took 2 of 3") as caught:
        await queue.put("s", [keyed(number) for number in range(3)])
    assert [task.payload for task in caught.value.accepted] == [0, 1]
    assert [task.payload for task in caught.value.rejected] == [2]


async def test_throttled_requests_are_put_again(here: Cluster) -> None:
    here.fake.fail["put_records"] = ["ProvisionedThroughputExceededException", "SlowDown"]
    queue = await here.instance()
    await queue.put("s", [keyed(1)])
    assert payloads(await take(queue)) == [1]


async def test_a_task_too_large_for_a_record_stops_the_put_before_it_began(here: Cluster) -> None:
    queue = await here.instance()
    with pytest.raises(ValueError, match="payload"):
        await queue.put("s", [keyed(1), keyed(2).replace(payload="x" * 1_100_000)])
    assert not here.fake.requests


# Reading


async def test_the_first_claim_does_not_wait_for_the_whole_backlog(here: Cluster) -> None:
    writer = await here.instance()
    await writer.put("s", [keyed(number, str(number)) for number in range(BATCH + 1)])
    reader = await here.instance(timing=replace(QUICK, gap=3600.0))  # its second page is far off
    async with asyncio.timeout(5):
        assert len(await reader.claim("s", 2 * BATCH, lease=LONG)) == BATCH


async def test_an_expired_iterator_is_renewed_where_reading_stopped(here: Cluster) -> None:
    queue = await here.instance()
    await queue.put("s", [keyed(1), keyed(2)])
    first, second = await take(queue, 2)
    await queue.ack([first])
    here.fake.generation += 1
    await queue.put("s", [keyed(3)])
    assert payloads(await take(queue)) == [3], "nothing twice, nothing passed over"
    await queue.release([second])
    assert payloads(await take(queue)) == [2]


async def test_throttled_reads_are_no_error(
    here: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    queue = await here.instance()
    await take_nothing(queue)
    here.fake.fail["get_records"] = ["ProvisionedThroughputExceededException"] * 3
    await queue.put("s", [keyed(1)])
    assert payloads(await take(queue)) == [1]
    assert not here.fake.fail["get_records"]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def take_nothing(queue: KinesisQueue) -> None:
    assert await queue.claim("s", 10, lease=LONG) == []


async def test_empty_reads_are_not_the_end(here: Cluster) -> None:
    here.fake.empty_reads = 5
    queue = await here.instance()
    await queue.put("s", [keyed(1)])
    assert payloads(await take(queue)) == [1]


@pytest.mark.parametrize("answer", ["InvalidArgumentException", "empty", "oldest"])
async def test_a_checkpoint_past_the_retention_goes_on_with_the_oldest(
    here: Cluster, caplog: pytest.LogCaptureFixture, answer: str
) -> None:
    """All three were seen on AWS, which promises none of them."""
    here.fake.past_retention = answer
    first = await here.instance()
    await first.put("s", [keyed(number) for number in range(6)])
    await first.ack(await take(first, 2))
    await first.close()
    here.fake.trim("s", "shardId-000000000000", keep=2)
    second = await here.instance()
    assert payloads(await take(second, 2)) == [4, 5]
    assert caplog.text.count("past the stream's retention") == 1


async def test_a_shard_ends_with_a_null_iterator(here: Cluster) -> None:
    queue = await here.instance()
    await queue.put("s", [keyed(1, "k")])
    (only,) = await take(queue)
    here.fake.split("s", "shardId-000000000000")
    await queue.put("s", [keyed(2, "k")])
    await take_nothing(queue)
    assert await mark(here) is None, "its record is not settled"
    await queue.ack([only])
    (after,) = await take(queue)
    assert after.task.payload == 2
    assert await checkpoint(here) == FINISHED


async def test_a_stream_that_is_not_there_is_told(here: Cluster) -> None:
    queue = await here.instance()
    for call in (queue.claim("missing", 1, lease=1), queue.depth("missing")):
        with pytest.raises(QueueUnavailableError, match="create the stream"):
            await call


async def test_refused_credentials_are_told(here: Cluster) -> None:
    queue = await here.instance()
    here.fake.fail["list_shards"] = ["AccessDeniedException"]
    with pytest.raises(ConfigurationError, match="credentials"):
        await queue.depth("s")


async def test_a_stream_that_is_away_is_told_and_read_on(here: Cluster) -> None:
    queue = await here.instance()
    await take_nothing(queue)
    here.fake.fail["get_records"] = ["InternalFailure"] * 2
    with pytest.raises(QueueUnavailableError, match="in trouble"):
        await queue.claim("s", 1, lease=LONG, wait=5)
    await queue.put("s", [keyed(1)])
    async with asyncio.timeout(5):
        while True:
            try:
                assert payloads(await take(queue)) == [1]
                return
            except QueueUnavailableError:
                await asyncio.sleep(0.01)


async def test_reading_stops_where_too_much_is_unsettled(
    here: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert LARGEST_WINDOW > 5
    monkeypatch.setattr("taskloom.kinesis.reader.LARGEST_WINDOW", 5)
    monkeypatch.setattr("taskloom.kinesis.reader.BATCH", 5)
    queue = await here.instance()
    await queue.put("s", [keyed(number) for number in range(12)])
    taken = await take(queue, 5)
    await queue.ack(taken[1:])
    assert await queue.claim("s", 9, lease=LONG, wait=0.1) == []
    await queue.ack(taken[:1])
    assert payloads(await take(queue, 5)) == [5, 6, 7, 8, 9]


# Settling


async def test_the_checkpoint_never_passes_an_unsettled_record(here: Cluster) -> None:
    queue = await here.instance()
    await queue.put("s", [keyed(number) for number in range(4)])
    taken = await take(queue, 4)
    numbers = [number for number, _, _ in here.fake.streams["s"]["shardId-000000000000"].records]
    await queue.ack(taken[1:3])
    assert await mark(here) is None
    await queue.ack(taken[:1])
    assert await mark(here) == numbers[2]
    await queue.close()
    other = await here.instance()
    assert payloads(await take(other)) == [3], "read again from the checkpoint"


async def test_what_failed_is_delivered_again_before_anything_is_passed_over(here: Cluster) -> None:
    """The reference moved on, and the next good batch took the checkpoint past it."""
    queue = await here.instance()
    await queue.put("s", [keyed(number) for number in range(3)])
    bad, *good = await take(queue, 3)
    await queue.release([bad])
    await queue.ack(good)
    assert await mark(here) is None
    (again,) = await take(queue)
    assert again.task.id == bad.task.id


async def test_bytes_that_are_no_task_do_not_hold_up_their_neighbours(here: Cluster) -> None:
    """The reference's batch call stood still at them for ever; its stream dropped them."""
    queue = await here.instance()
    here.fake.put_raw("s", "k", b"\xffnonsense")
    await queue.put("s", [keyed(1)])
    found = await queue.claim("s", 5, lease=LONG, wait=2)
    while len(found) < 2:
        found += await queue.claim("s", 5, lease=LONG, wait=2)
    (unreadable,) = [each for each in found if isinstance(each, UnreadableRecord)]
    assert unreadable.raw == b"\xffnonsense"
    assert await queue.ack(found) == []
    assert await mark(here) is not None


async def test_what_others_wrote_for_another_queue_is_of_this_one(here: Cluster) -> None:
    queue = await here.instance()
    await queue.put("s", [keyed(1).replace(queue_id="elsewhere")])
    for _ in range(2):
        (delivery,) = await take(queue)
        assert delivery.task.queue_id == "s"
        await queue.release([delivery])


async def test_a_put_that_was_repeated_is_one_task_also_when_it_was_settled(here: Cluster) -> None:
    queue = await here.instance()
    task = keyed(1)
    await queue.put("s", [task])
    await queue.ack(await take(queue))
    await queue.put("s", [task, keyed(2)])
    assert payloads(await take(queue)) == [2]


async def test_a_task_that_comes_back_changed_is_no_copy(here: Cluster) -> None:
    """A retry waited in the storage and is put again under its id."""
    queue = await here.instance()
    task = keyed(1)
    await queue.put("s", [task])
    await queue.ack(await take(queue))
    await queue.put("s", [task.replace(retry_count=1)])
    (again,) = await take(queue)
    assert again.task.retry_count == 1


# The adaptive strategy


class Told(AdaptiveStrategy):
    """Says what it is told to, and hears."""

    def __init__(self) -> None:
        self.heard: list[BatchResult] = []
        self.backs_off = False

    def get_batch_size(self, shard_id: str) -> int:
        return 2

    def get_processing_delay(self, shard_id: str) -> float:
        return 0.01

    def should_backoff(self, shard_id: str) -> bool:
        return self.backs_off

    def record_batch_result(self, shard_id: str, result: BatchResult) -> None:
        self.heard.append(result)

    def get_snapshot(self, shard_id: str | None = None) -> AdaptiveSnapshot:
        raise NotImplementedError


async def test_a_strategy_is_asked_and_told(here: Cluster) -> None:
    strategy = Told()
    queue = await here.instance(strategy=strategy)
    here.fake.fail["get_records"] = ["ProvisionedThroughputExceededException"]
    await queue.put("s", [keyed(number) for number in range(3)])
    await queue.ack(await take(queue, 3))
    assert here.fake.calls["get_records"] >= 3, "one was throttled, and a read brings two records"
    assert strategy.heard == [
        BatchResult(throttled=True),
        BatchResult(succeeded=3, succeeded_types=("t",)),
    ]


async def test_nothing_is_read_while_a_strategy_backs_off(here: Cluster) -> None:
    strategy = Told()
    queue = await here.instance(strategy=strategy)
    await take_nothing(queue)
    strategy.backs_off = True
    await queue.put("s", [keyed(1)])
    assert await queue.claim("s", 1, lease=LONG, wait=0.1) == []
    strategy.backs_off = False
    assert payloads(await take(queue)) == [1]
