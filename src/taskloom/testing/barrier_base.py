"""What the cases of flow barriers share."""

from __future__ import annotations

from typing import Any

from taskloom.flows import FlowStep, FlowStepResult, NewFlow, new_flow
from taskloom.identity import new_id
from taskloom.interfaces.flow_barrier import FlowBarrier
from taskloom.task import EntityRef, FailurePolicy, FlowJoin, Task
from taskloom.testing.suite import Suite

__all__ = ["BarrierSuite", "done", "failed"]


class BarrierSuite(Suite):
    """Subclasses give a fixture `barrier`: an open, empty barrier."""

    def flow(
        self,
        steps: int = 3,
        *,
        policy: FailurePolicy = "continue",
        timeout: float | None = None,
        entity: EntityRef | None = None,
    ) -> tuple[NewFlow, list[Task[Any]]]:
        """A flow with queues of its own: what a barrier keeps of it, and its tasks."""
        queue_id = self.new_queue_id()
        return new_flow(
            new_id(),
            [FlowStep("step", queue_id, {"number": number}) for number in range(steps)],
            FlowJoin("join", f"{queue_id}-join"),
            failure_policy=policy,
            timeout=timeout,
            entity=entity,
            now=self.now(),
        )

    async def open_flow(self, barrier: FlowBarrier, steps: int = 3) -> str:
        """The id of a new flow that is open."""
        flow, _ = self.flow(steps)
        await barrier.init_barrier(flow.flow_id, steps, join=flow.join)
        return flow.flow_id

    async def sent_flow(self, barrier: FlowBarrier) -> str:
        """The id of a flow that was completed and whose join was handed over."""
        flow_id = await self.open_flow(barrier, 1)
        await barrier.record_steps(flow_id, done(0))
        assert await barrier.mark_joined(flow_id)
        return flow_id


def done(*indices: int, result: Any = "done") -> list[FlowStepResult]:
    """Steps that succeeded."""
    return [FlowStepResult(index, "success", result) for index in indices]


def failed(*indices: int, error: str = "failed") -> list[FlowStepResult]:
    """Steps that failed."""
    return [FlowStepResult(index, "fail", error=error) for index in indices]
