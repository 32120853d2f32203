"""ProjectionsConformance: what entity projections do that can be read back.

class TestMyProjections(ProjectionsConformance):
    @pytest.fixture
    async def projections(self):
        async with MyProjections(...) as projections:
            yield projections
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Sequence
from datetime import timedelta
from itertools import permutations
from typing import Any

from msgspec import UNSET
from msgspec.structs import replace

from taskloom.identity import new_id
from taskloom.interfaces.entity_projections import EntityProjections
from taskloom.projections import EntityTaskProjection, ProjectionStatus
from taskloom.testing.suite import AWKWARD_PAYLOADS, Suite

__all__ = ["Projections", "ProjectionsConformance"]

ORDERS: list[tuple[ProjectionStatus, ...]] = list(
    permutations(("scheduled", "processing", "executed", "failed"))
)
"""In which order one task's rows may arrive."""


class Projections(EntityProjections):
    """For annotations: entity projections that an engine stores."""

    @abstractmethod
    async def get(self, task_ids: Sequence[str]) -> list[EntityTaskProjection]:
        """The rows that exist, in the order asked for."""


class ProjectionsConformance(Suite):
    """Subclass it with a fixture `projections`: open, empty, with `get`. Needs pytest-asyncio in
    auto mode. No case can be skipped.
    """

    def row(self, status: ProjectionStatus, minute: int = 0, **fields: Any) -> EntityTaskProjection:
        """A row of a task of its own, made and changed in that minute of the test."""
        at = self.now() + timedelta(minutes=minute)
        defaults: dict[str, Any] = {
            "task_id": new_id(),
            "entity_id": "user.1",
            "entity_type": "$user",
            "task_type": "conformance",
            "queue_id": self.new_queue_id(),
            "created_at": at,
            "updated_at": at,
        }
        if status == "failed":
            defaults["error"] = "no"
        return EntityTaskProjection(status=status, **(defaults | fields))

    def after(
        self, row: EntityTaskProjection, status: ProjectionStatus, minute: int = 1, **fields: Any
    ) -> EntityTaskProjection:
        """A later row of the same task."""
        same = {"task_id": row.task_id, "queue_id": row.queue_id}
        return self.row(status, minute, **(same | fields))

    def life(
        self,
        *statuses: ProjectionStatus,
        payloads: Sequence[Any] = (),
        results: Sequence[Any] = (),
    ) -> list[EntityTaskProjection]:
        """Rows of one task, a minute between them."""
        first, none = self.row(statuses[0]), [UNSET] * len(statuses)
        steps = zip(statuses, payloads or none, results or none, strict=True)
        return [
            self.after(first, status, minute, payload=payload, result=result)
            for minute, (status, payload, result) in enumerate(steps)
        ]

    async def written(
        self, projections: Projections, rows: list[EntityTaskProjection], together: bool
    ) -> EntityTaskProjection:
        """What is left of the rows of one task, written in one call or one by one."""
        for call in [rows] if together else [[row] for row in rows]:
            await projections.upsert_projections(call)
        return await self.one(projections, rows[0].task_id)

    async def one(self, projections: Projections, task_id: str) -> EntityTaskProjection:
        """The row of that task, which must exist."""
        (row,) = await projections.get([task_id])
        return row

    async def test_rows_come_back_as_they_were(self, projections: Projections) -> None:
        rows = [
            self.row("scheduled", payload={"a": [1, None]}),
            self.row("processing"),
            self.row("executed", result={"ü": 0.5}, entity_id="schlüssel", entity_type="a.b"),
            self.row("failed", error="'; DROP TABLE rows; -- früher\nhier"),
        ]
        await projections.upsert_projections(rows)
        assert await projections.get([row.task_id for row in rows]) == rows

    async def test_values_come_back_as_they_were(self, projections: Projections) -> None:
        rows = [self.row("executed", payload=value, result=value) for value in AWKWARD_PAYLOADS]
        await projections.upsert_projections(rows)
        assert await projections.get([row.task_id for row in rows]) == rows

    async def test_no_value_is_not_none(self, projections: Projections) -> None:
        none, nothing = self.row("executed", payload=None, result=None), self.row("executed")
        await projections.upsert_projections([none, nothing])
        found = await projections.get([none.task_id, nothing.task_id])
        assert [(row.payload, row.result) for row in found] == [(None, None), (UNSET, UNSET)]

    async def test_rows_are_got_in_the_order_asked_for(self, projections: Projections) -> None:
        first, second, third = (self.row("scheduled") for _ in range(3))
        await projections.upsert_projections([first, second, third])
        asked = [third.task_id, "unknown", first.task_id]
        assert await projections.get(asked) == [third, first]
        assert await projections.get([]) == []

    async def test_nothing_is_written_of_nothing(self, projections: Projections) -> None:
        row = self.row("scheduled")
        await projections.upsert_projections([row])
        await projections.upsert_projections([])
        assert await projections.get([row.task_id]) == [row]

    async def test_a_row_follows_its_task(self, projections: Projections) -> None:
        first = self.row("scheduled", payload=1)
        running = self.after(first, "processing", 1)
        ended = self.after(first, "executed", 2, result=[2])
        for row in (first, running, ended):
            await projections.upsert_projections([row])
            expected = replace(row, created_at=first.created_at, payload=1)
            assert await self.one(projections, first.task_id) == expected

    async def test_the_error_of_a_failed_task_is_kept(self, projections: Projections) -> None:
        first = self.row("processing")
        await projections.upsert_projections([first])
        await projections.upsert_projections([self.after(first, "failed", error="why")])
        found = await self.one(projections, first.task_id)
        assert (found.status, found.error, found.result) == ("failed", "why", UNSET)

    async def test_the_first_payload_stays(self, projections: Projections) -> None:
        for payloads, kept in (((None, 1, 2), None), ((1, UNSET, 2), 1), ((UNSET, 1, UNSET), 1)):
            for together in (True, False):
                rows = self.life("scheduled", "processing", "executed", payloads=payloads)
                found = await self.written(projections, rows, together)
                assert (found.status, found.payload) == ("executed", kept)

    async def test_a_row_never_goes_back(self, projections: Projections) -> None:
        for order in ORDERS:
            for together in (True, False):
                rows = self.life(*order)
                end = next(row for row in rows if row.status in ("executed", "failed"))
                expected = replace(end, created_at=rows[0].created_at)
                assert await self.written(projections, rows, together) == expected

    async def test_what_runs_is_not_scheduled_again(self, projections: Projections) -> None:
        for together in (True, False):
            rows = self.life("processing", "scheduled")
            assert await self.written(projections, rows, together) == rows[0]

    async def test_of_two_equal_ends_the_first_stays(self, projections: Projections) -> None:
        for together in (True, False):
            rows = self.life("executed", "executed", results=(1, 2))
            assert await self.written(projections, rows, together) == rows[0]

    async def test_a_call_repeated_changes_nothing(self, projections: Projections) -> None:
        rows = [
            self.row("scheduled", payload=1),
            self.row("processing"),
            self.row("executed", result=1),
            self.row("failed"),
        ]
        for _ in range(2):
            await projections.upsert_projections(rows)
            assert await projections.get([row.task_id for row in rows]) == rows

    async def test_one_task_is_nobody_elses_business(self, projections: Projections) -> None:
        done, waiting, new = self.row("executed"), self.row("scheduled"), self.row("processing")
        await projections.upsert_projections([done, waiting])
        late, running = self.after(done, "failed"), self.after(waiting, "processing")
        await projections.upsert_projections([late, running, new])
        found = await projections.get([row.task_id for row in (done, waiting, new)])
        assert [row.status for row in found] == ["executed", "processing", "processing"]

    async def test_many_rows_are_one_call(self, projections: Projections) -> None:
        total = 2_500 // self.shrink
        rows = [self.row("scheduled", payload=number) for number in range(total)]
        ends = [self.after(row, "executed", result=row.payload) for row in rows]
        await projections.upsert_projections([*rows, *ends])
        found = await projections.get([row.task_id for row in rows])
        assert [row.result for row in found] == list(range(total))
        assert {row.status for row in found} == {"executed"}

    async def test_of_racing_ends_one_is_first(self, projections: Projections) -> None:
        first = self.row("processing")
        await projections.upsert_projections([first])
        ends = [self.after(first, "executed", n, result=n) for n in range(5)]
        ends += [self.after(first, "failed", n, error=str(n)) for n in range(5)]
        # Whatever stands there once one call has returned is there for good.
        seen = await asyncio.gather(*(self.written(projections, [row], True) for row in ends))
        assert seen == [seen[0]] * len(ends)
        assert seen[0] in [replace(row, created_at=first.created_at) for row in ends]

    async def test_values_are_nobody_elses(self, projections: Projections) -> None:
        given: dict[str, Any] = {"list": [1]}
        row = self.row("executed", payload=given, result=given)
        await projections.upsert_projections([row])
        given["list"].append(2)
        found = await self.one(projections, row.task_id)
        assert (found.payload, found.result) == ({"list": [1]}, {"list": [1]})
        found.payload["list"].append(3)
        found.result["list"].append(3)
        again = await self.one(projections, row.task_id)
        assert (again.payload, again.result) == ({"list": [1]}, {"list": [1]})

    async def test_opening_again_changes_nothing(self, projections: Projections) -> None:
        row = self.row("scheduled")
        await projections.upsert_projections([row])
        await projections.open()
        assert await projections.get([row.task_id]) == [row]
