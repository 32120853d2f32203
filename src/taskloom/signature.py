"""Payload <-> arguments: what a function's annotations say about its tasks.

The payload of a function's task is an object with one entry per parameter. It is checked twice with
one decoder, made from the annotations: when the task is added, so that a wrong argument is an error
at the line that wrote it; and before each run, when it is turned into the annotated types.

The payload of a flow's join is no call's: it holds the flow's results, and every parameter takes
its default.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from inspect import Parameter
from types import SimpleNamespace
from typing import Any

import msgspec

from taskloom import codec
from taskloom.actions import ExecutorActions
from taskloom.flows import FlowResults, flow_results
from taskloom.payload_decoder import (
    decoder_of,
    encode_arguments,
    explain,
    payload_decoder,
    reader_of,
)
from taskloom.task import Task, with_payload

__all__ = ["BatchSignature", "TaskSignature"]


class TaskSignature:
    """The parameters of one function, as a payload and as injected values.

    A parameter annotated `Task`, `ExecutorActions` or `FlowResults` is injected, every other one is
    part of the payload; unannotated means anything JSON can hold. `TypeError` at once for what can
    never be a task (`*args`, `**kwargs`, generators). Annotations are resolved at the first use or
    by `prepare`, so that they may name types that are defined further down.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.name = _name_of(function)
        _refuse_generators(function, self.name)
        self._signature = inspect.signature(function)
        for index, parameter in enumerate(self._signature.parameters.values()):
            _check_parameter(parameter, index, self.name)

    def prepare(self) -> None:
        """Resolve the annotations now; `TypeError` naming the parameter that cannot be."""
        _ = self._plan

    def payload(self, args: Sequence[Any], kwargs: Mapping[str, Any], where: str) -> dict[str, Any]:
        """The arguments of one call as plain JSON values, defaults included.

        `where` starts the message of every error: `TypeError` as Python words it for arguments that
        do not fit, `InvalidTaskError` for what JSON cannot hold. A function that takes
        `FlowResults` can only be a join: `TypeError`.
        """
        plan = self._plan
        if plan.takes_results:
            raise TypeError(
                f"{where}: it takes FlowResults, so only a flow can add its tasks: "
                f"start_flow(steps, join={self.name}.join())"
            )
        arguments = plan.bind(args, kwargs, where)
        raw = encode_arguments(arguments, where)
        try:
            plan.decode(raw)
        except msgspec.ValidationError as error:
            raise TypeError(f"{where}: {explain(error, arguments)}") from None
        payload: dict[str, Any] = codec.decode(raw)
        return payload

    def arguments(
        self, task: Task[Any], actions: ExecutorActions
    ) -> tuple[Sequence[Any], dict[str, Any]]:
        """What to call the function with to run `task`; `TypeError` when its payload does not fit.

        The payload is plain JSON values, which the arguments share nothing with. Parameters that
        it lacks take their defaults, so that a function may gain optional parameters while tasks
        are waiting.
        """
        plan = self._plan
        payload = task.payload
        if plan.takes_results or task.metadata.flow is not None:
            payload = plan.without_results(task)
        try:
            values = plan.read(payload)
        except msgspec.ValidationError as error:
            raise TypeError(
                f"{self.name}: the stored payload does not fit: {explain(error, payload)}"
            ) from None
        return plan.call(msgspec.structs.astuple(values), task, actions)

    def check_join(self, where: str) -> None:
        """`TypeError` unless the function can be called with the results of a flow alone."""
        self._plan.check_join(where)

    @cached_property
    def _plan(self) -> _Plan:
        hints = {
            parameter.name: _resolve(self.function, parameter, self.name)
            for parameter in self._signature.parameters.values()
        }
        return _Plan(self._signature, hints, self.name)


