"""Flow barriers against a model of ten lines: any calls in any order, repeated, raced, cut short.

`TASKLOOM_TEST_EXAMPLES=10000` runs more of them.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import permutations
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sqlalchemy import Connection

from taskloom.flows import FlowStep, FlowStepResult, new_flow
from taskloom.interfaces import BarrierState, FlowBarrier
from taskloom.memory import InMemoryFlowBarrier
from taskloom.sql import SqlFlowBarrier
from taskloom.task import FlowJoin
from taskloom.testing.suite import far_future

LONG = os.environ.get("TASKLOOM_TEST_EXAMPLES")
EXAMPLES = int(LONG or 300)
IN_A_FILE = int(LONG or 75)
"""Fewer: there, each step is a few transactions."""
pytestmark = pytest.mark.timeout(60 + EXAMPLES)

SETTINGS = settings(
    max_examples=EXAMPLES,
    stateful_step_count=20,
    deadline=None,
    report_multiple_bugs=False,
    derandomize=LONG is None,
    suppress_health_check=[HealthCheck.too_slow],
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
FLOWS = {f"flow-{size}": size for size in (1, 2, 3, 5)}
STEPS = st.builds(
    FlowStepResult,
    st.integers(0, 4),
    st.sampled_from(["success", "fail"]),
    st.one_of(st.none(), st.integers(0, 9), st.just({"$a.b": ["ü\x00"]})),
    st.one_of(st.none(), st.just("error\x00")),
)


@dataclass
class Model:
    """One flow as it must be."""

    total: int
    steps: dict[int, FlowStepResult] = field(default_factory=dict)
    end: str | None = None
    sent: bool = False
    trigger: int | None = None

    def record(self, results: list[FlowStepResult], abort: bool) -> BarrierState:
        if self.end is None:
            for step in results:
                self.steps.setdefault(step.step_index, step)
            if abort:
                self.end = "aborted"
                self.trigger = next((s.step_index for s in results if s.status == "fail"), None)
            elif len(self.steps) == self.total:
                self.end = "completed"
        early = self.end in ("aborted", "timed_out")
        left = -1 if early else self.total - len(self.steps)
        return BarrierState(left, self.sent, early, self.end == "timed_out")

    def mark_aborted(self, timed_out: bool) -> bool:
        was_open = self.end is None
        self.end = self.end or ("timed_out" if timed_out else "aborted")
        return was_open

    def mark_joined(self) -> bool:
        first = self.end is not None and not self.sent
        self.sent = self.sent or first
        return first


UNKNOWN = BarrierState(-1, known=False)


@dataclass(frozen=True)
class Call:
    """One call on a flow: how an engine does it, and how the model."""

    flow_id: str
    real: Callable[[FlowBarrier], Coroutine[Any, Any, Any]]
    model: Callable[[Model], Any]
    unknown: Any
    """The answer where there is no such flow."""


@st.composite
def calls(draw: st.DrawFn, among: tuple[str, ...] = tuple(FLOWS)) -> Call:
    flow_id = draw(st.sampled_from(among))
    kind = draw(st.sampled_from(["record", "record", "record", "abort", "early", "join"]))
    if kind in ("record", "abort"):
        abort = kind == "abort"
        drawn = draw(st.lists(STEPS, max_size=5))
        steps = [step for step in drawn if step.step_index < FLOWS[flow_id]]
        return Call(
            flow_id,
            lambda barrier: barrier.record_steps(flow_id, steps, abort=abort),
            lambda model: model.record(steps, abort),
            UNKNOWN,
        )
    if kind == "early":
        timed_out = draw(st.booleans())
        return Call(
            flow_id,
            lambda barrier: barrier.mark_aborted(flow_id, timed_out=timed_out),
            lambda model: model.mark_aborted(timed_out),
            False,
        )
    return Call(flow_id, lambda b: b.mark_joined(flow_id), lambda m: m.mark_joined(), False)


@pytest.fixture(autouse=True, scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One loop and one file for all examples: making them would take longer than the calls."""
    url = f"sqlite:///{tmp_path_factory.mktemp('flows')}/flows.db"
    with asyncio.Runner() as runner:
        BarrierMachine.loop = runner.get_loop()
        SqliteMachine.current = SqlFlowBarrier.from_url(url)
        runner.run(SqliteMachine.current.open())
        yield
        runner.run(SqliteMachine.current.close())


