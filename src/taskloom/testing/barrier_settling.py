"""Cases of flow barriers that share transactions with a storage: settling with flows."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from taskloom.flows import FlowStepResult, NewFlow, flow_results, join_id, step_id
from taskloom.interfaces.flow_barrier import BarrierState, FlowBarrier, FlowSettled
from taskloom.interfaces.task_storage import TaskStorage
from taskloom.outcomes import Delivery, Ending, Settlement
from taskloom.task import FailurePolicy, Task, TaskStatus
from taskloom.testing.barrier_base import BarrierSuite, done, failed

__all__ = ["SettlingFlowCases"]

EXECUTED, FAILED, CANCELLED = TaskStatus.EXECUTED, TaskStatus.FAILED, TaskStatus.CANCELLED
SCHEDULED, PROCESSING = TaskStatus.SCHEDULED, TaskStatus.PROCESSING
LONG = 60.0


class SettlingFlowCases(BarrierSuite):
    """`settle`. Skipped where the barrier shares no storage."""

    def storage_of(self, barrier: FlowBarrier) -> TaskStorage:
        """The storage; skips the case where there is none."""
        if barrier.storage is None:
            pytest.skip("this barrier shares no storage")
        return barrier.storage

    async def start(
        self,
        barrier: FlowBarrier,
        steps: int = 3,
        *,
        policy: FailurePolicy = "continue",
        claimed: int | None = None,
        timeout: float | None = None,
    ) -> tuple[NewFlow, list[Delivery]]:
        """A flow and the deliveries of its first `claimed` steps (all), by their index."""
        storage = self.storage_of(barrier)
        flow, tasks = self.flow(steps, policy=policy, timeout=timeout)
        settled = await barrier.settle(Settlement(added=tuple(tasks), flows=(flow,)))
        assert settled == FlowSettled([], [])
        wanted = [task.id for task in tasks[: steps if claimed is None else claimed]]
        deliveries = await storage.take_over(wanted, lease=LONG)
        assert len(deliveries) == len(wanted)
        return flow, deliveries

    async def statuses(self, barrier: FlowBarrier, flow: NewFlow) -> list[TaskStatus]:
        """How the steps stand, by their index."""
        ids = [step_id(flow.flow_id, index) for index in range(flow.total_steps)]
        return [task.status for task in await self.storage_of(barrier).get(ids)]

    async def join_of(self, barrier: FlowBarrier, flow: NewFlow) -> Task[Any] | None:
        """The join that was handed over."""
        found = await self.storage_of(barrier).get([join_id(flow.flow_id)])
        return found[0] if found else None

    async def test_an_empty_plan_is_fine(self, barrier: FlowBarrier) -> None:
        self.storage_of(barrier)
        assert await barrier.settle(Settlement()) == FlowSettled([], [])

    async def test_a_storage_says_what_barriers_settle(self, barrier: FlowBarrier) -> None:
        if barrier.storage is not None:
            pytest.skip("this barrier shares a storage")
        with pytest.raises(NotImplementedError):
            await barrier.settle(Settlement())

    async def test_the_last_step_hands_over_the_join(self, barrier: FlowBarrier) -> None:
        flow, (first, second, third) = await self.start(barrier)
        settled = await barrier.settle(Settlement((ended(second, "b"), ended(first, "a"))))
        assert settled == FlowSettled([], [])
        assert await self.join_of(barrier, flow) is None
        settled = await barrier.settle(Settlement((ended(third, error="c"),)))
        (news,) = settled.news
        assert (news.record.state, news.record.end) == ("sent", "completed")
        assert (news.record.counted, news.record.failed) == (3, 1)
        assert news.cancelled == ()
        assert news.record == await barrier.get_flow(flow.flow_id)
        results = flow_results(news.join)
        assert results.steps == [*done(0, result="a"), *done(1, result="b"), *failed(2, error="c")]
        assert (results.flow_id, results.aborted, results.timed_out) == (
            *(flow.flow_id, False, False),
        )
        assert await barrier.get_step_results(flow.flow_id) == results.steps
        assert await self.statuses(barrier, flow) == [EXECUTED, EXECUTED, FAILED]
        join = await self.join_of(barrier, flow)
        assert join == news.join
        assert (join.status, join.metadata) == (SCHEDULED, flow.join.metadata)
        claimed = await self.storage_of(barrier).claim_due(9, lease=1, queue_id=join.queue_id)
        assert [each.task.id for each in claimed] == [join.id]

    async def test_a_settle_repeated_has_no_news(self, barrier: FlowBarrier) -> None:
        flow, deliveries = await self.start(barrier)
        plan = Settlement(tuple(ended(each) for each in deliveries))
        assert len((await barrier.settle(plan)).news) == 1
        before = await barrier.get_flow(flow.flow_id)
        await self.pass_time(0.01)
        assert await barrier.settle(plan) == FlowSettled([], [])
        assert await barrier.get_flow(flow.flow_id) == before

    async def test_a_repeat_leaves_a_join_that_has_moved_on(self, barrier: FlowBarrier) -> None:
        flow, (delivery,) = await self.start(barrier, 1)
        plan = Settlement((ended(delivery),))
        await barrier.settle(plan)
        storage = self.storage_of(barrier)
        (join,) = await storage.take_over([join_id(flow.flow_id)], lease=LONG)
        await storage.settle(Settlement((Ending(join, EXECUTED),)))
        await barrier.settle(plan)
        stored = await self.join_of(barrier, flow)
        assert stored is not None
        assert stored.status is EXECUTED

    async def test_a_fenced_ending_counts_and_opens_nothing(self, barrier: FlowBarrier) -> None:
        flow, (late, good) = await self.start(barrier, 2)
        storage = self.storage_of(barrier)
        (current,) = await storage.take_over([late.task.id], lease=LONG)
        other, steps = self.flow(1)
        word = msgspec.structs.replace(ended(late, "late"), flows=(other,), children=tuple(steps))
        settled = await barrier.settle(Settlement((word, ended(good))))
        assert settled == FlowSettled([late.task.id], [])
        assert await barrier.get_step_results(flow.flow_id) == done(1)
        assert await barrier.get_flow(other.flow_id) is None
        (news,) = (await barrier.settle(Settlement((ended(current, "mine"),)))).news
        assert flow_results(news.join).steps[0].result == "mine"

    async def test_an_accepted_ending_opens_its_flows(self, barrier: FlowBarrier) -> None:
        _, (starter,) = await self.start(barrier, 1)
        flow, steps = self.flow(2)
        word = msgspec.structs.replace(ended(starter), flows=(flow,), children=tuple(steps))
        await barrier.settle(Settlement((word,)))
        record = await barrier.get_flow(flow.flow_id)
        assert record is not None
        assert (record.state, record.flow) == ("open", flow)
        assert await self.statuses(barrier, flow) == [SCHEDULED, SCHEDULED]

    async def test_of_two_words_on_one_task_the_current_one_counts(
        self, barrier: FlowBarrier
    ) -> None:
        flow, (late,) = await self.start(barrier, 1)
        (current,) = await self.storage_of(barrier).take_over([late.task.id], lease=LONG)
        settled = await barrier.settle(Settlement((ended(late, 1), ended(current, 2))))
        assert settled.refused == [late.task.id]
        (news,) = settled.news
        assert flow_results(news.join).steps == done(0, result=2)
        assert await self.statuses(barrier, flow) == [EXECUTED]

    async def test_a_known_flow_is_left_as_it_is(self, barrier: FlowBarrier) -> None:
        flow, (first, _) = await self.start(barrier, 2)
        await barrier.settle(Settlement((ended(first),)))
        before = await barrier.get_flow(flow.flow_id)
        assert await barrier.settle(Settlement(flows=(flow,))) == FlowSettled([], [])
        assert await barrier.get_flow(flow.flow_id) == before

    async def test_steps_of_many_flows_in_one_plan(self, barrier: FlowBarrier) -> None:
        started = [await self.start(barrier, 3) for _ in range(10)]
        rows = [deliveries for _, deliveries in started]
        endings = [ended(row[index], index) for index in (2, 0, 1) for row in rows]
        settled = await barrier.settle(Settlement(tuple(endings[:-1])))
        assert len(settled.news) == 9
        settled = await barrier.settle(Settlement((endings[-1],)))
        assert [each.record.flow.flow_id for each in settled.news] == [started[-1][0].flow_id]
        for flow, _ in started:
            join = await self.join_of(barrier, flow)
            assert join is not None
            assert [step.result for step in flow_results(join).steps] == [0, 1, 2]

    async def test_a_failure_aborts_where_that_is_the_policy(self, barrier: FlowBarrier) -> None:
        flow, (runs, fails) = await self.start(barrier, 5, policy="abort", claimed=2)
        (news,) = (await barrier.settle(Settlement((ended(fails, error="x"),)))).news
        record = news.record
        assert (record.state, record.end, record.trigger) == ("sent", "aborted", 1)
        results = flow_results(news.join)
        assert (results.aborted, results.timed_out) == (True, False)
        assert results.steps == failed(1, error="x")
        assert await self.join_of(barrier, flow) == news.join
        expected = [PROCESSING, FAILED, CANCELLED, CANCELLED, CANCELLED]
        assert await self.statuses(barrier, flow) == expected
        assert set(news.cancelled) == {step_id(flow.flow_id, index) for index in (2, 3, 4)}
        (cancelled,) = await self.storage_of(barrier).get([step_id(flow.flow_id, 2)])
        assert cancelled.execution_stats["cancelled_reason"] == "flow_aborted"
        # What runs may end as it likes, and counts for nothing.
        assert await barrier.settle(Settlement((ended(runs),))) == FlowSettled([], [])
        assert await barrier.get_step_results(flow.flow_id) == failed(1, error="x")

    async def test_a_success_aborts_nothing(self, barrier: FlowBarrier) -> None:
        _, (first, second) = await self.start(barrier, 2, policy="abort")
        assert (await barrier.settle(Settlement((ended(first),)))).news == []
        (news,) = (await barrier.settle(Settlement((ended(second),)))).news
        assert news.record.end == "completed"

    async def test_an_abort_wins_over_the_last_step_beside_it(self, barrier: FlowBarrier) -> None:
        _, (first, second) = await self.start(barrier, 2, policy="abort")
        plan = Settlement((ended(first, error="x"), ended(second)))
        (news,) = (await barrier.settle(plan)).news
        assert (news.record.end, news.record.counted) == ("aborted", 2)
        assert len(flow_results(news.join).steps) == 2

    async def _with_sentinel(
        self, barrier: FlowBarrier
    ) -> tuple[NewFlow, list[Delivery], Delivery]:
        """A flow of three steps, two of them claimed, and the delivery of its sentinel."""
        storage = self.storage_of(barrier)
        flow, tasks = self.flow(3, timeout=LONG)
        await barrier.settle(Settlement(added=tuple(tasks), flows=(flow,)))
        ids = [tasks[0].id, tasks[1].id, tasks[3].id]
        *steps, sentinel = await storage.take_over(ids, lease=LONG)
        return flow, steps, sentinel

    async def test_a_sentinel_ends_the_flow(self, barrier: FlowBarrier) -> None:
        flow, (first, _), sentinel = await self._with_sentinel(barrier)
        await barrier.settle(Settlement((ended(first),)))
        (news,) = (await barrier.settle(Settlement((Ending(sentinel, EXECUTED),)))).news
        assert (news.record.end, news.record.trigger) == ("timed_out", None)
        results = flow_results(news.join)
        assert (results.steps, results.aborted, results.timed_out) == (done(0), False, True)
        assert await self.statuses(barrier, flow) == [EXECUTED, PROCESSING, CANCELLED]
        assert news.cancelled == (step_id(flow.flow_id, 2),)
        (cancelled,) = await self.storage_of(barrier).get(list(news.cancelled))
        assert cancelled.execution_stats["cancelled_reason"] == "flow_timeout"

    async def test_a_sentinel_counts_when_it_has_ended(self, barrier: FlowBarrier) -> None:
        flow, _, sentinel = await self._with_sentinel(barrier)
        again = Ending(sentinel, SCHEDULED, next=sentinel.task)
        assert await barrier.settle(Settlement((again,))) == FlowSettled([], [])
        assert await self.join_of(barrier, flow) is None
        (sentinel,) = await self.storage_of(barrier).take_over([sentinel.task.id], lease=LONG)
        (news,) = (await barrier.settle(Settlement((Ending(sentinel, FAILED),)))).news
        assert news.record.end == "timed_out"

    async def test_steps_count_before_the_sentinel(self, barrier: FlowBarrier) -> None:
        storage = self.storage_of(barrier)
        flow, tasks = self.flow(1, timeout=LONG)
        await barrier.settle(Settlement(added=tuple(tasks), flows=(flow,)))
        step, sentinel = await storage.take_over([task.id for task in tasks], lease=LONG)
        plan = Settlement((Ending(sentinel, EXECUTED), ended(step)))
        (news,) = (await barrier.settle(plan)).news
        assert news.record.end == "completed"
        assert not flow_results(news.join).timed_out

    async def test_a_sentinel_after_the_end_does_nothing(self, barrier: FlowBarrier) -> None:
        flow, _, sentinel = await self._with_sentinel(barrier)
        await barrier.mark_aborted(flow.flow_id)
        await barrier.mark_joined(flow.flow_id)
        settled = await barrier.settle(Settlement((Ending(sentinel, EXECUTED),)))
        assert settled == FlowSettled([], [])
        record = await barrier.get_flow(flow.flow_id)
        assert record is not None
        assert record.end == "aborted"
        assert await self.join_of(barrier, flow) is None

    async def test_cancelled_steps_have_failed(self, barrier: FlowBarrier) -> None:
        flow, (runs,) = await self.start(barrier, 3, claimed=1)
        ids = tuple(step_id(flow.flow_id, index) for index in range(3))
        plan = Settlement(cancelled=(*ids, "unknown"), reason="no need")
        settled = await barrier.settle(plan)
        assert settled == FlowSettled([ids[0], "unknown"], [])
        steps = failed(1, 2, error="cancelled: no need")
        assert await barrier.get_step_results(flow.flow_id) == steps
        assert (await barrier.settle(plan)).news == []
        (news,) = (await barrier.settle(Settlement((ended(runs),)))).news
        assert flow_results(news.join).steps == [*done(0), *steps]

    async def test_a_cancelled_step_aborts_where_that_is_the_policy(
        self, barrier: FlowBarrier
    ) -> None:
        flow, _ = await self.start(barrier, 3, policy="abort", claimed=0)
        plan = Settlement(cancelled=(step_id(flow.flow_id, 1),), reason="x")
        (news,) = (await barrier.settle(plan)).news
        assert (news.record.end, news.record.trigger) == ("aborted", 1)
        assert await self.statuses(barrier, flow) == [CANCELLED] * 3

    async def test_what_is_no_step_counts_nothing(self, barrier: FlowBarrier) -> None:
        flow, _, sentinel = await self._with_sentinel(barrier)
        await self.storage_of(barrier).settle(
            Settlement((Ending(sentinel, SCHEDULED, next=sentinel.task),))
        )
        plain = self.task(self.new_queue_id())
        join = flow.join
        await self.storage_of(barrier).add([plain, join])
        plan = Settlement(cancelled=(plain.id, join.id, sentinel.task.id), reason="x")
        assert await barrier.settle(plan) == FlowSettled([], [])
        record = await barrier.get_flow(flow.flow_id)
        assert record is not None
        assert (record.state, record.counted) == ("open", 0)

    async def test_who_finds_a_flow_ready_hands_it_over(self, barrier: FlowBarrier) -> None:
        flow, (first, _) = await self.start(barrier, 2, claimed=2)
        await barrier.record_steps(flow.flow_id, done(0, 1))
        await self.pass_time(0.01)
        (news,) = (await barrier.settle(Settlement((ended(first),)))).news
        assert flow_results(news.join).steps == done(0, 1)
        assert await self.join_of(barrier, flow) == news.join
        other, _ = await self.start(barrier, 1, claimed=0)
        await barrier.mark_aborted(other.flow_id)
        (news,) = (await barrier.settle(Settlement(flows=(other,)))).news
        assert news.record.end == "aborted"
        assert (await barrier.settle(Settlement(flows=(other,)))).news == []

    async def test_a_join_that_runs_is_left_alone(self, barrier: FlowBarrier) -> None:
        storage = self.storage_of(barrier)
        flow, (first,) = await self.start(barrier, 1)
        await barrier.record_steps(flow.flow_id, done(0))
        await storage.add([flow.join])
        (running,) = await storage.take_over([flow.join.id], lease=LONG)
        assert len((await barrier.settle(Settlement((ended(first),)))).news) == 1
        join = await self.join_of(barrier, flow)
        assert join is not None
        assert (join.status, join.payload) == (PROCESSING, None)
        assert await storage.extend_leases([running], LONG) == []

    async def test_a_flow_without_a_join_stays_ready(self, barrier: FlowBarrier) -> None:
        storage = self.storage_of(barrier)
        flow, tasks = self.flow(1)
        await barrier.init_barrier(flow.flow_id, 1)
        await storage.add(tasks)
        (delivery,) = await storage.take_over([tasks[0].id], lease=LONG)
        assert await barrier.settle(Settlement((ended(delivery),))) == FlowSettled([], [])
        state = await barrier.record_steps(flow.flow_id, [])
        assert state == BarrierState(0, joined=False)

    async def test_an_index_that_is_nobodys_stops_no_neighbour(self, barrier: FlowBarrier) -> None:
        flow, (stray, good) = await self.start(barrier, 2)
        word = Ending(stray, EXECUTED, step=FlowStepResult(7, "success"))
        settled = await barrier.settle(Settlement((word, ended(good))))
        assert settled == FlowSettled([], [])
        assert await barrier.get_step_results(flow.flow_id) == done(1)

    async def test_racing_settles_hand_over_one_join(self, barrier: FlowBarrier) -> None:
        flow, deliveries = await self.start(barrier, 8)
        plans = [Settlement((ended(each),)) for each in deliveries]
        answers = await asyncio.gather(*(barrier.settle(plan) for plan in [*plans, *plans]))
        assert [len(each.news) for each in answers].count(1) == 1
        assert all(len(each.news) <= 1 and not each.refused for each in answers)
        record = await barrier.get_flow(flow.flow_id)
        assert record is not None
        assert (record.state, record.counted) == ("sent", 8)

    async def test_a_flow_of_one_thousand_steps_settled(self, barrier: FlowBarrier) -> None:
        total = 1_000 // self.shrink
        _, deliveries = await self.start(barrier, total)
        plan = Settlement(tuple(ended(each, number) for number, each in enumerate(deliveries)))
        (news,) = (await barrier.settle(plan)).news
        assert [step.result for step in flow_results(news.join).steps] == list(range(total))


def ended(delivery: Delivery, result: Any = "done", error: str | None = None) -> Ending:
    """A step that ended for good: executed, or failed with `error`."""
    meta = delivery.task.metadata.flow
    assert meta is not None
    if error is not None:
        step = FlowStepResult(meta.step_index, "fail", error=error)
        return Ending(delivery, FAILED, step=step)
    step = FlowStepResult(meta.step_index, "success", result)
    return Ending(delivery, EXECUTED, result=result, step=step)