class BatchSignature:
    """The payload type of a function of `(tasks: list[Task[Row]], actions: ExecutorActions)`."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.name = _name_of(function)
        _refuse_generators(function, self.name)
        parameters = list(inspect.signature(function).parameters.values())
        kinds = [parameter.kind for parameter in parameters]
        if len(parameters) != 2 or not set(kinds) <= set(_POSITIONAL):
            raise TypeError(
                f"{self.name}: with batch= a function takes two parameters, "
                "(tasks: list[Task[Row]], actions: ExecutorActions)"
            )
        self._tasks = parameters[0]

    def prepare(self) -> None:
        """Resolve the annotations now; `TypeError` when the row's type cannot be one."""
        _ = self._reading

    def payload(self, row: Any, where: str) -> Any:
        """`row` as plain JSON values; `TypeError` or `InvalidTaskError` as for arguments."""
        decode, _ = self._reading
        raw = codec.encode_checked(row, f"{where}: row")
        try:
            decode(raw)
        except msgspec.ValidationError as error:
            raise TypeError(f"{where}: {explain(error, row, root='row')}") from None
        return codec.decode(raw)

    def row(self, task: Task[Any]) -> Task[Any]:
        """`task` with its payload converted; `TypeError` when it does not fit."""
        _, read = self._reading
        try:
            row = read(task.payload)
        except msgspec.ValidationError as error:
            what = explain(error, task.payload, root="row")
            raise TypeError(f"{self.name}: the stored payload does not fit: {what}") from None
        return with_payload(task, row)

    @cached_property
    def _reading(self) -> tuple[Callable[[bytes], Any], Callable[[Any], Any]]:
        """Makes rows: from JSON, and from plain JSON values."""
        hint = _resolve(self.function, self._tasks, self.name)
        row = _row_of(hint)
        if row is _NO_ROW:
            raise TypeError(
                f"{self.name}: annotate {self._tasks.name!r} as list[Task[Row]], not {hint!r}"
            )
        decoder = decoder_of(row, self._tasks.name, self.name)
        return decoder.decode, reader_of(decoder)


class _Plan:
    """A signature whose annotations are resolved: everything that can be worked out once."""

    def __init__(self, signature: inspect.Signature, hints: dict[str, Any], name: str) -> None:
        injected = {key: kind for key, hint in hints.items() if (kind := _injected(hint))}
        self.takes_results = "*results" in injected.values()
        parameters = list(signature.parameters.values())
        given = [item for item in parameters if item.name not in injected]
        self._names = [item.name for item in given]
        defaults = {
            item.name: item.default for item in given if item.default is not Parameter.empty
        }
        self._required = {item.name for item in given} - defaults.keys()
        self._template = {item.name: defaults.get(item.name) for item in given}
        self._by_position = sum(item.kind in _POSITIONAL for item in given)
        self._only_positional = {
            item.name for item in given if item.kind is Parameter.POSITIONAL_ONLY
        }
        # What is not injected may stand behind what is: as a signature of its own it would not be
        # valid with a default before a required parameter, hence no re-check.
        self._signature = inspect.Signature(given, __validate_parameters__=False)
        decoder = payload_decoder(
            {key: hint for key, hint in hints.items() if key not in injected}, defaults, name
        )
        self.decode = decoder.decode
        self.read = reader_of(decoder)
        # Where each argument stands among the values of the payload and then what can be injected.
        place = {key: index for index, key in enumerate((*self._names, *_INJECTED))}
        places = [(item, place[injected.get(item.name, item.name)]) for item in parameters]
        self._positional = [at for item, at in places if item.kind in _POSITIONAL]
        self._keywords = [
            (item.name, at) for item, at in places if item.kind is Parameter.KEYWORD_ONLY
        ]
        self._as_they_are = not self._keywords and self._positional == [*range(len(given))]
        if self.takes_results:
            self.check_join(name)

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any], where: str) -> dict[str, Any]:
        """Every payload parameter with its value, in the order of the signature."""
        # `Signature.bind` costs more than all the rest of an enqueue: it only words the errors.
        given = dict(zip(self._names, args, strict=False))
        if kwargs:
            if not given.keys().isdisjoint(kwargs) or not self._only_positional.isdisjoint(kwargs):
                raise self._misfit(args, kwargs, where)
            given |= kwargs
        elif len(args) == len(self._names) == self._by_position:
            return given
        full = {**self._template, **given}  # the template keeps the order of the signature
        fits = len(args) <= self._by_position and len(full) == len(self._names)
        if fits and self._required <= given.keys():
            return full
        raise self._misfit(args, kwargs, where)

    def _misfit(self, args: Sequence[Any], kwargs: Mapping[str, Any], where: str) -> TypeError:
        try:
            self._signature.bind(*args, **kwargs)
        except TypeError as error:
            return TypeError(f"{where} {error}")
        return TypeError(f"{where} got arguments that do not fit")  # not reached: bind refuses them

    def call(
        self, values: tuple[Any, ...], task: Task[Any], actions: ExecutorActions
    ) -> tuple[Sequence[Any], dict[str, Any]]:
        """The arguments of the function, positional and by keyword."""
        if self._as_they_are:
            return values, {}
        results = flow_results(task) if self.takes_results else None
        pool = (*values, task, actions, results)
        args = [pool[at] for at in self._positional]
        return args, {name: pool[at] for name, at in self._keywords} if self._keywords else {}

    def without_results(self, task: Task[Any]) -> Any:
        """The payload of `task` without a flow's results, unless a parameter has their name."""
        flow, payload = task.metadata.flow, task.payload
        is_join = self.takes_results or (flow is not None and flow.is_join)
        if not is_join or not isinstance(payload, dict) or RESULTS in self._template:
            return payload
        return {key: value for key, value in payload.items() if key != RESULTS}

    def check_join(self, where: str) -> None:
        """`TypeError` when there are parameters that a join has no value for."""
        missing = [name for name in self._names if name in self._required - {RESULTS}]
        if missing:
            raise TypeError(
                f"{where}: a join is called with the results of its flow alone: "
                f"parameter {missing[0]!r} needs a default"
            )