class BarrierMachine(RuleBasedStateMachine):
    """Rules for any engine; a subclass makes one."""

    loop: asyncio.AbstractEventLoop
    barrier: FlowBarrier

    def __init__(self) -> None:
        super().__init__()
        self.models: dict[str, Model] = {}

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    def expected(self, models: dict[str, Model], call: Call) -> Any:
        """The answer of the model, which moves on."""
        model = models.get(call.flow_id)
        return call.unknown if model is None else call.model(model)

    def assert_steps(self, flow_id: str) -> None:
        """What counted is what the model says."""
        model = self.models.get(flow_id)
        wanted = [] if model is None else [model.steps[index] for index in sorted(model.steps)]
        assert self.run(self.barrier.get_step_results(flow_id)) == wanted
        complete = model is not None and model.end == "completed"
        assert self.run(self.barrier.is_complete(flow_id)) is complete

    @rule(flow_id=st.sampled_from(sorted(FLOWS)))
    def open_flow(self, flow_id: str) -> None:
        step = FlowStep("step", "q", None)
        flow, _ = new_flow(flow_id, [step] * FLOWS[flow_id], FlowJoin("join", "q"), now=NOW)
        self.run(self.barrier.init_barrier(flow_id, flow.total_steps, join=flow.join))
        self.models.setdefault(flow_id, Model(flow.total_steps))

    @rule(call=calls())
    def say(self, call: Call) -> None:
        assert self.run(call.real(self.barrier)) == self.expected(self.models, call)
        self.assert_steps(call.flow_id)

    @rule(call=calls())
    def say_again_after_a_lost_answer(self, call: Call) -> None:
        self.run(call.real(self.barrier))
        self.expected(self.models, call)
        assert self.run(call.real(self.barrier)) == self.expected(self.models, call)
        self.assert_steps(call.flow_id)

    @precondition(lambda self: self.models)
    @rule(data=st.data())
    def race(self, data: st.DataObject) -> None:
        """Calls at once: what came of them is what some order of them gives."""
        flow_id = data.draw(st.sampled_from(sorted(self.models)))
        racing = data.draw(st.lists(calls((flow_id,)), min_size=2, max_size=3))

        async def together() -> list[Any]:
            return await asyncio.gather(*(call.real(self.barrier) for call in racing))

        answers = self.run(together())
        steps = self.run(self.barrier.get_step_results(flow_id))
        for order in permutations(range(len(racing))):
            models = {flow_id: deepcopy(self.models[flow_id])}
            told = {number: self.expected(models, racing[number]) for number in order}
            kept = models[flow_id].steps
            same = steps == [kept[index] for index in sorted(kept)]
            if same and all(told[number] == answer for number, answer in enumerate(answers)):
                self.models.update(models)
                return
        raise AssertionError(f"no order explains {answers}")

    @rule(limit=st.integers(0, 2))
    def prune(self, limit: int) -> None:
        sent = {id for id, model in self.models.items() if model.sent}
        pruned = self.run(self.barrier.prune(sent_before=far_future(), limit=limit))
        assert pruned == min(limit, len(sent))
        known = {each.flow.flow_id for each in self.run(self.barrier.search())}
        assert self.models.keys() - sent <= known
        self.models = {id: model for id, model in self.models.items() if id in known}
        for flow_id in sent - known:
            self.assert_steps(flow_id)

    @invariant()
    def flows_are_as_the_model_says(self) -> None:
        records = {each.flow.flow_id: each for each in self.run(self.barrier.search())}
        assert records.keys() == self.models.keys()
        for flow_id, model in self.models.items():
            record = records[flow_id]
            state = "sent" if model.sent else "open" if model.end is None else "ready"
            assert (record.state, record.end) == (state, model.end)
            assert (record.counted, record.trigger) == (len(model.steps), model.trigger)
            assert record.failed == sum(s.status == "fail" for s in model.steps.values())
        unsent = self.run(self.barrier.unsent(ready_before=far_future(), limit=9))
        assert unsent == [each for each in unsent if each.state == "ready"]
        assert len(unsent) == sum(each.state == "ready" for each in records.values())


class InMemoryMachine(BarrierMachine):
    @initialize()
    def start(self) -> None:
        self.barrier = InMemoryFlowBarrier()


class SqliteMachine(BarrierMachine):
    """On a file, so that what was dropped can be opened again."""

    current: SqlFlowBarrier

    @initialize()
    def start(self) -> None:
        self.dropped: SqlFlowBarrier | None = None
        self.barrier = self.current
        self.run(self.current.storage.database.write(_empty))

    @precondition(lambda self: self.dropped is None)
    @rule()
    def crash(self) -> None:
        """Nothing is said to the old one: its connections stay as they were."""
        self.dropped = self.current
        url = self.dropped.storage.database.place
        self.barrier = SqliteMachine.current = SqlFlowBarrier.from_url(url)
        self.run(self.barrier.open())

    def teardown(self) -> None:
        if self.dropped is not None:
            self.run(self.dropped.close())


def _empty(conn: Connection) -> None:
    for table in ("taskloom_flows", "taskloom_flow_steps"):
        conn.exec_driver_sql(f"DELETE FROM {table}")


TestInMemoryBarrier = InMemoryMachine.TestCase
TestInMemoryBarrier.settings = SETTINGS
TestSqliteBarrier = SqliteMachine.TestCase
TestSqliteBarrier.settings = settings(SETTINGS, max_examples=IN_A_FILE)
