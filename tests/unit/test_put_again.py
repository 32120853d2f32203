"""A task that has ended and comes from its queue again: run once more, or only acknowledged."""

from __future__ import annotations

import pytest

from taskloom import Task, TaskStatus
from taskloom.consumer import _may_owe
from taskloom.outcomes import Delivery


@pytest.mark.parametrize(
    ("count", "status", "owes"),
    [
        (1, TaskStatus.EXECUTED, False),  # put again late: whoever ran it adds what follows
        (2, TaskStatus.EXECUTED, True),  # whoever ran it died, perhaps before adding its children
        (2, TaskStatus.FAILED, True),
        (2, TaskStatus.CANCELLED, False),
    ],
)
def test_only_one_whose_worker_died_may_owe_children(
    count: int, status: TaskStatus, owes: bool
) -> None:
    task = Task(type="t", queue_id="q", payload=None, status=status)
    delivery = Delivery(task=task, receipt=None, delivery_count=count)
    assert _may_owe(task, delivery) is owes
