"""Decoders made from annotations, and msgspec's complaints in the words of the caller."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from functools import partial
from operator import getitem
from typing import Any

import msgspec
from msgspec import inspect

from taskloom import codec
from taskloom.errors import InvalidTaskError

__all__ = ["decoder_of", "encode_arguments", "explain", "payload_decoder", "reader_of"]


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
        strange = next(_strange_types(inspect.type_info(hint)), None)
    except Exception as error:  # msgspec raises what resolving the fields of `hint` raises
        raise TypeError(f"{name}: parameter {key!r} cannot be part of a payload: {error}") from None
    if strange is not None:
        raise TypeError(
            f"{name}: parameter {key!r} cannot be part of a payload: JSON has no form for "
            f"{strange.__qualname__}. Pass a dataclass, a Struct, a TypedDict, a pydantic model "
            "or plain values"
        )
    return decoder


def reader_of(decoder: msgspec.json.Decoder[Any]) -> Callable[[Any], Any]:
    """From plain JSON values to what `decoder` makes of their JSON, sharing nothing with them.

    Raises its `msgspec.ValidationError`. For most types the JSON itself is not needed: a long text
    or list is then read many times faster, a small payload about as fast.
    """
    kind = decoder.type

    def through_json(value: Any) -> Any:
        return decoder.decode(codec.encode(value))

    def directly(value: Any) -> Any:
        try:
            # Each named argument of `convert` costs as much as a small payload: types that would
            # need one go through JSON.
            return msgspec.convert(value, kind)
        except msgspec.ValidationError:
            return through_json(value)  # which has the last word, and the words

    return directly if all(map(_is_plain, _types_in(inspect.type_info(kind)))) else through_json


_PLAIN = (
    inspect.BoolType,
    inspect.DataclassType,
    inspect.DateTimeType,
    inspect.DateType,
    inspect.DecimalType,
    inspect.FloatType,
    inspect.FrozenSetType,
    inspect.IntType,
    inspect.ListType,
    inspect.LiteralType,
    inspect.Metadata,
    inspect.NamedTupleType,
    inspect.NoneType,
    inspect.SetType,
    inspect.StrType,
    inspect.StructType,
    inspect.TimeDeltaType,
    inspect.TimeType,
    inspect.TupleType,
    inspect.TypedDictType,
    inspect.UUIDType,
    inspect.UnionType,
    inspect.VarTupleType,
)


def _is_plain(item: inspect.Type) -> bool:
    """Whether `convert` makes of JSON values what a decoder makes of JSON, and a copy.

    Tried with msgspec 0.22. Not so: Any (it would be shared), keys that are not texts, custom
    types, enums that take values beyond their members, anything about bytes.
    """
    if isinstance(item, inspect.DictType):
        return isinstance(item.key_type, inspect.StrType)
    if isinstance(item, inspect.EnumType):
        # A class method at run time, a plain function to the type checker.
        return item.cls._missing_.__func__ is Enum._missing_.__func__  # type: ignore[attr-defined]
    return isinstance(item, _PLAIN)


def _strange_types(root: inspect.Type) -> Iterator[type]:
    """The classes inside `root` that neither msgspec nor `_read` can make."""
    for item in _types_in(root):
        if isinstance(item, inspect.CustomType) and not hasattr(item.cls, "model_validate_json"):
            yield item.cls


def _types_in(root: inspect.Type) -> Iterator[inspect.Type]:
    """`root` and every type inside it, each once."""
    stack: list[Any] = [root]
    seen: set[int] = set()
    while stack:
        item = stack.pop()
        if isinstance(item, tuple):
            stack.extend(item)
        elif isinstance(item, inspect.Type | inspect.Field) and id(item) not in seen:
            seen.add(id(item))
            stack.extend(getattr(item, field) for field in item.__struct_fields__)
            if isinstance(item, inspect.Type):
                yield item


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
        return codec.encode_checked(arguments, where)
    except InvalidTaskError:
        for name, value in arguments.items():
            codec.encode_checked(value, f"{where}: argument {name!r}")
        return codec.encode_checked(arguments, f"{where}: arguments")


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
