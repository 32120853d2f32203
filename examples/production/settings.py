"""What the production example is told by its environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple, Self

from taskloom import ConfigurationError

__all__ = ["Settings"]

NEEDED = {
    "MONGODB_URI": "mongodb://user:password@host:27017/shop?replicaSet=rs0",
    "REDIS_URL": "redis://host:6379/0",
    "AWS_REGION": "eu-central-1",
}
"""What must be set, with an example of each."""


class Settings(NamedTuple):
    """Where the servers are, and which stream is ours."""

    mongodb_uri: str
    redis_url: str
    region: str
    stream: str
    """`NOTIFICATIONS_STREAM`: a stream that exists; unless told, `notifications`."""
    kinesis_endpoint: str | None
    """`KINESIS_ENDPOINT_URL`: for a Kinesis that is not Amazon's."""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Self:
        """Raises `ConfigurationError` with everything that is missing, not with the first only."""
        missing = [name for name in NEEDED if not environ.get(name)]
        if missing:
            lines = [f"  {name}, for example {NEEDED[name]}" for name in missing]
            raise ConfigurationError("not set in the environment:\n" + "\n".join(lines))
        return cls(
            mongodb_uri=environ["MONGODB_URI"],
            redis_url=environ["REDIS_URL"],
            region=environ["AWS_REGION"],
            stream=environ.get("NOTIFICATIONS_STREAM") or "notifications",
            kinesis_endpoint=environ.get("KINESIS_ENDPOINT_URL") or None,
        )
