"""Fenced blocks and tables of Markdown pages, as tests need them."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import NamedTuple

__all__ = ["DOCS", "PAGES", "ROOT", "Block", "Row", "blocks_of", "name_of", "rows_of"]

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]

_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)(?P<rest>.*)$")
_TITLE = re.compile(r'title="([^"]+)"')
_CODE = re.compile(r"`([^`]+)`")


class Block(NamedTuple):
    """A fenced block. `line` is that of its first line of text, from 1."""

    page: Path
    line: int
    language: str
    title: str | None
    text: str


class Row(NamedTuple):
    """A row of a table, without its heading. `section` is the last heading above it."""

    section: str
    cells: list[str]

    @property
    def names(self) -> list[str]:
        """What stands in backticks in the first cell."""
        return _CODE.findall(self.cells[0])


def name_of(page: Path) -> str:
    """The page's path in the repository, for the ids of tests."""
    return page.relative_to(ROOT).as_posix()


def blocks_of(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order, without their indentation."""
    blocks: list[Block] = []
    opening: re.Match[str] | None = None
    start, text = 0, list[str]()
    for number, line in enumerate(page.read_text().splitlines(), 1):
        fence = _FENCE.match(line)
        if opening is None and fence is not None:
            opening, start, text = fence, number + 1, []
        elif opening is not None and line.strip() == "```":
            title = _TITLE.search(opening["rest"])
            body = textwrap.dedent("\n".join(text)) + "\n"
            blocks.append(Block(page, start, opening["language"], title and title[1], body))
            opening = None
        elif opening is not None:
            text.append(line)
    assert opening is None, f"{page}:{start}: a block that never ends"
    return blocks


def rows_of(page: Path) -> list[Row]:
    """The rows of all tables of a page."""
    rows: list[Row] = []
    section, in_body, in_block = "", False, False
    for line in page.read_text().splitlines():
        in_block ^= line.lstrip().startswith("```")
        if in_block:
            continue
        if line.startswith("#"):
            section = line.lstrip("#").strip()
        if not line.startswith("|"):
            in_body = False
        elif set(line) <= set("|-: "):
            in_body = True
        elif in_body:
            rows.append(Row(section, [cell.strip() for cell in line.strip("|").split(" | ")]))
    return rows
