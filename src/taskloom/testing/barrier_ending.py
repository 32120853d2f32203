"""Cases of flow barriers: how flows end, and what is known of them until they are forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from datetime import timedelta
from typing import Any

from taskloom.identity import new_id
from taskloom.interfaces.flow_barrier import BarrierState, FlowBarrier, FlowRecord
from taskloom.testing.barrier_base import BarrierSuite, done, failed
from taskloom.testing.suite import far_future

__all__ = ["EndingCases"]

ABORTED = BarrierState(-1, aborted=True)
TIMED_OUT = BarrierState(-1, aborted=True, timed_out=True)


class EndingCases(BarrierSuite):
    """`abort`, `mark_aborted`, `mark_joined`, `get_flow`, `search`, `unsent`, `prune`."""

    async def record(self, barrier: FlowBarrier, flow_id: str) -> FlowRecord:
        """The flow, which must be known."""
        record = await barrier.get_flow(flow_id)
        assert record is not None
        return record

    async def test_abort_records_and_then_aborts(self, barrier: FlowBarrier) -> None:
        flow_id = await self.open_flow(barrier, 4)
        await barrier.record_steps(flow_id, failed(3))
        state = await barrier.record_steps(flow_id, [*done(0), *failed(2, 1)], abort=True)
        assert state == ABORTED
        assert await barrier.get_step_results(flow_id) == [*done(0), *failed(1, 2, 3)]
        record = await self.record(barrier, flow_id)
        assert (record.state, record.end, record.trigger) == ("ready", "aborted", 2)
        assert (record.counted, record.failed) == (4, 3)

    async def test_abort_wins_over_the_last_step_beside_it(self, barrier: FlowBarrier) -> None:
        flow_id = await self.open_flow(barrier, 2)
        await barrier.record_steps(flow_id, done(0))
        assert await barrier.record_steps(flow_id, failed(1), abort=True) == ABORTED
        assert not await barrier.is_complete(flow_id)
        assert (await self.record(barrier, flow_id)).end == "aborted"

    async def test_an_abort_repeated_changes_nothing(self, barrier: FlowBarrier) -> None:
        flow_id = await self.open_flow(barrier, 3)
        await barrier.record_steps(flow_id, failed(1), abort=True)
        before = await self.record(barrier, flow_id)
        await self.pass_time(0.01)
        assert await barrier.record_steps(flow_id, failed(1), abort=True) == ABORTED
        assert await barrier.record_steps(flow_id, failed(0), abort=True) == ABORTED
        assert await self.record(barrier, flow_id) == before

    async def test_a_complete_flow_is_not_aborted(self, barrier: FlowBarrier) -> None:
        flow_id = await self.open_flow(barrier, 1)
        await barrier.record_steps(flow_id, done(0))
        before = await self.record(barrier, flow_id)
        assert await barrier.record_steps(flow_id, failed(0), abort=True) == BarrierState(0)
        assert not await barrier.mark_aborted(flow_id)
        assert not await barrier.mark_aborted(flow_id, timed_out=True)
        assert await barrier.is_complete(flow_id)
        assert await self.record(barrier, flow_id) == before
        assert before.end == "completed"

    async def test_abort_without_a_failure_has_no_trigger(self, barrier: FlowBarrier) -> None:
        flow_id = await self.open_flow(barrier, 2)
        assert await barrier.record_steps(flow_id, [], abort=True) == ABORTED
        assert (await self.record(barrier, flow_id)).trigger is None

    async def test_mark_aborted_ends_an_open_flow_once(self, barrier: FlowBarrier) -> None:
        for timed_out, end in ((False, "aborted"), (True, "timed_out")):
            flow_id = await self.open_flow(barrier, 2)
            await barrier.record_steps(flow_id, failed(1))
            assert await barrier.mark_aborted(flow_id, timed_out=timed_out)
            before = await self.record(barrier, flow_id)
            assert (before.state, before.end) == ("ready", end)
            assert (before.counted, before.trigger) == (1, None)
            assert not await barrier.mark_aborted(flow_id, timed_out=timed_out)
            assert not await barrier.mark_aborted(flow_id, timed_out=not timed_out)
            assert await self.record(barrier, flow_id) == before
            assert not await barrier.is_complete(flow_id)

    async def test_what_ended_early_counts_nothing_more(self, barrier: FlowBarrier) -> None:
        for timed_out, state in ((False, ABORTED), (True, TIMED_OUT)):
            flow_id = await self.open_flow(barrier, 2)
            await barrier.record_steps(flow_id, done(0))
            await barrier.mark_aborted(flow_id, timed_out=timed_out)
            assert await barrier.record_steps(flow_id, done(1)) == state
            assert await barrier.record_steps(flow_id, failed(1), abort=True) == state
            assert await barrier.get_step_results(flow_id) == done(0)
            assert not await barrier.is_complete(flow_id)

    async def test_an_unknown_flow_is_not_ended(self, barrier: FlowBarrier) -> None:
        flow_id = new_id()
        assert not await barrier.mark_aborted(flow_id)
        assert not await barrier.mark_aborted(flow_id, timed_out=True)
        assert not await barrier.mark_joined(flow_id)
        assert (await barrier.record_steps(flow_id, done(0))).known is False

    async def test_of_racing_ends_one_wins(self, barrier: FlowBarrier) -> None:
        for turn in range(6):
            flow_id = await self.open_flow(barrier, 1)
            calls: list[Coroutine[Any, Any, Any]] = [
                barrier.mark_aborted(flow_id),
                barrier.mark_aborted(flow_id, timed_out=True),
                barrier.record_steps(flow_id, done(0)),
            ]
            order = [(turn + shift) % 3 for shift in range(3)]
            answers = await asyncio.gather(*(calls[number] for number in order))
            aborted, timed_out, state = (answers[order.index(number)] for number in range(3))
            end = (await self.record(barrier, flow_id)).end
            assert (aborted, timed_out) == (end == "aborted", end == "timed_out")
            assert state.remaining == (0 if end == "completed" else -1)

    async def test_a_join_is_marked_once(self, barrier: FlowBarrier) -> None:
        flow_id = await self.open_flow(barrier, 1)
        assert not await barrier.mark_joined(flow_id), "an open flow has nothing to hand over"
        assert (await self.record(barrier, flow_id)).state == "open"
        await barrier.record_steps(flow_id, done(0))
        assert (await self.record(barrier, flow_id)).state == "ready"
        answers = await asyncio.gather(*(barrier.mark_joined(flow_id) for _ in range(5)))
        assert sorted(answers) == [False, False, False, False, True]
        assert not await barrier.mark_joined(flow_id)
        assert (await self.record(barrier, flow_id)).state == "sent"
        assert await barrier.is_complete(flow_id)

    async def test_a_state_says_that_the_join_was_handed_over(self, barrier: FlowBarrier) -> None:
        for timed_out in (False, True):
            flow_id = await self.open_flow(barrier, 2)
            await barrier.mark_aborted(flow_id, timed_out=timed_out)
            assert await barrier.mark_joined(flow_id)
            state = await barrier.record_steps(flow_id, done(0))
            assert state == BarrierState(-1, joined=True, aborted=True, timed_out=timed_out)

    async def test_a_flow_as_its_barrier_knows_it(self, barrier: FlowBarrier) -> None:
        flow, _ = self.flow(2)
        await barrier.init_barrier(flow.flow_id, 2, join=flow.join)
        record = await self.record(barrier, flow.flow_id)
        assert record.flow == flow
        assert (record.state, record.end, record.ended_at) == ("open", None, None)
        assert (record.counted, record.failed, record.trigger) == (0, 0, None)
        assert record.started_at == await barrier.get_started_at(flow.flow_id)
        await self.pass_time(0.01)
        await barrier.record_steps(flow.flow_id, [*done(0), *failed(1)])
        record = await self.record(barrier, flow.flow_id)
        assert (record.state, record.end) == ("ready", "completed")
        assert (record.counted, record.failed, record.trigger) == (2, 1, None)
        assert record.ended_at is not None
        assert record.ended_at > record.started_at

    async def test_a_flow_without_a_join_is_not_shown(self, barrier: FlowBarrier) -> None:
        flow_id = new_id()
        await barrier.init_barrier(flow_id, 1)
        await barrier.record_steps(flow_id, done(0))
        assert await barrier.get_flow(flow_id) is None
        assert await barrier.search() == []
        assert await barrier.unsent(ready_before=far_future(), limit=9) == []
        assert await barrier.mark_joined(flow_id)

    async def test_search_finds_the_newest_first(self, barrier: FlowBarrier) -> None:
        flow_ids = []
        for number in range(5):
            flow_ids.append(await self.open_flow(barrier, 1))
            if number % 2:
                await barrier.record_steps(flow_ids[-1], done(0))
            await self.pass_time(0.005)
        found = await barrier.search()
        assert [each.flow.flow_id for each in found] == flow_ids[::-1]
        assert [each.state for each in found] == ["open", "ready", "open", "ready", "open"]
        assert found[0] == await barrier.get_flow(flow_ids[4])

    async def test_search_goes_page_by_page(self, barrier: FlowBarrier) -> None:
        # Several opened at one moment: pages must not skip or repeat among equals.
        flow_ids = [await self.open_flow(barrier) for _ in range(7)]
        await self.pass_time(0.005)
        flow_ids += [await self.open_flow(barrier) for _ in range(4)]
        whole = [each.flow.flow_id for each in await barrier.search()]
        paged: list[str] = []
        while page := await barrier.search(limit=3, after=paged[-1] if paged else None):
            assert len(page) <= 3
            paged += [each.flow.flow_id for each in page]
        assert paged == whole
        assert sorted(paged) == sorted(flow_ids)
        assert set(paged[:4]) == set(flow_ids[7:])
        assert await barrier.search(after=new_id()) == []

    async def test_unsent_are_those_whose_join_nobody_noted(self, barrier: FlowBarrier) -> None:
        await self.open_flow(barrier)
        await self.sent_flow(barrier)
        ready = [await self.open_flow(barrier, 1) for _ in range(3)]
        await barrier.record_steps(ready[0], done(0))
        await barrier.mark_aborted(ready[1])
        await barrier.mark_aborted(ready[2], timed_out=True)
        found = await barrier.unsent(ready_before=far_future(), limit=9)
        assert {each.flow.flow_id for each in found} == set(ready)
        assert {each.end for each in found} == {"completed", "aborted", "timed_out"}
        assert found[0] == await barrier.get_flow(found[0].flow.flow_id)
        await barrier.mark_joined(ready[0])
        found = await barrier.unsent(ready_before=far_future(), limit=9)
        assert {each.flow.flow_id for each in found} == set(ready[1:])
        assert len(await barrier.unsent(ready_before=far_future(), limit=1)) == 1

    async def test_unsent_leaves_those_that_are_ready_just_now(self, barrier: FlowBarrier) -> None:
        old, recent = await self.open_flow(barrier, 1), await self.open_flow(barrier, 1)
        await barrier.record_steps(old, done(0))
        await self.pass_time(0.1)
        before = self.now()
        await self.pass_time(0.1)
        await barrier.record_steps(recent, done(0))
        found = await barrier.unsent(ready_before=before, limit=9)
        assert [each.flow.flow_id for each in found] == [old]
        long_ago = self.now() - timedelta(days=1)
        assert await barrier.unsent(ready_before=long_ago, limit=9) == []

    async def test_prune_forgets_what_was_handed_over_before(self, barrier: FlowBarrier) -> None:
        old = [await self.sent_flow(barrier) for _ in range(3)]
        late = await self.open_flow(barrier, 1)
        await barrier.record_steps(late, done(0))
        ready = await self.open_flow(barrier, 1)
        await barrier.mark_aborted(ready)
        running = await self.open_flow(barrier)
        await self.pass_time(0.1)
        before = self.now()
        await self.pass_time(0.1)
        assert await barrier.mark_joined(late)
        assert await barrier.prune(sent_before=before, limit=2) == 2
        assert await barrier.prune(sent_before=before, limit=2) == 1
        assert await barrier.prune(sent_before=before, limit=2) == 0
        for flow_id in old:
            assert await barrier.get_flow(flow_id) is None
            assert await barrier.get_step_results(flow_id) == []
            assert await barrier.record_steps(flow_id, done(0)) == BarrierState(-1, known=False)
        left = {each.flow.flow_id for each in await barrier.search()}
        assert left == {late, ready, running}
        assert await barrier.get_step_results(late) == done(0)

    async def test_a_forgotten_flow_can_be_opened_again(self, barrier: FlowBarrier) -> None:
        flow_id = await self.sent_flow(barrier)
        assert await barrier.prune(sent_before=far_future(), limit=9) == 1
        await barrier.init_barrier(flow_id, 2)
        assert await barrier.record_steps(flow_id, done(0, result="again")) == BarrierState(1)
        assert await barrier.get_step_results(flow_id) == done(0, result="again")
