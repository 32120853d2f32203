"""Which files the demo indexes, and whether they have changed."""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from taskloom.cli.demo.places import Places

__all__ = ["changed_since", "default_folder", "find_files", "make_samples"]

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
    if not undecodable.exists():
        undecodable.write_bytes(b"name = 'caf\xe9'\n")
    if not unreadable.is_symlink() and not unreadable.exists():
        try:
            unreadable.symlink_to(folder / "this-file-does-not-exist")
        except OSError:  # Windows, without the right to make links
            unreadable.mkdir()
    return [str(undecodable), str(unreadable)]


def changed_since(folder: Path, paths: list[str], moment: datetime) -> bool:
    """Whether a file was written, moved or created after `moment`."""
    stats = (Path(folder, path).lstat() for path in paths)
    return any(max(stat.st_mtime, stat.st_ctime) > moment.timestamp() for stat in stats)
