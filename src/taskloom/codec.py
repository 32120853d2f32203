"""JSON in and out: what a payload, a result and an error text may be.

JSON is the only format anywhere, so nothing that is read back can run code. What JSON would
change without a word (NaN becomes null) or cannot carry (lone surrogates, endless nesting) is
refused here.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec

from taskloom.errors import InvalidTaskError

__all__ = [
    "MAX_DEPTH",
    "MAX_ERROR_BYTES",
    "MAX_PAYLOAD_BYTES",
    "MAX_RESULT_BYTES",
    "canonical_json",
    "cut",
    "decode",
    "encode",
    "encode_checked",
    "one_line",
    "to_builtins",
]

MAX_PAYLOAD_BYTES = 8 * 1024 * 1024
MAX_RESULT_BYTES = 256 * 1024
MAX_ERROR_BYTES = 8 * 1024
MAX_DEPTH = 128
"""Nesting that every reader can take, whatever the depth of its own stack at that moment."""


def _plain(value: Any) -> Any:
    """What msgspec does not know: pydantic models, recognised by their method, not by import."""
    if hasattr(value, "model_dump") and not isinstance(value, type):
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__name__} has no JSON form")


_encoder = msgspec.json.Encoder(enc_hook=_plain)
_canonical = msgspec.json.Encoder(enc_hook=_plain, order="deterministic")
_decoder = msgspec.json.Decoder()

encode = _encoder.encode
canonical_json = _canonical.encode
"""One text for equal values, whatever the order of their keys: for ids made from content."""
decode = _decoder.decode


def to_builtins(value: Any) -> Any:
    """`value` as dicts, lists, texts and numbers: as it will be after a trip through an engine."""
    return decode(encode(value))


def encode_checked(value: Any, field: str, limit: int = MAX_PAYLOAD_BYTES) -> bytes:
    """`value` as JSON bytes, or an `InvalidTaskError` that starts with `field`.

    Refuses what JSON cannot hold: NaN and infinities, lone surrogates, unknown types, cycles, more
    than `MAX_DEPTH` levels, more than `limit` bytes, integers of more digits than Python reads.
    """
    try:
        raw = encode(value)
    except RecursionError:
        raise InvalidTaskError(f"{field}: nested too deeply, or in a cycle") from None
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidTaskError(f"{field}: JSON cannot hold it ({one_line(str(error))})") from None
    if len(raw) > limit:
        raise InvalidTaskError(
            f"{field}: {len(raw):,} bytes as JSON, more than {limit:,}. "
            "Store large data elsewhere and pass a reference to it"
        )
    # Both walks are rare: only a text with `null` can hide a NaN, only one with many brackets
    # can be deep. (`count` is twice as fast as `in` here.)
    if raw.count(b"null") and _has_nan(value):
        raise InvalidTaskError(f"{field}: NaN and infinity are not JSON; use None or a text")
    if len(raw) > MAX_DEPTH and _brackets(raw) > MAX_DEPTH and _depth(raw) > MAX_DEPTH:
        raise InvalidTaskError(f"{field}: nested deeper than {MAX_DEPTH} levels")
    return raw


def _brackets(raw: bytes) -> int:
    return raw.count(b"[") + raw.count(b"{")


def _has_nan(value: Any) -> bool:
    plain = msgspec.to_builtins(value, enc_hook=_plain)
    stack = [plain]
    while stack:
        item = stack.pop()
        if isinstance(item, float):
            if not math.isfinite(item):
                return True
        elif isinstance(item, dict):
            stack.extend(item.values())
            stack.extend(item)
        elif isinstance(item, list | tuple):
            stack.extend(item)
    return False


def _depth(raw: bytes) -> int:
    deepest = level = 0
    in_text = escaped = False
    for byte in raw:
        if in_text:
            if escaped:
                escaped = False
            elif byte == 0x5C:
                escaped = True
            elif byte == 0x22:
                in_text = False
        elif byte == 0x22:
            in_text = True
        elif byte in b"[{":
            level += 1
            deepest = max(deepest, level)
        elif byte in b"]}":
            level -= 1
    return deepest


def cut(text: str, limit: int = MAX_ERROR_BYTES) -> str:
    """At most `limit` bytes of `text` as UTF-8; lone surrogates are replaced."""
    raw = text[: limit + 1].encode("utf-8", "replace")
    if len(raw) <= limit:
        return raw.decode()
    return raw[: limit - 3].decode("utf-8", "ignore") + "…"


_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))}
_ESCAPES |= {0x0A: "\\n", 0x0D: "\\r", 0x09: "\\t", 0x2028: "\\u2028", 0x2029: "\\u2029"}


def one_line(text: str) -> str:
    """`text` with control characters and line breaks escaped: a line of log stays a line."""
    return text.translate(_ESCAPES)
