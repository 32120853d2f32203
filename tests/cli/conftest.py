"""What every test of the command line needs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from command_line import CommandLine


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[CommandLine]:
    """A command line in a fresh directory."""
    command_line = CommandLine(tmp_path)
    yield command_line
    for process in command_line.started:
        process.kill()
        process.communicate()


@pytest.fixture
def eventually() -> Callable[[Callable[[], object]], None]:
    """Asks until the answer is true; the test's own time limit is the only one."""

    def ask(question: Callable[[], object]) -> None:
        while not question():
            time.sleep(0.03)  # between two questions: asking costs what is waited for

    return ask
