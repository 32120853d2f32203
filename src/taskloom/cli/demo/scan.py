"""Which files the demo indexes, and the task of each."""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from taskloom.cli.demo.places import FILES, Places
from taskloom.identity import derive_id
from taskloom.task import Task

__all__ = ["default_folder", "file_tasks", "find_files", "make_samples"]

_SKIPPED = {"__pycache__", "site-packages", "dist-packages", "node_modules"}


def default_folder() -> Path:
    """Python's standard library: thousands of real files that every user has."""
    return Path(sysconfig.get_paths()["stdlib"])


def find_files(folder: Path, places: Places) -> list[str]:
    """The paths of all files, relative to `folder`, in order.

    Left out: hidden directories, caches, installed packages, pipes and devices, the demo's own
    files, and names that are not Unicode, which no payload can carry.
    """
    return sorted(_walk(folder, places))


def _walk(folder: Path, places: Places) -> Iterator[str]:
    for root, directories, names in os.walk(folder):
        directories[:] = [name for name in directories if not _is_skipped(name)]
        for name in names:
            path = Path(root, name)
            if _is_readable_kind(path) and _is_unicode(path) and not places.owns(path):
                yield path.relative_to(folder).as_posix()


def _is_skipped(directory: str) -> bool:
    return directory in _SKIPPED or directory.startswith(".")


def _is_readable_kind(path: Path) -> bool:
    # A dangling link counts: that it cannot be read is for its task to find out.
    return path.is_file() or path.is_symlink()


def _is_unicode(path: Path) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in str(path))


def make_samples(places: Places) -> list[str]:
    """Two files that must fail, so that failures are there to be looked at; their full paths."""
    folder = places.samples.absolute()
    folder.mkdir(exist_ok=True)
    undecodable, unreadable = folder / "undecodable.py", folder / "unreadable.py"
    undecodable.write_bytes(b"name = 'caf\xe9'\n")
    if not unreadable.is_symlink() and not unreadable.exists():
        try:
            unreadable.symlink_to(folder / "this-file-does-not-exist")
        except OSError:  # Windows, without the right to make links
            unreadable.mkdir()
    return [str(undecodable), str(unreadable)]


def file_tasks(folder: Path, paths: list[str]) -> list[Task[Any]]:
    """One task per file. Its id follows from folder and path: adding it again adds nothing."""
    return [
        Task(
            type="index_file",
            queue_id=FILES,
            payload={"folder": str(folder), "path": path},
            id=derive_id("taskloom-demo", str(folder), path),
            retry_after=0.2,
        )
        for path in paths
    ]
