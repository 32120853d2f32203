"""Lua scripts by name, from the files beside this one."""

from __future__ import annotations

from functools import cache
from hashlib import sha1
from importlib.resources import files

import msgspec

__all__ = ["Script", "pack", "script"]

pack = msgspec.msgpack.Encoder().encode
"""What a script is given: one value that it reads with `cmsgpack.unpack`."""


class Script(msgspec.Struct, frozen=True):
    """A script and the name under which a server keeps it."""

    text: str
    sha: str


@cache
def script(name: str) -> Script:
    """The script of `lua/<name>.lua`, after `lua/time.lua` and what its kind shares.

    `tasks_settle` stands on `tasks`: Redis before 7 has no libraries.
    """
    folder = files(__package__) / "lua"
    parts = [folder / f"{part}.lua" for part in ("time", name.partition("_")[0], name)]
    text = "".join(part.read_text() for part in parts if part.is_file())
    return Script(text, sha1(text.encode(), usedforsecurity=False).hexdigest())
