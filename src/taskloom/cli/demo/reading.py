"""What the demo finds out about a file."""

from __future__ import annotations

import ast
import hashlib
import io
import tokenize
from pathlib import Path
from typing import Any

__all__ = ["UndecodableError", "measure"]


class UndecodableError(ValueError):
    """Bytes that are no text in the encoding they claim."""


_CHUNK = 1 << 20
_PYTHON = (".py", ".pyi", ".pyw")


def measure(path: Path) -> dict[str, Any]:
    """Bytes, SHA-256, lines (None: not a text) and definitions (None: not Python, or not parsed).

    Raises `OSError` for a file that cannot be read, `UndecodableError` for a Python file whose
    bytes are not what its encoding (UTF-8, unless it declares another) allows.
    """
    if path.suffix in _PYTHON:
        data = path.read_bytes()
        found = _sums(io.BytesIO(data))
        return {**found, "definitions": _definitions(_decoded(data))}
    with path.open("rb") as file:
        return {**_sums(file), "definitions": None}


def _sums(file: io.BufferedIOBase) -> dict[str, Any]:
    digest, size, lines, last, is_text = hashlib.sha256(), 0, 0, b"\n", True
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
        size += len(chunk)
        lines += chunk.count(b"\n")
        last = chunk[-1:]
        is_text = is_text and b"\0" not in chunk
    counted = lines + (last != b"\n") if is_text else None
    return {"bytes": size, "lines": counted, "sha256": digest.hexdigest()}


def _decoded(data: bytes) -> str:
    """As Python itself would: by the encoding that the file declares, else as UTF-8."""
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        return data.decode(encoding)
    except (SyntaxError, UnicodeDecodeError, LookupError) as error:
        raise UndecodableError(f"cannot be decoded: {error}") from error


def _definitions(source: str) -> int | None:
    """How many functions and classes; None for what this version of Python cannot parse."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    number, open_nodes = 0, [tree.body]
    while open_nodes:
        for node in open_nodes.pop():
            number += isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            open_nodes += _blocks(node)
    return number


def _blocks(node: Any) -> list[list[Any]]:
    """The statements inside a statement; expressions hold no definitions."""
    names = ("body", "orelse", "finalbody", "handlers", "cases")
    return [block for name in names if isinstance(block := getattr(node, name, None), list)]
