"""The pure parts of the Kinesis engine: shard map, shares, windows, batches, records."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskloom import Task
from taskloom.codec import encode
from taskloom.errors import InvalidTaskError
from taskloom.kinesis.assignment import share
from taskloom.kinesis.batches import MAX_BYTES, MAX_RECORDS, Batches
from taskloom.kinesis.progress import Progress, read_progress
from taskloom.kinesis.records import MAX_RECORD_BYTES, Outgoing, Record, outgoing, record_of
from taskloom.kinesis.seen import Seen
from taskloom.kinesis.shard_map import Shard, ShardMap, shard_of
from taskloom.kinesis.window import Window
from taskloom.outcomes import Delivery, UnreadableRecord

# The shard map


def test_parents_come_before_children_through_split_split_and_merge() -> None:
    shards = ShardMap(
        [
            Shard("a", ending=9),
            Shard("b", ("a",), ending=9),
            Shard("c", ("a",)),
            Shard("d", ("b",), ending=9),
            Shard("e", ("b",), ending=9),
            Shard("f", ("d", "e")),
        ]
    )
    assert shards.readable(set()) == ["a"]
    assert shards.readable({"a"}) == ["b", "c"]
    assert shards.readable({"a", "b"}) == ["c", "d", "e"]
    assert shards.readable({"a", "b", "d"}) == ["c", "e"], "a merge waits for both parents"
    assert shards.readable({"a", "b", "d", "e"}) == ["c", "f"]
    assert shards.closed({"a", "b"}) == ["d", "e"]


def test_a_parent_past_the_retention_is_not_waited_for() -> None:
    assert ShardMap([Shard("c", ("gone", "too"))]).readable(set()) == ["c"]


def test_a_shard_is_read_from_its_description() -> None:
    numbers = {"StartingSequenceNumber": "1", "EndingSequenceNumber": "7"}
    names = {"ParentShardId": "a", "AdjacentParentShardId": "b"}
    merged = shard_of({"ShardId": "c", "SequenceNumberRange": numbers, **names})
    assert merged == Shard("c", ("a", "b"), 7)
    assert shard_of({"ShardId": "c", "SequenceNumberRange": {}}) == Shard("c")


# Shares


def shares(shards: int, instances: list[str]) -> dict[str, int]:
    return {each: share(shards, instances, each) for each in instances}


@given(st.integers(0, 40), st.integers(1, 12))
def test_shares_are_balanced_and_complete(shards: int, count: int) -> None:
    found = shares(shards, [f"i{number:02d}" for number in range(count)])
    assert sum(found.values()) == shards
    assert max(found.values()) - min(found.values()) <= 1


@given(st.integers(0, 40), st.integers(2, 12), st.data())
def test_only_shards_of_whoever_comes_or_goes_change_hands(
    shards: int, count: int, data: st.DataObject
) -> None:
    names = [f"i{number:02d}" for number in range(count)]
    gone = data.draw(st.sampled_from(names))
    before, after = shares(shards, names), shares(shards, [n for n in names if n != gone])
    assert all(after[name] >= before[name] for name in after)
    fewer, more = shares(shards, names[:-1]), before
    assert all(more[name] <= fewer[name] for name in fewer), "the newest comes last"


def test_an_instance_that_is_not_heard_of_yet_counts_itself() -> None:
    assert share(3, ["a"], "b") == 1


# Windows


def record(number: int, line: str = "", task_id: str = "") -> Record:
    task = Task(type="t", queue_id="q", payload=number, id=task_id or f"id{number}")
    return Record(number, encode(task), line or f"i{task.id}", task.id, task)


def window_of(*records: Record) -> Window:
    window = Window("q", "s")
    for each in records:
        window.add(each)
    return window


def payloads(taken: list[Delivery | UnreadableRecord]) -> list[int]:
    return [each.task.payload for each in taken if isinstance(each, Delivery)]


def test_the_mark_stops_below_the_lowest_unsettled_record() -> None:
    window = window_of(*(record(number) for number in range(1, 6)))
    taken = window.take(5, 60, 0)
    marks = []
    for place in (1, 3, 0, 4, 2):
        window.settle(taken[place].receipt.item)
        marks.append(window.mark)
    assert marks == [None, None, 2, 2, 5]
    assert window.is_done


def test_records_of_a_key_are_delivered_one_after_the_other() -> None:
    window = window_of(
        record(1, "ka"), record(2, "ka"), record(3, "kb"), record(4), record(5, "ka")
    )
    first = window.take(10, 60, 0)
    assert payloads(first) == [1, 3, 4]
    assert window.take(10, 60, 0) == []
    window.settle(first[0].receipt.item)
    second = window.take(10, 60, 0)
    assert payloads(second) == [2]
    window.give_back(second[0].receipt.item, 0)
    assert payloads(window.take(10, 60, 0)) == [2], "what was released is before what follows"


def test_a_record_kept_back_keeps_those_of_its_key_back() -> None:
    window = window_of(record(1, "ka"), record(2, "ka"), record(3, "kb"))
    first = window.take(1, 60, 0)
    window.give_back(first[0].receipt.item, 5.0)
    assert payloads(window.take(10, 60, 1)) == [3]
    assert window.pause(1) == 4
    assert window.waiting(1) == 1
    assert payloads(window.take(10, 60, 5)) == [1]


def test_a_lease_that_ran_out_counts_and_a_release_does_not() -> None:
    window = window_of(record(1))
    (first,) = window.take(1, 1.0, 10)
    (second,) = window.take(1, 1.0, 20)
    assert (first.delivery_count, second.delivery_count) == (1, 2)
    window.give_back(second.receipt.item, 0)
    (third,) = window.take(1, 1.0, 20)
    assert third.delivery_count == 2
    assert not second.receipt.is_current()
    assert third.receipt.is_current()
    window.ripen(21)
    assert not third.receipt.is_current(), "its lease ended"


def test_after_the_lock_no_receipt_counts() -> None:
    window = window_of(record(1), record(2), record(3))
    taken = window.take(2, 60, 0)
    window.settle(taken[0].receipt.item)
    assert sorted(window.close()) == ["id2", "id3"]
    assert not taken[1].receipt.is_current()
    assert window.take(5, 60, 0) == []


@given(st.data())
def test_what_a_window_tells_of_itself_is_where_the_next_one_goes_on(data: st.DataObject) -> None:
    """Whatever was taken, settled or given back, and however little the next one has read."""
    numbers = range(10, 10 + data.draw(st.integers(0, 12)))
    window, told = window_of(*map(record, numbers)), Progress()
    settled: set[int] = set()
    deliveries = dict.fromkeys(numbers, 0)
    for _ in range(data.draw(st.integers(1, 3))):
        for each in window.take(data.draw(st.integers(0, 12)), 60, 0):
            number = each.receipt.item.number
            assert number not in settled
            deliveries[number] += 1
            assert each.delivery_count == deliveries[number]
            what = data.draw(st.sampled_from(["settle", "give back", "keep"]))
            if what == "settle":
                window.settle(each.receipt.item)
                settled.add(number)
            elif what == "give back":
                window.give_back(each.receipt.item, 5.0)
                deliveries[number] -= 1
        told = read_progress(window.progress().text())
        window = Window("q", "s", told)
        rest = [number for number in numbers if told.mark is None or number > told.mark]
        for number in rest[: data.draw(st.integers(0, 12))]:
            window.add(record(number))
        for each in (told, read_progress(window.progress().text())):
            done = {n for n in numbers if n <= (each.mark or 0) or each.is_done(n)}
            assert done == settled
            assert each.tries == {n: c for n, c in deliveries.items() if c and n not in settled}


def test_a_copy_is_passed_over_once_what_came_before_is_settled() -> None:
    window = window_of(record(1))
    window.add(record(2), settled=True)
    (taken,) = window.take(5, 60, 0)
    assert window.mark is None
    window.settle(taken.receipt.item)
    assert window.mark == 2


def test_what_was_seen_is_known_by_id_and_bytes() -> None:
    seen = Seen(limit=2)
    assert not seen.is_copy("a", b"1")
    assert seen.is_copy("a", b"1")
    assert not seen.is_copy("a", b"2"), "a retry is no copy"
    seen.forget(["a", "unknown"])
    assert not seen.is_copy("a", b"2")
    assert [seen.is_copy(id, b"") for id in ("b", "c", "a")] == [False, False, False]


# Batches


def out(number: int, key: str | None = None, size: int = 0) -> Outgoing:
    task = Task(type="t", queue_id="q", payload=[number, "x" * size], partition_key=key)
    return outgoing(task, None)


def requests(batches: Batches) -> list[list[int]]:
    found = []
    while batches:
        batch = batches.next()
        found.append([each.task.payload[0] for each in batch.values()])
        batches.taken(batch)
    return found


def test_a_request_holds_500_records_and_5_mib() -> None:
    many = requests(Batches([out(number) for number in range(1201)]))
    assert [len(each) for each in many] == [MAX_RECORDS, MAX_RECORDS, 201]
    assert [number for each in many for number in each] == list(range(1201))
    large = [out(number, size=900_000) for number in range(8)]
    sizes = []
    batches = Batches(large)
    while batches:
        batch = batches.next()
        sizes.append(sum(each.size for each in batch.values()))
        batches.taken(batch)
    assert len(sizes) == 2
    assert max(sizes) <= MAX_BYTES


def test_a_request_holds_one_record_of_a_key() -> None:
    records = [out(1, "a"), out(2, "b"), out(3, "a"), out(4), out(5, "a"), out(6)]
    assert requests(Batches(records)) == [[1, 2, 4, 6], [3], [5]]


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "c", None]), st.booleans()), max_size=60))
def test_whatever_is_refused_each_key_keeps_its_order(plan: list[tuple[str | None, bool]]) -> None:
    batches = Batches([out(number, key) for number, (key, _) in enumerate(plan)])
    refusals = [refused for _, refused in plan]
    stream = []
    while batches:
        batch = batches.next()
        taken = [name for name in batch if not (refusals and refusals.pop())]
        stream += [batch[name].task for name in taken]
        batches.taken(taken)
    assert sorted(task.payload[0] for task in stream) == list(range(len(plan)))
    for key in "abc":
        of_key = [task.payload[0] for task in stream if task.partition_key == key]
        assert all(one < other for one, other in pairwise(of_key))


# Records


def test_the_key_is_the_task_s_else_the_default_else_the_type() -> None:
    plain = Task(type="t", queue_id="q", payload=1)
    keyed = plain.replace(partition_key="mine")
    assert outgoing(keyed, lambda task: "default").key == "mine"
    assert outgoing(plain, lambda task: "default").key == "default"
    assert outgoing(plain, lambda task: None).key == "t"
    assert outgoing(plain, None).key == "t"


def test_a_key_that_is_too_long_becomes_a_shorter_one_of_its_own() -> None:
    keys = [
        outgoing(Task(type="t", queue_id="q", payload=1, partition_key=each), None).key
        for each in ("ü" * 300, "ü" * 300, "ü" * 299 + "x")
    ]
    assert max(map(len, keys)) <= 256
    assert keys[0] == keys[1] != keys[2]


@pytest.mark.parametrize(
    ("task_key", "record_key", "serial"),
    [("k", "k", True), (None, "t", False), (None, "of default_partition_key", True)],
)
def test_only_a_key_makes_a_line(task_key: str | None, record_key: str, serial: bool) -> None:
    tasks = [Task(type="t", queue_id="q", payload=1, partition_key=task_key) for _ in range(2)]
    one, other = (
        record_of({"SequenceNumber": "1", "PartitionKey": record_key, "Data": encode(task)})
        for task in tasks
    )
    assert (one.line == other.line) is serial


def test_bytes_that_are_no_task_say_why() -> None:
    found = record_of({"SequenceNumber": "1", "PartitionKey": "k", "Data": b"\xff\x00"})
    assert found.reason
    window = window_of(found)
    (taken,) = window.take(1, 60, 0)
    assert isinstance(taken, UnreadableRecord)
    assert taken.raw == b"\xff\x00"


def test_a_task_larger_than_a_record_is_refused() -> None:
    with pytest.raises(InvalidTaskError, match=r"^payload: .*1,048,576"):
        outgoing(Task(type="t", queue_id="q", payload="x" * MAX_RECORD_BYTES), None)
