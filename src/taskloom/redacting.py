"""URLs as they may be shown."""

from __future__ import annotations

import re

__all__ = ["redacted"]


def redacted(url: str) -> str:
    """`url` without what may be secret: user, password and the values of its query.

    redacted("redis://me:secret@cache:6379/0?token=x")    # "redis://***@cache:6379/0?***"
    """
    # Up to the last "@": a password may hold any character, unescaped by mistake.
    shown = re.sub(r"(?s)^([^:/]*:(?://)?).*@", r"\1***@", url)
    return re.sub(r"(?s)[?#].*$", "?***", shown)
