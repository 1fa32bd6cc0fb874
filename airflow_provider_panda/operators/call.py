"""How the arguments of a decorated call are split over the jobs of one task: pure, checked as early as possible."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from airflow.sdk.definitions.context import KNOWN_CONTEXT_KEYS

from airflow_provider_panda.exceptions import ConfigurationError, PackagingError

_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A call whose arguments are known.

    :param function: the function.
    :param args: positional arguments, the same for all jobs.
    :param kwargs: keyword arguments, the same for all jobs.
    :param per_job: keyword arguments of each job; None for a call that is not mapped.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    per_job: list[dict[str, Any]] | None

    @property
    def name(self) -> str:
        """Name of the function, for people."""
        return _name(self.function)


def map_over_names(function: Callable[..., Any], map_over: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return the names to map over, checked against the function's signature.

    :raises ConfigurationError: a name is no argument of the function, or cannot be given by keyword.
    """
    if map_over is None:
        return ()
    names = (map_over,) if isinstance(map_over, str) else tuple(map_over)
    parameters = inspect.signature(function).parameters
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    for name in names:
        parameter = parameters.get(name)
        if parameter is None and not takes_any:
            raise ConfigurationError(
                "argument map_over",
                f"{name!r} is no argument of {_name(function)}({', '.join(parameters)})",
                "Name an argument that is given as a list",
            )
        if parameter is not None and parameter.kind in (*_VARIADIC, inspect.Parameter.POSITIONAL_ONLY):
            raise ConfigurationError(
                "argument map_over",
                f"{name!r} cannot be given to {_name(function)}() by keyword",
                "Map over an argument that can",
            )
    if len(set(names)) != len(names) or not names:
        raise ConfigurationError("argument map_over", f"{map_over!r} names no or the same argument twice", "Mend it")
    return names


def check_context_free(function: Callable[..., Any], *, given: Collection[str]) -> None:
    """Refuse a function that expects Airflow's context, which does not exist on a worker node.

    :param given: names of the arguments that the DAG file passes.
    :raises PackagingError: it has an argument named like a context key that nobody passes, takes ``**context``, or
        calls ``get_current_context``.
    """
    plain = function
    while isinstance(plain, functools.partial):
        plain = plain.func
    code = getattr(plain, "__code__", None)
    where = {"filename": code.co_filename, "line": code.co_firstlineno} if code is not None else {}
    for name, parameter in inspect.signature(function).parameters.items():
        wants_all = parameter.kind is inspect.Parameter.VAR_KEYWORD and name == "context"
        wants_one = (
            name in KNOWN_CONTEXT_KEYS and name not in given and parameter.default in (None, inspect.Parameter.empty)
        )
        if wants_all or (wants_one and parameter.kind not in _VARIADIC):
            raise PackagingError(
                function=_name(function),
                problem=f"its argument {name!r} would come from Airflow's context, which does not exist on the grid",
                remedy=f"Pass what it needs as an argument, for instance {_name(function)}(day='{{{{ ds }}}}')",
                **where,
            )
    if code is not None and "get_current_context" in code.co_names:
        raise PackagingError(
            function=_name(function),
            problem="it calls get_current_context(), and Airflow's context does not exist on the grid",
            remedy=f"Pass what it needs as an argument, for instance {_name(function)}(day='{{{{ ds }}}}')",
            **where,
        )


def bind_call(
    function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], map_over: Sequence[str]
) -> Call:
    """Split the arguments of a call into common ones and those of each job.

    :raises ConfigurationError: the arguments do not fit the function, or the mapped ones are no lists of equal length.
    """
    try:
        bound = inspect.signature(function).bind(*args, **kwargs)
    except TypeError as error:
        raise ConfigurationError(f"call of {_name(function)}()", str(error), "Mend the call in the DAG file") from None
    if not map_over:
        return Call(function=function, args=tuple(args), kwargs=dict(kwargs), per_job=None)
    variadic = next(
        (p.name for p in bound.signature.parameters.values() if p.kind is inspect.Parameter.VAR_KEYWORD), None
    )
    mapped: dict[str, list[Any]] = {}
    for name in map_over:
        holder = bound.arguments if name in bound.arguments else bound.arguments.get(variadic or "", {})
        if name not in holder:
            raise ConfigurationError("argument map_over", f"{name!r} is not given in the call", "Give it a list")
        mapped[name] = _as_list(function, name, holder.pop(name))
    lengths = {name: len(items) for name, items in mapped.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise ConfigurationError("argument map_over", f"lists of unequal length: {told}", "Make them equally long")
    # What came after a mapped argument by position can only be given by name now.
    by_name: dict[str, Any] = {}
    by_position: list[Any] = []
    after_mapped = False
    for name, parameter in bound.signature.parameters.items():
        after_mapped = after_mapped or name in map_over
        if name not in bound.arguments:
            continue
        value = bound.arguments[name]
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            by_name.update(value)
        elif parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            if after_mapped and value:
                raise ConfigurationError(
                    "argument map_over", f"*{name} comes after a mapped argument", "Give those arguments by name"
                )
            by_position.extend(value)
        elif parameter.kind is inspect.Parameter.KEYWORD_ONLY or after_mapped:
            by_name[name] = value
        else:
            by_position.append(value)
    count = next(iter(lengths.values()))
    per_job = [{name: items[i] for name, items in mapped.items()} for i in range(count)]
    return Call(function=function, args=tuple(by_position), kwargs=by_name, per_job=per_job)


def rest_of(call: Call, jobs: Sequence[int]) -> Call:
    """Return a mapped call of some of its jobs only.

    :param jobs: their indices.
    """
    per_job = call.per_job or []
    return replace(call, per_job=[per_job[job] for job in jobs])


def _as_list(function: Callable[..., Any], name: str, value: Any) -> list[Any]:
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Collection | Sequence):
        raise ConfigurationError(
            f"argument {name} of {_name(function)}()",
            f"map_over needs a list, got {type(value).__name__}",
            "Give a list (a template that yields one needs render_template_as_native_obj=True on the DAG)",
        )
    return list(value)


def _name(function: Callable[..., Any]) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(function, "__name__", repr(function))
