"""What the demo makes of all files: figures in short, and a report as Markdown."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from msgspec import Struct

from taskloom.codec import one_line

__all__ = ["Failure", "Found", "Report", "make_report", "write_report"]

_LARGEST = 5
_FAILURES = 12


class Found(Struct, frozen=True):
    """A file that was measured: the result of its step."""

    path: str
    bytes: int
    lines: int | None
    """None: not a text."""
    sha256: str
    definitions: int | None
    """None: not Python, or not parsed."""


class Failure(Struct, frozen=True):
    """A file that could not be measured."""

    path: str
    attempts: int
    error: str


class Report(Struct, frozen=True):
    """The whole folder in short: the result of the join."""

    files: int
    """Measured ones."""
    failed: int
    lines: int
    bytes: int
    python_files: int
    definitions: int
    largest: list[Found]
    failures: list[Failure]
    """The first of them."""


def make_report(found: Sequence[Found], failures: Sequence[Failure]) -> Report:
    """Count it all."""
    python = [each.definitions for each in found if each.definitions is not None]
    by_size = sorted(found, key=lambda each: each.bytes, reverse=True)
    return Report(
        files=len(found),
        failed=len(failures),
        lines=sum(each.lines or 0 for each in found),
        bytes=sum(each.bytes for each in found),
        python_files=len(python),
        definitions=sum(python),
        largest=by_size[:_LARGEST],
        failures=list(failures[:_FAILURES]),
    )


def write_report(path: Path, found: Sequence[Found], failures: Sequence[Failure]) -> None:
    """Write one line per file. Done again it writes the same; nobody ever sees half of it."""
    draft = path.with_name(path.name + ".draft")
    with draft.open("w", encoding="utf-8") as file:
        file.writelines(line + "\n" for line in _lines(found, failures))
    os.replace(draft, path)


def _lines(found: Sequence[Found], failures: Sequence[Failure]) -> Iterator[str]:
    yield from ("# The index", "", f"{len(found):,} files indexed, {len(failures):,} failed.", "")
    if failures:
        yield from ("## Failed", "", "| file | attempts | error |", "|---|---|---|")
        yield from (_row(each.path, each.attempts, each.error) for each in failures)
        yield ""
    yield from ("## Files", "", "| file | bytes | lines | definitions | SHA-256 |")
    yield "|---|---|---|---|---|"
    for each in found:
        yield _row(each.path, each.bytes, each.lines, each.definitions, each.sha256)


def _row(*cells: str | int | None) -> str:
    texts = ("" if cell is None else one_line(str(cell)).replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(texts)} |"
