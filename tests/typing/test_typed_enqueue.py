"""mypy --strict over the samples: `enqueue` has the signature of its function."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
SAMPLES = sorted(HERE.glob("samples/*.py"))

_ERROR = re.compile(r"(?P<file>[^:]+):(?P<line>\d+): error: .*\[(?P<code>[a-z-]+)\]")


@pytest.mark.timeout(180)  # mypy reads everything once, without a cache of its own
def test_mypy_refuses_exactly_the_marked_lines(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml")]
    command += ["--cache-dir", str(tmp_path), "--no-error-summary", *map(str, SAMPLES)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert not run.stderr, run.stderr
    found = _found(run.stdout)
    expected = {(path.name, line): codes for path in SAMPLES for line, codes in _marked(path)}
    assert found == expected, run.stdout


def _marked(path: Path) -> list[tuple[int, set[str]]]:
    """The lines with `# E: [code]`, and their codes."""
    marked = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        _, mark, codes = line.partition("# E:")
        if mark:
            marked.append((number, set(re.findall(r"\[([a-z-]+)\]", codes))))
    assert marked, f"{path.name} marks nothing"
    return marked


def _found(output: str) -> dict[tuple[str, int], set[str]]:
    found: dict[tuple[str, int], set[str]] = {}
    for match in map(_ERROR.match, output.splitlines()):
        if match is not None:
            place = (Path(match["file"]).name, int(match["line"]))
            found.setdefault(place, set()).add(match["code"])
    return found
