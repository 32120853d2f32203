"""Executors: what they check when they are made."""

from __future__ import annotations

import inspect
from datetime import timedelta
from typing import Any

import pytest

from taskloom import MultiTaskExecutor, ParallelTaskExecutor, SingleTaskExecutor
from taskloom.executors import AsyncConfig


async def on_task(task: Any, actions: Any) -> None: ...


def test_durations_of_an_async_config_are_seconds() -> None:
    config = AsyncConfig(timedelta(minutes=1), max_duration=timedelta(hours=1))
    assert (config.handoff_timeout, config.max_duration) == (60.0, 3600.0)
    assert config.max_concurrent_async is None
    assert isinstance(AsyncConfig(1).handoff_timeout, float)


def test_a_run_can_be_handed_off_at_once() -> None:
    assert AsyncConfig(handoff_timeout=0).handoff_timeout == 0.0


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("handoff_timeout", -1, ValueError),
        ("handoff_timeout", float("nan"), ValueError),
        ("handoff_timeout", "30", TypeError),
        ("max_concurrent_async", 0, ValueError),
        ("max_concurrent_async", 1.5, TypeError),
        ("max_concurrent_async", True, TypeError),
        ("max_duration", 0, ValueError),
        ("max_duration", -1, ValueError),
        ("max_duration", "1", TypeError),
    ],
)
def test_an_async_config_names_what_makes_no_sense(
    field: str, value: Any, error: type[Exception]
) -> None:
    options = {"handoff_timeout": 1.0} | {field: value}
    with pytest.raises(error, match=field):
        AsyncConfig(**options)


def test_an_async_config_is_a_value() -> None:
    config = AsyncConfig(1.0)
    assert config == AsyncConfig(1.0)
    with pytest.raises(AttributeError):
        config.handoff_timeout = 2.0  # type: ignore[misc]


def test_single_and_parallel_executors_take_one() -> None:
    config = AsyncConfig(30)
    single = SingleTaskExecutor(on_task, store_on_failure=True, async_config=config)
    parallel = ParallelTaskExecutor(
        on_task, store_on_failure=True, async_config=config, chunk_size=4
    )
    assert single.async_config is parallel.async_config is config
    assert SingleTaskExecutor(on_task, store_on_failure=True).async_config is None


def test_only_an_async_config_will_do() -> None:
    with pytest.raises(TypeError, match="async_config must be an AsyncConfig, not float"):
        SingleTaskExecutor(on_task, store_on_failure=True, async_config=30.0)  # type: ignore[arg-type]


def test_a_multi_executor_has_none() -> None:
    assert "async_config" not in inspect.signature(MultiTaskExecutor).parameters
    with pytest.raises(TypeError, match="async_config"):
        MultiTaskExecutor(on_task, store_on_failure=True, async_config=AsyncConfig(1))  # type: ignore[call-arg]
