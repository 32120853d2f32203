"""A suite that passes a broken engine is worth nothing: each planted fault fails a case."""

from __future__ import annotations

import pytest
from planted_faults import ENGINES, FAULTS, Fault, first_to_notice


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.suite}: {fault.name}")
def test_the_suite_notices(fault: Fault) -> None:
    with fault.planted():
        assert first_to_notice(fault.suite), f"no case noticed: {fault.name}"


@pytest.mark.parametrize("suite", ENGINES)
def test_nothing_is_noticed_where_nothing_is_broken(suite: str) -> None:
    assert first_to_notice(suite) is None
