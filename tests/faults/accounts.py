"""Accounts on moto: it keeps the streams of each apart, on one server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from aiobotocore.session import get_session
from botocore.loaders import create_loader

__all__ = ["REGION", "account_client", "account_session", "warm"]

REGION = "us-east-1"
# What botocore knows of its services: read once, and shared by processes that are forked later.
_loader = create_loader()


def account_session(account: str) -> Any:
    """A session of an account, which is 12 digits."""
    session = get_session()
    session.register_component("data_loader", _loader)
    session.set_credentials("test", "test")
    session.register("before-call.kinesis", partial(_as_account, account))
    return session


def _as_account(account: str, params: dict[str, Any], **others: Any) -> None:
    params["headers"]["x-moto-account-id"] = account


@asynccontextmanager
async def account_client(url: str, account: str) -> AsyncIterator[Any]:
    """A client of an account, for what a rig does by itself."""
    session = account_session(account)
    async with session.create_client("kinesis", endpoint_url=url, region_name=REGION) as client:
        yield client


def warm() -> None:
    """Read what clients need, before processes are forked: a quarter of a second for each."""

    async def make() -> None:
        async with account_client("http://127.0.0.1", "0" * 12):
            pass

    asyncio.run(make())
