"""Cases of flow barriers: each step counts once, whatever comes twice or out of order."""

from __future__ import annotations

import asyncio
import random
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from taskloom.codec import encode
from taskloom.flows import FlowStepResult
from taskloom.identity import new_id
from taskloom.interfaces.flow_barrier import BarrierState, FlowBarrier
from taskloom.testing.barrier_base import BarrierSuite, done, failed
from taskloom.testing.suite import AWKWARD_PAYLOADS

__all__ = ["CountingCases"]


class CountingCases(BarrierSuite):
    """`init_barrier`, `record_steps`, `get_step_results`, `is_complete`, `get_started_at`."""

    async def test_steps_count_down_to_zero(self, barrier: FlowBarrier) -> None:
        flow_id = await self.open_flow(barrier, 3)
        assert not await barrier.is_complete(flow_id)
        assert await barrier.record_steps(flow_id, done(1)) == BarrierState(2)
        assert await barrier.record_steps(flow_id, failed(0)) == BarrierState(1)
        assert not await barrier.is_complete(flow_id)
        assert await barrier.record_steps(flow_id, done(2)) == BarrierState(0)
        assert await barrier.is_complete(flow_id)

    async def test_many_steps_count_in_one_call(self, barrier: FlowBarrier) -> None:
        flow_id = await self.open_flow(barrier, 5)
        assert await barrier.record_steps(flow_id, done(4, 0, 2)) == BarrierState(2)
        assert await barrier.record_steps(flow_id, []) == BarrierState(2)
        assert await barrier.record_steps(flow_id, done(1, 3)) == BarrierState(0)

    async def test_a_flow_of_one_step(self, barrier: FlowBarrier) -> None:
        flow_id = await self.open_flow(barrier, 1)
        assert await barrier.record_steps(flow_id, failed(0)) == BarrierState(0)
        assert await barrier.is_complete(flow_id)

    async def test_results_come_ordered_by_index(self, barrier: FlowBarrier) -> None:
        flow_id = await self.open_flow(barrier, 12)
        order = random.Random(9).sample(range(12), 12)
        for index in order:
            await barrier.record_steps(flow_id, done(index, result=index))
        steps = await barrier.get_step_results(flow_id)
        assert steps == [FlowStepResult(index, "success", index) for index in range(12)]

    async def test_of_each_index_the_first_result_stays(self, barrier: FlowBarrier) -> None:
        flow_id = await self.open_flow(barrier, 3)
        await barrier.record_steps(flow_id, [*done(0, result=1), *failed(1), *failed(0)])
        assert await barrier.record_steps(flow_id, done(1, 0, result=2)) == BarrierState(1)
        expected = [*done(0, result=1), *failed(1)]
        assert await barrier.get_step_results(flow_id) == expected
        record = await barrier.get_flow(flow_id)
        assert record is not None
        assert (record.counted, record.failed) == (2, 1)

    async def test_a_repeated_call_counts_nothing_more(self, barrier: FlowBarrier) -> None:
        flow_id = await self.open_flow(barrier, 2)
        for _ in range(3):
            assert await barrier.record_steps(flow_id, done(0)) == BarrierState(1)
        for _ in range(3):
            assert await barrier.record_steps(flow_id, done(1)) == BarrierState(0)
        assert len(await barrier.get_step_results(flow_id)) == 2

    async def test_what_comes_after_the_last_step_is_a_repeat(self, barrier: FlowBarrier) -> None:
        flow_id = await self.open_flow(barrier, 2)
        await barrier.record_steps(flow_id, done(0, 1, result=1))
        assert await barrier.record_steps(flow_id, failed(0)) == BarrierState(0)
        assert await barrier.mark_joined(flow_id)
        assert await barrier.record_steps(flow_id, failed(1)) == BarrierState(0, joined=True)
        assert await barrier.get_step_results(flow_id) == done(0, 1, result=1)

    async def test_an_index_outside_the_flow_is_an_error(self, barrier: FlowBarrier) -> None:
        flow_id = await self.open_flow(barrier, 2)
        for index in (2, -1):
            with pytest.raises(ValueError, match=flow_id):
                await barrier.record_steps(flow_id, done(0, index), abort=True)
        assert await barrier.get_step_results(flow_id) == []
        assert await barrier.record_steps(flow_id, done(0)) == BarrierState(1)

    async def test_an_unknown_flow_counts_nothing(self, barrier: FlowBarrier) -> None:
        flow_id = new_id()
        for abort in (False, True):
            state = await barrier.record_steps(flow_id, done(0), abort=abort)
            assert state == BarrierState(-1, known=False)
        assert await barrier.get_step_results(flow_id) == []
        assert not await barrier.is_complete(flow_id)
        assert await barrier.get_started_at(flow_id) is None
        assert await barrier.get_flow(flow_id) is None
        await barrier.init_barrier(flow_id, 1)
        assert await barrier.record_steps(flow_id, done(0)) == BarrierState(0)

    async def test_opening_again_changes_nothing(self, barrier: FlowBarrier) -> None:
        flow, _ = self.flow(2)
        flow_id = flow.flow_id

        async def again() -> None:
            before = await barrier.get_flow(flow_id)
            await self.pass_time(0.01)
            await barrier.init_barrier(flow_id, 7, join=self.flow(7)[0].join)
            assert await barrier.get_flow(flow_id) == before

        await barrier.init_barrier(flow_id, 2, join=flow.join)
        await again()
        await barrier.record_steps(flow_id, done(0))
        await again()
        assert await barrier.record_steps(flow_id, done(1)) == BarrierState(0)
        await again()
        await barrier.mark_joined(flow_id)
        await again()

    async def test_opening_again_does_not_reopen_what_was_aborted(
        self, barrier: FlowBarrier
    ) -> None:
        flow_id = await self.open_flow(barrier, 2)
        await barrier.mark_aborted(flow_id)
        await barrier.init_barrier(flow_id, 2)
        assert (await barrier.record_steps(flow_id, done(0))).remaining == -1

    async def test_when_it_was_opened(self, barrier: FlowBarrier) -> None:
        before = self.now()
        flow_id = await self.open_flow(barrier)
        after = self.now()
        started = await barrier.get_started_at(flow_id)
        assert started is not None
        apart = timedelta(seconds=0.5)  # for a server whose clock is not quite ours
        assert before - apart < started < after + apart
        await self.pass_time(0.01)
        await barrier.record_steps(flow_id, done(0, 1, 2))
        assert await barrier.get_started_at(flow_id) == started

    async def test_flows_do_not_mix(self, barrier: FlowBarrier) -> None:
        first, second = await self.open_flow(barrier, 2), await self.open_flow(barrier, 2)
        await barrier.record_steps(first, done(0, 1, result=1))
        assert await barrier.record_steps(second, done(0, result=2)) == BarrierState(1)
        assert await barrier.get_step_results(second) == done(0, result=2)
        assert not await barrier.is_complete(second)

    async def test_results_come_back_as_they_were(self, barrier: FlowBarrier) -> None:
        flow_id = await self.open_flow(barrier, len(AWKWARD_PAYLOADS) + 1)
        steps = [FlowStepResult(n, "success", value) for n, value in enumerate(AWKWARD_PAYLOADS)]
        error = "nul\x00 'grüße' \U0010ffff $.\n"
        last = FlowStepResult(len(steps), "fail", {"a": [1]}, error)
        assert await barrier.record_steps(flow_id, [*steps, last]) == BarrierState(0)
        found = await barrier.get_step_results(flow_id)
        assert found == [*steps, last]
        assert [type(each.result) for each in found[:-1]] == [type(v) for v in AWKWARD_PAYLOADS]

    async def test_a_result_may_be_json_already(self, barrier: FlowBarrier) -> None:
        flow_id = await self.open_flow(barrier, 1)
        raw = msgspec.Raw(encode({"$a.b": [1, None]}))
        await barrier.record_steps(flow_id, [FlowStepResult(0, "success", raw)])
        (step,) = await barrier.get_step_results(flow_id)
        assert step.result == {"$a.b": [1, None]}

    async def test_what_the_caller_keeps_is_not_the_result(self, barrier: FlowBarrier) -> None:
        flow, _ = self.flow(1)
        context: dict[str, Any] = {"a": [1]}
        template = flow.join.replace(execution_stats=context)
        await barrier.init_barrier(flow.flow_id, 1, join=template)
        value: dict[str, Any] = {"list": [1]}
        await barrier.record_steps(flow.flow_id, done(0, result=value))
        value["list"].append(2)
        context["a"].append(2)
        (step,) = await barrier.get_step_results(flow.flow_id)
        assert step.result == {"list": [1]}
        step.result["list"].append(3)
        (step,) = await barrier.get_step_results(flow.flow_id)
        assert step.result == {"list": [1]}
        record = await barrier.get_flow(flow.flow_id)
        assert record is not None
        assert record.flow.join.execution_stats == {"a": [1]}

    async def test_a_result_that_json_cannot_hold_counts_nothing(
        self, barrier: FlowBarrier
    ) -> None:
        flow_id = await self.open_flow(barrier, 2)
        with pytest.raises((TypeError, ValueError)):
            await barrier.record_steps(flow_id, [*done(0), *done(1, result=object())], abort=True)
        assert await barrier.get_step_results(flow_id) == []
        assert await barrier.record_steps(flow_id, done(0)) == BarrierState(1)

    async def test_concurrent_calls_count_each_step_once(self, barrier: FlowBarrier) -> None:
        flow_id = await self.open_flow(barrier, 20)
        states = await asyncio.gather(
            *(barrier.record_steps(flow_id, done(number)) for number in range(20))
        )
        assert sorted(state.remaining for state in states) == list(range(20))
        assert await barrier.is_complete(flow_id)

    async def test_concurrent_repeats_count_once(self, barrier: FlowBarrier) -> None:
        flow_id = await self.open_flow(barrier, 3)
        states = await asyncio.gather(
            *(barrier.record_steps(flow_id, done(0, 1, result=n)) for n in range(20))
        )
        assert {state.remaining for state in states} == {1}
        first, second = await barrier.get_step_results(flow_id)
        assert first.result == second.result

    async def test_concurrent_openings_are_one(self, barrier: FlowBarrier) -> None:
        flow, _ = self.flow(2)
        await asyncio.gather(
            *(barrier.init_barrier(flow.flow_id, 2, join=flow.join) for _ in range(10))
        )
        assert await barrier.record_steps(flow.flow_id, done(0)) == BarrierState(1)

    async def test_a_flow_of_ten_thousand_steps(self, barrier: FlowBarrier) -> None:
        some = 1_000 // self.shrink
        total = 10 * some
        flow_id = await self.open_flow(barrier, total)
        order = random.Random(7).sample(range(total), total)
        for start in range(0, total, some):
            piece = [FlowStepResult(n, "success", n) for n in order[start : start + some]]
            state = await barrier.record_steps(flow_id, piece)
            assert state == BarrierState(total - some - start)
        steps = await barrier.get_step_results(flow_id)
        assert [step.result for step in steps] == list(range(total))

    async def test_opening_the_barrier_again_changes_nothing(self, barrier: FlowBarrier) -> None:
        flow_id = await self.open_flow(barrier, 2)
        await barrier.record_steps(flow_id, done(0))
        await barrier.open()
        assert await barrier.record_steps(flow_id, done(1)) == BarrierState(0)
