"""From `MODULE:LOOM` to the Loom: the only code the command line ever imports by name."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import os
import re
import sys
import traceback
from types import ModuleType

from taskloom.app import Loom
from taskloom.cli.errors import UserError
from taskloom.cli.words import one_line_of
from taskloom.errors import MissingExtraError
from taskloom.failures import message_of

__all__ = ["load_loom", "split_target"]

_HINT = "Write MODULE:LOOM, for example app:loom for the `loom` in app.py."


def load_loom(target: str) -> Loom:
    """Import `module:attribute` and return it, if it is a Loom; the current directory is searched.

    Raises `UserError` saying what is wrong: no such module, one that fails when imported, no such
    attribute, something else than a Loom.
    """
    module_name, attribute = split_target(target)
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    module = _import(module_name)
    found: object = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise _no_attribute(module, attribute)
        found = getattr(found, part)
    if not isinstance(found, Loom):
        kind = "a class" if isinstance(found, type) else f"of type {type(found).__name__}"
        raise UserError(f"{target} is {kind}, not a Loom.", _looms_of(module))
    return found


def split_target(target: str) -> tuple[str, str]:
    """The module and the attribute; `UserError` for anything that is not `module:attribute`."""
    module, colon, attribute = target.partition(":")
    if module.endswith(".py") or "/" in module or "\\" in module:
        name = re.sub(r"[/\\]+", ".", module.removesuffix(".py")).strip(".")
        raise UserError(
            f"{target} names a file, not a module.",
            f"Write {name}:{attribute or 'loom'}, in the directory that {name} starts from.",
        )
    if not colon or not _is_dotted(module) or not _is_dotted(attribute):
        raise UserError(f"{target!r} does not name a Loom.", _HINT)
    return module, attribute


def _is_dotted(name: str) -> bool:
    return all(part.isidentifier() for part in name.split("."))


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except MissingExtraError:
        raise
    except ModuleNotFoundError as error:
        raise _not_found(name, error) from None
    except Exception as error:
        raise UserError(
            f"importing {name} failed: {type(error).__name__}: {message_of(error)}{_place(error)}",
            f"See it whole with: python -c 'import {name}'",
        ) from None


def _not_found(name: str, error: ModuleNotFoundError) -> UserError:
    missing = error.name or ""
    if missing and (name == missing or name.startswith(missing + ".")):
        places = [place or os.getcwd() for place in sys.path]
        return UserError(
            f"there is no module {missing}.{_close_file(missing)}",
            f"Looked in {', '.join(places)}. Go to the directory that holds it, or install it.",
        )
    return UserError(
        f"importing {name} failed: it needs the module {missing or message_of(error)}, "
        f"which is not installed{_place(error)}.",
        f"Install it for {sys.executable}.",
    )


def _close_file(name: str) -> str:
    names = [file.removesuffix(".py") for file in os.listdir() if file.endswith(".py")]
    close = difflib.get_close_matches(name, names, 1)
    return f" Did you mean {close[0]}?" if close else ""


def _place(error: BaseException) -> str:
    if isinstance(error, SyntaxError):
        return ""  # its text says where
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if not _internal(frame)]
    return f" ({own[-1].filename}, line {own[-1].lineno})" if own else ""


def _internal(frame: traceback.FrameSummary) -> bool:
    return frame.filename.startswith("<frozen") or frame.filename in (
        __file__,
        importlib.__file__,
    )


def _no_attribute(module: ModuleType, attribute: str) -> UserError:
    close = difflib.get_close_matches(attribute, dir(module), 1)
    guess = f" Did you mean {close[0]}?" if close else ""
    return UserError(f"{module.__name__} has no {attribute!r}.{guess}", _looms_of(module))


def _looms_of(module: ModuleType) -> str:
    looms = [name for name, value in vars(module).items() if isinstance(value, Loom)]
    if not looms:
        return f'{module.__name__} holds no Loom. Make one there: loom = Loom("sqlite:///tasks.db")'
    names = ", ".join(one_line_of(f"{module.__name__}:{name}") for name in looms)
    return f"Looms there: {names}"
