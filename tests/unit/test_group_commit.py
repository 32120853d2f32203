"""Group commit: what arrives during one write goes with the next; nobody fails for another."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskloom.errors import UnavailableError
from taskloom.group_commit import GroupCommit


class Writer:
    """Notes each write; waits for `gate` in it; fails as told."""

    def __init__(self) -> None:
        self.writes: list[list[int]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.entered = asyncio.Event()
        self.bad: set[int] = set()
        self.away = 0

    async def __call__(self, items: list[int]) -> Sequence[int]:
        self.writes.append(list(items))
        self.entered.set()
        await self.gate.wait()
        if self.away:
            self.away -= 1
            raise UnavailableError("away")
        if self.bad & set(items):
            raise ValueError("bad item")
        return [item * 10 for item in items]


async def test_one_caller_is_written_at_once_and_gets_its_results() -> None:
    writer = Writer()
    assert await GroupCommit(writer)([1, 2]) == [10, 20]
    assert writer.writes == [[1, 2]]


async def test_nothing_is_not_written() -> None:
    writer = Writer()
    assert await GroupCommit(writer)([]) == []
    assert writer.writes == []


async def test_what_comes_during_a_write_goes_together_with_the_next() -> None:
    writer = Writer()
    writer.gate.clear()
    commit = GroupCommit(writer)
    first = asyncio.create_task(commit([1]))
    await writer.entered.wait()
    others = [asyncio.create_task(commit([number])) for number in (2, 3, 4)]
    await asyncio.sleep(0)
    writer.gate.set()
    assert await asyncio.gather(first, *others) == [[10], [20], [30], [40]]
    assert writer.writes == [[1], [2, 3, 4]]


async def test_a_group_ends_at_the_limit_and_tears_no_call_apart() -> None:
    writer = Writer()
    commit = GroupCommit(writer, limit=3)
    calls = [[1, 2], [3, 4], [5], [6, 7, 8, 9]]
    results = await asyncio.gather(*(commit(call) for call in calls))
    assert results == [[item * 10 for item in call] for call in calls]
    assert writer.writes == [[1, 2], [3, 4, 5], [6, 7, 8, 9]]


async def test_nobody_fails_for_anothers_fault() -> None:
    writer = Writer()
    writer.bad = {2}
    commit = GroupCommit(writer)
    one, two, three = await asyncio.gather(
        *(commit([number]) for number in (1, 2, 3)), return_exceptions=True
    )
    assert (one, three) == ([10], [30])
    assert isinstance(two, ValueError)


async def test_an_engine_that_is_away_fails_all_of_them_with_one_call() -> None:
    writer = Writer()
    writer.away = 1
    commit = GroupCommit(writer)
    answers = await asyncio.gather(commit([1]), commit([2]), return_exceptions=True)
    assert [type(answer) for answer in answers] == [UnavailableError] * 2
    assert writer.writes == [[1, 2]]
    assert await commit([3]) == [30]


async def test_cancelling_a_caller_does_not_stop_the_write() -> None:
    writer = Writer()
    writer.gate.clear()
    commit = GroupCommit(writer)
    call = asyncio.create_task(commit([1]))
    await writer.entered.wait()
    waiting = asyncio.create_task(commit([2]))
    await asyncio.sleep(0)
    call.cancel()
    waiting.cancel()
    writer.gate.set()
    await asyncio.gather(call, waiting, return_exceptions=True)
    await commit.join()
    assert call.cancelled()
    assert waiting.cancelled()
    assert writer.writes == [[1], [2]]
    assert not commit.busy


async def test_join_waits_for_what_is_added_meanwhile() -> None:
    commit: GroupCommit[int, int]
    written: list[int] = []

    async def write(items: list[int]) -> list[int]:
        await asyncio.sleep(0)
        written.extend(items)
        if items[0] < 3:
            commit.add([items[0] + 1])
        return items

    commit = GroupCommit(write)
    commit.add([1])
    await commit.join()
    assert written == [1, 2, 3]


@given(calls=st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=4), max_size=12))
def test_everything_is_written_once_in_order_and_answered_to_whoever_asked(
    calls: list[list[int]],
) -> None:
    async def scenario() -> None:
        writer = Writer()
        commit = GroupCommit(writer, limit=5)
        results = await asyncio.gather(*(commit(call) for call in calls))
        assert results == [[item * 10 for item in call] for call in calls]
        assert [i for write in writer.writes for i in write] == [i for call in calls for i in call]

    asyncio.run(scenario())


async def test_after_a_failed_write_the_next_ones_go_on() -> None:
    writer = Writer()
    writer.bad = {1}
    commit = GroupCommit(writer)
    with pytest.raises(ValueError, match="bad item"):
        await commit([1])
    assert await commit([2]) == [20]
