"""Decoders made from annotations, and msgspec's complaints in the words of the caller."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import partial
from operator import getitem
from typing import Any

import msgspec

from taskloom import codec
from taskloom.errors import InvalidTaskError

__all__ = ["decoder_of", "encode_arguments", "explain", "payload_decoder"]


def payload_decoder(
    types: dict[str, Any], defaults: dict[str, Any], name: str
) -> msgspec.json.Decoder[Any]:
    """Of payloads with these entries; the errors of `decoder_of`."""
    for key, hint in types.items():
        decoder_of(hint, key, name)  # by itself first: its error names the parameter
    fields = [
        (key, hint, msgspec.field(default_factory=partial(getitem, defaults, key)))
        if key in defaults
        else (key, hint, msgspec.field())
        for key, hint in types.items()
    ]
    struct = msgspec.defstruct(name, fields, kw_only=True, forbid_unknown_fields=True)
    return msgspec.json.Decoder(struct, dec_hook=_read)


def decoder_of(hint: Any, key: str, name: str) -> msgspec.json.Decoder[Any]:
    """Of one annotation; `TypeError` naming parameter `key` of function `name` if there is none."""
    try:
        decoder = msgspec.json.Decoder(hint, dec_hook=_read)
        strange = next(_strange_types(msgspec.inspect.type_info(hint)), None)
    except Exception as error:  # msgspec raises what resolving the fields of `hint` raises
        raise TypeError(f"{name}: parameter {key!r} cannot be part of a payload: {error}") from None
    if strange is not None:
        raise TypeError(
            f"{name}: parameter {key!r} cannot be part of a payload: JSON has no form for "
            f"{strange.__qualname__}. Pass a dataclass, a Struct, a TypedDict, a pydantic model "
            "or plain values"
        )
    return decoder


def _strange_types(root: msgspec.inspect.Type) -> Iterator[type]:
    """The classes inside `root` that neither msgspec nor `_read` can make."""
    stack: list[Any] = [root]
    seen: set[int] = set()
    while stack:
        item = stack.pop()
        if isinstance(item, tuple):
            stack.extend(item)
        elif isinstance(item, msgspec.inspect.CustomType):
            if not hasattr(item.cls, "model_validate_json"):
                yield item.cls
        elif isinstance(item, msgspec.Struct) and id(item) not in seen:
            seen.add(id(item))
            stack.extend(getattr(item, field) for field in item.__struct_fields__)


def _read(kind: Any, value: Any) -> Any:
    """A pydantic model, recognised by its method; from JSON, so that strict models take it too."""
    try:
        return kind.model_validate_json(codec.encode(value))
    except ValueError as error:
        raise ValueError(_without_input(error)) from None


def _without_input(error: Any) -> str:
    """What pydantic says, on one line and without the values: they may be private."""
    if not hasattr(error, "errors"):
        return str(error)
    told = error.errors(include_input=False, include_url=False, include_context=False)
    lines = [(".".join(map(str, item["loc"])), item["msg"]) for item in told]
    return "; ".join(f"{place}: {message}" if place else message for place, message in lines)


# Errors.


def encode_arguments(arguments: dict[str, Any], where: str) -> bytes:
    """`arguments` as JSON; `InvalidTaskError` that starts with `where` and names the argument."""
    try:
        return codec.encode_checked(arguments, f"{where}: arguments")
    except InvalidTaskError:
        for name, value in arguments.items():
            codec.encode_checked(value, f"{where}: argument {name!r}")
        raise


_PLACE = re.compile(r"(?s)(?P<what>.*?)(?: - at `(?:(?P<key>key)` in `)?\$(?P<path>[^`]*)`)?")
_FIELD = re.compile(r"Object (missing required|contains unknown) field `(.*)`")


def explain(error: msgspec.ValidationError, given: Any, root: str = "") -> str:
    """`argument 'to': expected str, got int`, from msgspec's words and its path."""
    place = _PLACE.fullmatch(str(error))
    if place is None:  # pragma: no cover (the pattern matches every text)
        return str(error)
    what, path = place["what"], place["path"] or ""
    name, rest = _split(path)
    if root:
        subject, rest = f"{root}{path}", path
    elif name:
        subject = f"argument {name!r}" + (f" at {rest}" if rest else "")
        given = given.get(name) if isinstance(given, Mapping) else given
    else:
        field = _FIELD.fullmatch(what)
        if field is not None:
            state = "is missing" if field[1].startswith("missing") else "is not known"
            return f"argument {field[2]!r} {state}"
        subject = "payload"
    if place["key"]:
        subject += " (a key)"
    if not rest:
        what = re.sub(r"got `(object|array)`", f"got `{type(given).__name__}`", what)
    what = re.sub(r"^(Expected|Invalid|Object)\b", lambda word: word[0].lower(), what)
    return f"{subject}: {what}".replace("`", "")


def _split(path: str) -> tuple[str, str]:
    """`.user.address[0]` as the parameter and the place inside its value."""
    match = re.match(r"\.(\w+)(.*)", path)
    return (match[1], match[2].removeprefix(".")) if match else ("", "")
