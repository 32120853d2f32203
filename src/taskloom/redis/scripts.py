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
    """The script of `lua/<name>.lua`; with `lua/<folder>.lua` before it where that exists.

    `tasks_settle` stands on `tasks`: Redis before 7 has no libraries.
    """
    folder = files(__package__) / "lua"
    shared = folder / f"{name.partition('_')[0]}.lua"
    text = (folder / f"{name}.lua").read_text()
    if shared.is_file():
        text = shared.read_text() + text
    return Script(text, sha1(text.encode(), usedforsecurity=False).hexdigest())
