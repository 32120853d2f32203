"""Context that follows a task into every log line.

To see it in text, put the filter on a handler and the text into its format:

    handler.addFilter(LogContextFilter())
    handler.setFormatter(logging.Formatter("%(levelname)s %(log_context_text)s %(message)s"))
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

from taskloom.codec import encode_checked, one_line
from taskloom.current import running
from taskloom.errors import InvalidTaskError

__all__ = [
    "MAX_BYTES",
    "MAX_KEYS",
    "ContextLogger",
    "LogContextFilter",
    "check_log_context",
    "log_context",
    "merge_log_context",
    "structlog_processor",
]

logger = logging.getLogger(__name__)

MAX_KEYS = 10
MAX_BYTES = 1024

_FIELD = "metadata.log_context"


def log_context() -> dict[str, str]:
    """The context of the task that runs here; empty outside one. A dict of your own each time."""
    current = running.get()
    return {} if current is None else dict(current.log_fields())


# Into the log


class LogContextFilter(logging.Filter):
    """Puts the context on every record; put it on a handler. Drops no record, never raises.

    `record.log_context` is the dict, for formatters that write JSON; `record.log_context_text` is
    `[key:value][key:value]` in the order of the keys, empty outside a task. The keys themselves
    never become attributes of the record, so a key may be called `name` or `args`.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        fields = _with_given(log_context(), getattr(record, "log_context", None))
        record.log_context = fields
        record.log_context_text = _as_text(fields)
        return True


if TYPE_CHECKING:
    _Adapter = logging.LoggerAdapter[logging.Logger]
else:
    _Adapter = logging.LoggerAdapter


class ContextLogger(_Adapter):
    """`actions.log`: a logger whose records carry the context as `record.log_context`.

    `fields` are the context, wherever it is called from; without them it is that of the task that
    runs where it is called. What a call gives as `extra={"log_context": {…}}` is added and wins.
    """

    def __init__(self, logger: logging.Logger, fields: Mapping[str, str] | None = None) -> None:
        super().__init__(logger, {})
        self._fields = fields

    def process(
        self, msg: Any, kwargs: MutableMapping[str, Any]
    ) -> tuple[Any, MutableMapping[str, Any]]:
        extra = dict(kwargs.get("extra") or {})
        fields = log_context() if self._fields is None else dict(self._fields)
        extra["log_context"] = _with_given(fields, extra.get("log_context"))
        return msg, {**kwargs, "extra": extra}


def structlog_processor(
    logger: Any, name: str, event_dict: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """A processor for structlog: adds the context; what the call gave stays as it is.

    Control characters are escaped here, since not every renderer does it.
    """
    for key, value in log_context().items():
        event_dict.setdefault(one_line(key), one_line(value))
    return event_dict


def _with_given(fields: dict[str, str], given: object) -> dict[str, str]:
    if isinstance(given, Mapping):
        fields.update((_text(key), _text(value)) for key, value in given.items())
    return fields


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    try:
        return str(value)
    except Exception:  # a log call must not fail for what it was given
        return f"<{type(value).__name__}>"


def _as_text(fields: Mapping[str, str]) -> str:
    if not fields:
        return ""
    return "".join(f"[{_part(key)}:{_part(fields[key])}]" for key in sorted(fields))


def _part(text: str) -> str:
    # A bracket would end the field early and let a value pose as another key.
    return one_line(text).replace("]", "\\]")


# On the way in


def check_log_context(context: dict[str, str] | None) -> dict[str, str] | None:
    """What a task may carry: the same object when all is well.

    More than `MAX_KEYS` keys: the first of them in alphabetical order are kept, with a warning.
    More than `MAX_BYTES` as JSON after that: None, with a warning. Raises `InvalidTaskError` for
    what is not a dict of texts.
    """
    if context is None:
        return None
    if not isinstance(context, dict):
        raise InvalidTaskError(f"{_FIELD}: must be a dict, not {type(context).__name__}")
    for key, value in context.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise InvalidTaskError(
                f"{_FIELD}: keys and values must be texts, not {key!r:.80}: {type(value).__name__}"
            )
    if len(context) > MAX_KEYS:
        context = _first_keys(context)
    size = len(encode_checked(context, _FIELD, limit=sys.maxsize))
    if size > MAX_BYTES:
        logger.warning(
            "log_context dropped: %d bytes as JSON, more than %d; keep values short",
            size,
            MAX_BYTES,
        )
        return None
    return context


def _first_keys(context: dict[str, str]) -> dict[str, str]:
    kept = sorted(context)[:MAX_KEYS]
    logger.warning(
        "log_context has %d keys, more than %d: only the first are kept (%s)",
        len(context),
        MAX_KEYS,
        one_line(", ".join(f"{key:.40}" for key in kept)),
    )
    return {key: context[key] for key in kept}


def merge_log_context(
    parent: dict[str, str] | None, own: dict[str, str] | None
) -> dict[str, str] | None:
    """The context of a child: its parent's, where its own keys win. Check it afterwards.

    Returns `own` or `parent` itself when that already is the answer.
    """
    if not parent or parent is own:
        return own
    if not own or own.items() <= parent.items():
        return parent
    if parent.keys() <= own.keys():
        return own
    return {**parent, **own}
