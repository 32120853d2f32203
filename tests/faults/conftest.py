"""One nursery for all tests here, and rigs on it. Helpers to import are in `rig`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest
from nursery import Nursery
from rig import OpenRig, rig_on


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """The process that workers are forked from."""
    nursery = Nursery()
    try:
        yield nursery
    finally:
        nursery.end()


@pytest.fixture
def open_rig(nursery: Nursery) -> OpenRig:
    """Makes rigs; every process of one has ended when it is left, on failure too."""
    return partial(rig_on, nursery)