RESULTS = "flow_results"
"""Where the payload of a join holds the results of its flow."""

_POSITIONAL = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)


# What a function looks like.


def _name_of(function: Callable[..., Any]) -> str:
    if not callable(function):
        raise TypeError(f"a task is a function, not {type(function).__name__}")
    return str(getattr(function, "__name__", type(function).__name__))


def _refuse_generators(function: Callable[..., Any], name: str) -> None:
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(f"{name}: a generator cannot be a task; return one result")


def _check_parameter(parameter: Parameter, index: int, name: str) -> None:
    if parameter.kind in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD):
        raise TypeError(
            f"{name}: {parameter} cannot be part of a payload; "
            "name each parameter, or take one list or dict"
        )
    if index == 0 and parameter.name in ("self", "cls"):
        raise TypeError(f"{name}: a method cannot be a task; decorate a function of a module")


def _is_task(hint: Any) -> bool:
    return hint is Task or typing.get_origin(hint) is Task


_INJECTED = ("*task", "*actions", "*results")
"""What can be injected; no names that a parameter could have."""


def _injected(hint: Any) -> str | None:
    if _is_task(hint):
        return "*task"
    if hint is ExecutorActions:
        return "*actions"
    return "*results" if hint is FlowResults else None


def _resolve(function: Callable[..., Any], parameter: Parameter, name: str) -> Any:
    """The annotation as a type; Any when there is none."""
    if parameter.annotation is Parameter.empty:
        return Any
    # The injected types are found even when they are imported for type checkers only.
    known = {"Task": Task, "ExecutorActions": ExecutorActions, "FlowResults": FlowResults}
    names = known | getattr(inspect.unwrap(function), "__globals__", {})
    holder = SimpleNamespace(__annotations__={parameter.name: parameter.annotation})
    try:
        return typing.get_type_hints(holder, globalns=names, include_extras=True)[parameter.name]
    except Exception as error:
        raise TypeError(
            f"{name}: the annotation {parameter.annotation!r} of parameter {parameter.name!r} "
            f"cannot be resolved ({error}). Define or import the type at module level, "
            "outside `if TYPE_CHECKING:`"
        ) from None


_NO_ROW: Any = object()


def _row_of(hint: Any) -> Any:
    """`Row` of `list[Task[Row]]`; Any where it is left out."""
    if hint is Any or hint is list:
        return Any
    inner = typing.get_args(hint)
    if typing.get_origin(hint) not in (list, Sequence, Iterable) or not _is_task(inner[0]):
        return _NO_ROW
    row = typing.get_args(inner[0])
    return row[0] if row else Any
