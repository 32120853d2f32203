"""The projector: which rows follow from what."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec import UNSET
from projecting import (
    BEFORE,
    FORGETTING,
    KEEPING,
    NOW,
    ONE,
    ORDER,
    TWO,
    Provider,
    make,
    row,
    task,
    verdict,
)

from taskloom import EntityRef, SingleTaskExecutor, Task, TaskStatus
from taskloom import projector as module
from taskloom.flows import FlowEnd, NewFlow, join_task
from taskloom.interfaces import FlowNews, FlowRecord
from taskloom.memory import InMemoryStorage
from taskloom.outcomes import Delivery, Word
from taskloom.projections import EntityTaskProjection, build_projection
from taskloom.settlement import Circumstances
from taskloom.task import FlowJoin, FlowMeta, TaskMetadata


def any_task(task: Task[Any]) -> bool:
    return True


async def test_without_projections_nothing_is_made_and_nothing_happens() -> None:
    projector = make(None)
    assert not projector.wanted
    assert not projector.integrated(InMemoryStorage())
    assert projector.added([task()]) == []
    assert projector.starting([Delivery(task(), None)], any_task) == []
    assert projector.ended([verdict(Word.SUCCESS)]) == []
    assert projector.found_ended([task(status=TaskStatus.EXECUTED)]) == []
    whole = verdict(Word.SUCCESS)
    assert projector.attached(whole) is whole
    await projector.write([row()])
    await projector.join()


def test_integrated_means_that_the_storage_is_the_same() -> None:
    provider, storage = Provider(), InMemoryStorage()
    assert not make(provider).integrated(storage)
    provider.storage = storage
    assert make(provider).integrated(storage)
    assert not make(provider).integrated(InMemoryStorage())


def test_what_is_added_is_scheduled() -> None:
    tasks = [task(1), task(2, entity=None), task(3, entity=ORDER)]
    first, third = make(Provider()).added(tasks)
    assert first == EntityTaskProjection(
        "t1", "u_1", "user", "t", "q", "scheduled", created_at=BEFORE, updated_at=NOW
    )
    assert (third.task_id, third.entity_id, third.entity_type) == ("t3", "o_1", "order")


def test_the_payload_is_there_when_it_was_asked_for() -> None:
    projector = make(Provider(), payload=True)
    rows = [
        *projector.added([task()]),
        *projector.starting([Delivery(task(), None)], any_task),
        *projector.ended([verdict(Word.SUCCESS), verdict(Word.FAILURE)]),
        *projector.found_ended([task(status=TaskStatus.FAILED)]),
    ]
    assert [each.payload for each in rows] == [[1]] * 5


def test_a_task_whose_id_was_emptied_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    nameless = task().replace(id="")
    with pytest.raises(ValueError, match=r"id: .*force_store.*store_on_failure"):
        build_projection(nameless, "scheduled")
    assert build_projection(nameless.replace(entity=None), "scheduled") is None
    rows = make(Provider()).added([nameless, task(2)])
    assert [each.task_id for each in rows] == ["t2"]
    assert "cannot be projected" in caplog.text


def test_only_the_first_run_is_processing() -> None:
    deliveries = [Delivery(each, None, 2) for each in (task(1), task(2, retry_count=1))]
    rows = make(Provider()).starting(deliveries, any_task)
    assert [(each.task_id, each.status, each.updated_at) for each in rows] == [
        ("t1", "processing", NOW)
    ]


def test_what_cannot_run_is_never_processing() -> None:
    late, fit, strange = task(1, expires_at=NOW), task(2), task(3)
    deliveries = [Delivery(each, None) for each in (late, fit, strange)]
    rows = make(Provider()).starting(deliveries, lambda each: each is not strange)
    assert [each.task_id for each in rows] == ["t2"]


def test_a_success_is_executed_with_its_result() -> None:
    projector = make(Provider())
    given, none, silent = projector.ended(
        verdict(Word.SUCCESS, around, result=result)
        for around, result in (
            (ONE, msgspec.Raw(b"[1]")),
            (TWO, msgspec.Raw(b"null")),
            (TWO, UNSET),
        )
    )
    assert {each.status for each in (given, none, silent)} == {"executed"}
    assert {each.error for each in (given, none, silent)} == {None}
    assert (given.result, none.result) == (msgspec.Raw(b"[1]"), msgspec.Raw(b"null"))
    assert silent.result is UNSET


@pytest.mark.parametrize("around", [ONE, TWO], ids=["one", "two"])
@pytest.mark.parametrize(
    ("word", "error"),
    [
        (Word.FAILURE, "no"),
        (Word.IGNORED, "ignored: no executor is registered"),
        (Word.EXPIRED, "expired"),
        (Word.POISON, "delivered 1 times without an outcome: it may kill its worker"),
    ],
)
@pytest.mark.parametrize("executor", [KEEPING, FORGETTING], ids=["kept", "discarded"])
def test_every_other_end_is_failed_with_its_reason(
    word: Word, error: str, around: Circumstances, executor: SingleTaskExecutor
) -> None:
    (end,) = make(Provider()).ended([verdict(word, around, executor=executor)])
    assert (end.status, end.error, end.result) == ("failed", error, UNSET)
    assert (end.task_id, end.created_at, end.updated_at) == ("t1", BEFORE, NOW)


@pytest.mark.parametrize("around", [ONE, TWO], ids=["one", "two"])
@pytest.mark.parametrize("word", [Word.FAILURE, Word.RESCHEDULED, Word.RELEASED, Word.LOST])
def test_what_goes_on_has_no_row(word: Word, around: Circumstances) -> None:
    projector, going_on = make(Provider()), verdict(word, around, of=task(retries=1))
    assert projector.ended([going_on]) == []
    assert projector.attached(going_on) is going_on


@pytest.mark.parametrize("word", [Word.RELEASED, Word.LOST])
def test_what_is_given_up_has_no_row_whatever_its_status_says(word: Word) -> None:
    given_up = verdict(word, of=task(status=TaskStatus.EXECUTED))
    assert make(Provider()).ended([given_up]) == []


@pytest.mark.parametrize(
    ("fields", "status", "error"),
    [
        ({"status": TaskStatus.EXECUTED, "execution_result": 7}, "executed", None),
        ({"status": TaskStatus.FAILED, "execution_stats": {"last_error": "no"}}, "failed", "no"),
        ({"status": TaskStatus.FAILED}, "failed", "failed"),
        ({"status": TaskStatus.EXPIRED}, "failed", "expired"),
        ({"status": TaskStatus.IGNORED}, "failed", "ignored: no executor is registered"),
        (
            {"status": TaskStatus.CANCELLED, "execution_stats": {"cancelled_reason": "late"}},
            "failed",
            "cancelled: late",
        ),
    ],
)
def test_ended_tasks_of_a_storage_have_the_same_rows(
    fields: dict[str, Any], status: str, error: str | None
) -> None:
    waiting = task(2, status=TaskStatus.QUEUED)
    (end,) = make(Provider()).found_ended([waiting, task(1, **fields)])
    assert (end.status, end.error) == (status, error)
    assert end.result == fields.get("execution_result", UNSET)


def join_of(entity: EntityRef | None, **fields: Any) -> Task[Any]:
    join = FlowJoin("t", "q")
    flow = FlowMeta(
        flow_id="f1", step_index=-1, total_steps=2, join=join, is_join=True, entity=entity
    )
    return task(9, entity=None, metadata=TaskMetadata(flow=flow), **fields)


def test_the_end_of_a_join_is_the_end_of_its_flows_entity() -> None:
    projector, join = make(Provider(), payload=True), join_of(ORDER)
    assert projector.added([join]) == []
    assert projector.starting([Delivery(join, None)], any_task) == []
    done = verdict(Word.SUCCESS, of=join, result=msgspec.Raw(b"1"))
    failed = verdict(Word.FAILURE, of=join)
    executed, lost = projector.ended([done, failed])
    assert executed == EntityTaskProjection(
        "f1",
        "o_1",
        "order",
        "t",
        "q",
        "executed",
        created_at=BEFORE,
        updated_at=NOW,
        result=msgspec.Raw(b"1"),
    )
    assert (lost.task_id, lost.status, lost.error) == ("f1", "failed", "no")
    assert projector.ended([verdict(Word.FAILURE, of=join_of(ORDER, retries=1))]) == []
    assert projector.ended([verdict(Word.SUCCESS, of=join_of(None))]) == []


def news(end: FlowEnd | None, entity: EntityRef | None = ORDER) -> FlowNews:
    flow = NewFlow("f1", 2, join_of(entity))
    return FlowNews(FlowRecord(flow, "sent", end, 2, 1, BEFORE, NOW), flow.join)


def test_a_flow_runs_from_its_start_under_its_own_id() -> None:
    projector = make(Provider(), payload=True)
    flows = [NewFlow("f1", 2, join_of(ORDER)), NewFlow("f2", 2, join_of(None))]
    assert projector.flows_started(flows) == [
        EntityTaskProjection(
            "f1", "o_1", "order", "t", "q", "processing", created_at=BEFORE, updated_at=NOW
        )
    ]
    assert make(None).flows_started(flows) == []


def test_a_flow_that_ends_early_has_failed_at_once() -> None:
    ends: list[FlowEnd] = ["aborted", "timed_out", "completed"]
    everything = [*(news(end) for end in ends), news("aborted", None)]
    rows = make(Provider()).flows_ended(everything)
    assert [(each.task_id, each.status, each.error) for each in rows] == [
        ("f1", "failed", "flow_aborted"),
        ("f1", "failed", "flow_timeout"),
    ]
    assert make(None).flows_ended(everything) == []


def test_the_join_of_a_flow_that_ended_early_does_not_mend_it() -> None:
    ends: list[tuple[FlowEnd, str]] = [("aborted", "flow_aborted"), ("timed_out", "flow_timeout")]
    for end, error in ends:
        join = join_task(join_of(ORDER), [], now=NOW, end=end)
        done = verdict(Word.SUCCESS, of=join, result=msgspec.Raw(b"1"))
        (end_row,) = make(Provider()).ended([done])
        assert (end_row.status, end_row.error, end_row.result) == ("failed", error, UNSET)


def test_a_step_is_not_taken_for_its_flow() -> None:
    flow = FlowMeta(
        flow_id="f1", step_index=0, total_steps=2, join=FlowJoin("j", "q"), entity=ORDER
    )
    step = task(5, entity=None, metadata=TaskMetadata(flow=flow))
    assert make(Provider()).ended([verdict(Word.SUCCESS, of=step)]) == []


@pytest.mark.parametrize(
    ("end", "error"), [("aborted", "flow_aborted"), ("timed_out", "flow_timeout")]
)
def test_a_flow_that_ended_early_has_failed_whatever_its_join_does(end: str, error: str) -> None:
    results = {"flow_id": "f1", "steps": [], end: True}
    join = join_of(ORDER).replace(payload={"flow_results": results})
    words = [
        verdict(Word.SUCCESS, of=join, result=msgspec.Raw(b"1")),
        verdict(Word.FAILURE, of=join),
    ]
    rows = make(Provider()).ended(words)
    assert [(row.status, row.error, row.result) for row in rows] == [("failed", error, UNSET)] * 2


def test_what_will_not_run_is_not_processing() -> None:
    deliveries = [Delivery(task(1, expires_at=NOW), None), Delivery(task(2), None)]
    projector = make(Provider())
    assert [row.task_id for row in projector.starting(deliveries, any_task)] == ["t2"]
    assert projector.starting(deliveries, lambda task: False) == []


def test_tasks_without_an_entity_build_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[Any] = []
    for name in ("build_projection", "flow_projection"):
        monkeypatch.setattr(module, name, lambda *args, **options: built.append(args))
    projector = make(Provider())
    tasks = [task(n, entity=None) for n in range(1000)]
    verdicts = [verdict(Word.SUCCESS, of=each) for each in tasks]
    assert projector.added(tasks) == []
    assert projector.starting([Delivery(each, None) for each in tasks], any_task) == []
    assert projector.ended(verdicts) == []
    assert [projector.attached(each) for each in verdicts] == verdicts
    assert built == []


def test_children_travel_with_the_ending_they_are_added_by() -> None:
    projector = make(Provider())
    parent = verdict(Word.SUCCESS, of=task(entity=None), children=(task(2), task(3, entity=None)))
    whole = projector.attached(parent)
    assert whole.ending is not None
    assert [(row.task_id, row.status) for row in whole.ending.projections] == [("t2", "scheduled")]
    failed = verdict(Word.FAILURE, children=(task(2),))
    whole = projector.attached(failed)
    assert whole.ending is not None
    assert [row.status for row in whole.ending.projections] == ["scheduled", "failed"]


def test_rows_travel_with_the_ending_that_is_settled() -> None:
    projector = make(Provider())
    whole = projector.attached(verdict(Word.SUCCESS, result=msgspec.Raw(b"1")))
    assert whole.ending is not None
    assert list(whole.ending.projections) == projector.ended([whole])
    strange = verdict(Word.SUCCESS, of=task(entity=None))
    assert projector.attached(strange) is strange
    parent = projector.attached(verdict(Word.SUCCESS, children=(task(2), task(3, entity=None))))
    assert parent.ending is not None
    told = [(each.task_id, each.status) for each in parent.ending.projections]
    assert told == [("t2", "scheduled"), ("t1", "executed")]
    discarded = verdict(Word.FAILURE, TWO)
    assert projector.attached(discarded) is discarded
