"""Where the demo keeps things: its database, and beside it what belongs to that."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

__all__ = ["DATABASE_VARIABLE", "QUEUE", "Places"]

DATABASE_VARIABLE = "TASKLOOM_DEMO_DATABASE"
"""Tells the worker processes, which import the demo's Loom, where its database is."""

QUEUE = "demo-files"
"""The demo's queue."""


class Places(Struct, frozen=True):
    """The files of one demo, all beside its database and named after it."""

    database: Path

    @property
    def url(self) -> str:
        """The database for `--url`, as short as its path was given."""
        return f"sqlite:///{self.database}"

    @property
    def report(self) -> Path:
        """What the flow comes to, as Markdown."""
        return self._beside("-report.md")

    @property
    def log(self) -> Path:
        """What the workers say."""
        return self._beside("-workers.log")

    @property
    def samples(self) -> Path:
        """The folder with two files that must fail."""
        return self._beside("-samples")

    def owns(self, path: Path) -> bool:
        """Whether a file was made by the demo: it would change while it is read."""
        if path.parent != self.database.absolute().parent:
            return False
        return path.name.startswith((self.database.name, f"{self.database.stem}-"))

    def leftovers(self) -> list[Path]:
        """Every file of an earlier demo."""
        name = self.database.name
        ends = ("", "-wal", "-shm", "-journal", "-checkpoint")
        files = [self.database.with_name(name + end) for end in ends]
        files += [self.report, self.log]
        return [file for file in files if file.exists()]

    def _beside(self, end: str) -> Path:
        return self.database.with_name(self.database.stem + end)
