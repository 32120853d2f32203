"""The checker of simulated histories: quiet about a good one, clear about each kind of bad one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from simulation.checker import check
from simulation.history import Event, Final
from taskloom import Task, TaskStatus

NOW = datetime(2020, 1, 1, tzinfo=UTC)
TASK: Task[Any] = Task(
    type="work", queue_id="q", payload=1, id="a", retries=0, execute_at=NOW, created_at=NOW
)


def event(at: float, kind: str, task: str = "a", who: str = "worker1", **about: Any) -> Event:
    return Event(at, kind, who, task, about)


def start(at: float, run: int = 1, task: str = "a", **about: Any) -> Event:
    usual = {"run": run, "attempt": 0, "due": NOW, "expires": None, "now": NOW}
    return event(at, "start", task, **usual | about)


def end(at: float, run: int = 1, word: str = "success", children: tuple[str, ...] = ()) -> Event:
    return event(at, "end", run=run, word=word, children=children)


ADDED = [event(0, "add.invoke", who="client", fields=TASK), event(0, "add.ok", who="client")]
CLAIM = event(1, "claim", receipt=1, count=1)
ACK = event(4, "ack", receipt=1)
ONCE = [*ADDED, CLAIM, start(2), end(3), ACK]
EXECUTED = TASK.replace(status=TaskStatus.EXECUTED, execution_result={"run": 1})
CHILD = TASK.replace(id="b", status=TaskStatus.IGNORED, type="nobody")


def found(events: list[Event], *rows: Task[Any], **final: Any) -> list[str]:
    end = Final({row.id: row for row in rows}, **final)
    return [text.split("\n")[0] for text in check(events, end, max_deliveries=3)]


def test_a_good_history_is_quiet() -> None:
    assert found(ONCE) == []
    assert found(ONCE, EXECUTED) == []


BAD: dict[str, tuple[str, list[Event], list[Task[Any]], dict[str, Any]]] = {
    "gone": ("I1", ADDED, [], {}),
    "unfinished": ("I1", ONCE, [], {"unfinished": True}),
    "an error of ours": ("I1", [*ONCE, event(5, "broken", "", error="no")], [], {}),
    "left a terminal status": (
        "I2",
        [*ONCE, event(5, "row", old="executed", new="scheduled", poison=False)],
        [EXECUTED],
        {},
    ),
    "cancelled and run": (
        "I2",
        [*ONCE, event(1, "cancel", who="client", ok=True)],
        [EXECUTED],
        {},
    ),
    "never added": ("I3", [*ONCE, start(5, 2, "x")], [], {}),
    "another result": ("I4", ONCE, [EXECUTED.replace(execution_result={"run": 2})], {}),
    "failed without a reason": ("I4", ONCE, [TASK.replace(status=TaskStatus.FAILED)], {}),
    "acknowledged, never run": ("I4", [*ADDED, CLAIM, ACK], [], {}),
    "ran again": ("I5", [*ONCE[:-1], start(5, 2), end(6, 2), ACK], [], {}),
    "ran twice at a time": (
        "I6",
        [*ADDED, CLAIM, start(2), start(2.5, 2), end(3), end(4, 2), ACK],
        [],
        {},
    ),
    "outdated": ("I7", [*ONCE[:-1], event(3.5, "claim", receipt=2, count=2), ACK], [], {}),
    "too many attempts": ("I8", [*ADDED, CLAIM, start(2, attempt=1), end(3), ACK], [], {}),
    "miscounted": (
        "I8",
        [*ADDED, event(1, "claim", receipt=1, count=2), start(2), end(3), ACK],
        [],
        {},
    ),
    "too early": ("I12", [*ADDED, CLAIM, start(2, due=NOW + timedelta(1)), end(3), ACK], [], {}),
    "too late": ("I12", [*ADDED, CLAIM, start(2, expires=NOW), end(3), ACK], [], {}),
    "waits at the end": ("I14", ADDED, [TASK], {}),
    "no child": ("I15", [*ADDED, CLAIM, start(2), end(3, children=("b",)), ACK], [], {}),
    "a child of another run": (
        "I15",
        [
            *ADDED,
            CLAIM,
            start(2),
            end(3, children=("b",)),
            event(3.5, "crash", ""),
            start(5, 2),
            end(6, 2),
            event(7, "ack", receipt=1),
        ],
        [CHILD],
        {},
    ),
    "left over": ("I16", ONCE, [], {"leftovers": ["lock x"]}),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_history_is_told(name: str) -> None:
    invariant, events, rows, final = BAD[name]
    told = found(events, *rows, **final)
    assert any(text.startswith(f"{invariant} ") for text in told), told


def test_a_fault_excuses_a_second_run() -> None:
    again = [start(5, 2), end(6, 2), event(7, "ack", receipt=1)]
    assert found([*ONCE[:-1], event(3.5, "crash", ""), *again]) == []


def test_one_refused_call_excuses_nothing() -> None:
    again = [start(5, 2), end(6, 2), event(7, "ack", receipt=1)]
    refused = event(3.5, "fault", "", call="settle", fault="refused", ids=("a",))
    assert found([*ONCE[:-1], refused, *again]) == ["I5 task a ran again (run 2) for no reason"]


def test_a_violation_comes_with_the_events_of_its_task() -> None:
    (told,) = check([*ONCE, event(5, "broken", "", error="no")], Final({}), max_deliveries=3)
    assert "broken" in told
    (told,) = check(ADDED, Final({}), max_deliveries=3)
    assert "add.ok" in told
