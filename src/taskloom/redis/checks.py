"""What a Redis will not do for its tasks, said once when it is opened."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

from redis.exceptions import ResponseError

from taskloom.errors import ConfigurationError
from taskloom.redis.clients import Client

__all__ = ["check_server", "promises_broken"]

_log = logging.getLogger(__name__)

OLDEST = (6, 2)


async def check_server(client: Client, place: str) -> None:
    """Refuse what is too old; warn where tasks can get lost by how Redis is set up."""
    asking: Any = client
    _refuse_decoding(asking)
    info = _first(await asking.info("everything"))
    version = str(info.get("redis_version", "0"))
    if tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < OLDEST:
        raise ConfigurationError(f"{place} is Redis {version}; Taskloom needs 6.2 or later")
    for words in promises_broken(info, await _settings(asking)):
        _log.warning("%s %s", place, words)


def promises_broken(info: Mapping[str, Any], settings: Mapping[str, str]) -> list[str]:
    """In words, from the answer to INFO and the settings `save` and `appendfsync`, as far known."""
    broken = []
    policy = str(info.get("maxmemory_policy", "noeviction"))
    if policy != "noeviction" and info.get("maxmemory", 0):
        what = "tasks" if policy.startswith("allkeys") else "locks and the ids of recent tasks"
        broken.append(
            f"evicts keys when its memory is full ({policy}): {what} would vanish without a word. "
            "Set maxmemory-policy to noeviction"
        )
    if not info.get("aof_enabled", 0):
        lost = "every task is lost when it stops"
        if settings.get("save") != "":
            lost = "what was added since the last snapshot is lost when it crashes"
        broken.append(f"keeps no append-only file: {lost}. Set appendonly to yes")
    elif settings.get("appendfsync") == "no":
        broken.append(
            "leaves it to the system when its append-only file is written: what was added in the "
            "last half minute is lost when the machine fails. Set appendfsync to everysec or always"
        )
    return broken


async def _settings(client: Any) -> dict[str, str]:
    """Those that say what is kept; hosted servers do not tell."""
    found: dict[str, str] = {}
    for name in ("save", "appendfsync"):
        try:
            answer = _first(await client.config_get(name))
        except ResponseError:
            continue
        for value in (answer.get(name), answer.get(name.encode())):
            if value is not None:
                found[name] = value.decode() if isinstance(value, bytes) else value
    return found


def _first(answer: dict[Any, Any]) -> dict[Any, Any]:
    """A cluster answers by node: one speaks for all."""
    values = list(answer.values())
    return values[0] if values and all(isinstance(each, dict) for each in values) else answer


def _refuse_decoding(client: Any) -> None:
    pool = getattr(client, "connection_pool", None)
    if pool is not None and pool.connection_kwargs.get("decode_responses"):
        raise ConfigurationError(
            "a client with decode_responses=True cannot carry bytes; make one without it"
        )
