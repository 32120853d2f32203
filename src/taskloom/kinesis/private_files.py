"""Private files: small JSON documents in a folder that is only ours, changed one at a time."""

from __future__ import annotations

import hashlib
import logging
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from filelock import FileLock, Timeout
from msgspec import DecodeError

from taskloom.codec import decode, encode
from taskloom.errors import ConfigurationError, StorageUnavailableError

__all__ = ["PrivateFiles"]

_log = logging.getLogger(__name__)

PATIENCE = 5.0
"""Seconds that a change waits for another process to end its own, which takes a moment."""


class PrivateFiles:
    """Documents by key. All methods block for a moment; call them on a thread.

    File names are hashes: whatever a key says, it leads nowhere else. No symbolic link is followed.
    A document is replaced as a whole, so a process that is killed leaves the old one or the new.
    Raises `StorageUnavailableError`; `ConfigurationError` for a folder that is open to others.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def prepare(self) -> None:
        """Make the folder for this user alone, or see that it is so."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = self._folder.lstat()
        except FileExistsError:
            raise ConfigurationError(f"{self._folder} is not a folder") from None
        except OSError as error:
            raise ConfigurationError(f"{self._folder} cannot be made: {error}") from error
        if not stat.S_ISDIR(found.st_mode):
            raise ConfigurationError(f"{self._folder} is not a folder; name one of your own")
        if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
            raise ConfigurationError(
                f"{self._folder} is open to others: name a folder of your own, or make it private "
                "with: chmod 700"
            )

    def read(self, key: str) -> dict[str, Any]:
        """The document of a key; an empty one when there is none."""
        path = self._path(key)
        try:
            with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
                raw = file.read()
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise StorageUnavailableError(f"{path} cannot be read: {error}") from error
        return self._decoded(path, raw)

    def _decoded(self, path: Path, raw: bytes) -> dict[str, Any]:
        try:
            document = decode(raw)
        except DecodeError:
            document = None
        if isinstance(document, dict):
            return document
        _log.error("%s was damaged, by a power cut or by hand; it counts as empty", path)
        return {}

    @contextmanager
    def changing(self, key: str) -> Iterator[dict[str, Any]]:
        """The document of a key, while nobody else changes it; kept as it is left.

        An exception inside keeps the old one.
        """
        path = self._path(key)
        guard = FileLock(path.with_suffix(".guard"), timeout=PATIENCE, mode=0o600)
        try:
            with guard:
                document = self.read(key)
                before = encode(document)
                yield document
                if (after := encode(document)) != before:
                    self._write(path, after)
        except Timeout as error:
            raise StorageUnavailableError(f"{path} is kept busy by another process") from error
        except OSError as error:
            raise StorageUnavailableError(f"{path} cannot be written: {error}") from error

    def _write(self, path: Path, raw: bytes) -> None:
        new = path.with_suffix(f".{uuid4().hex}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            with open(os.open(new, flags, 0o600), "wb") as file:
                file.write(raw)
            os.replace(new, path)
        except BaseException:
            new.unlink(missing_ok=True)
            raise

    def _path(self, key: str) -> Path:
        name = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
        return self._folder / f"{name}.json"
