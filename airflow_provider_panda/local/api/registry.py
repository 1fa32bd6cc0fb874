"""What a call of the API is, and how the server checks one before it runs (facts/panda.md sections 1 and 3)."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from airflow_provider_panda.local.auth import Identity
from airflow_provider_panda.local.cache import Cache
from airflow_provider_panda.local.jedi import Engine
from airflow_provider_panda.local.options import GridOptions
from airflow_provider_panda.local.relay import Relay
from airflow_provider_panda.local.store import Store


@dataclass(frozen=True, slots=True)
class Answer:
    """The envelope of every answer.

    :param data: the value, or a function that makes it where that takes long (it runs in another thread).
    """

    success: bool
    message: str = ""
    data: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """What the calls work on."""

    store: Store
    engine: Engine
    cache: Cache
    options: GridOptions
    relay: Relay
    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request: the grid and who asks."""

    grid: Grid
    identity: Identity | None
    headers: Mapping[str, str]

    @property
    def user(self) -> Identity:
        """Who asks; only for calls that need credentials.

        :raises PermissionError: nobody who is known; the call was not registered as one that needs them.
        """
        if self.identity is None:
            raise PermissionError(SSL_REQUIRED)
        return self.identity


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One call of the API.

    :param method: HTTP method that it wants, or None for both.
    :param secure: whether it needs credentials.
    :param role: ``production`` or ``pilot`` where it needs one of the privileged roles.
    """

    module: str
    name: str
    function: Callable[..., Any]
    method: str | None
    secure: bool
    role: str | None
    signature: inspect.Signature
    hints: Mapping[str, Any]


class Module:
    """Collects the calls of one PanDA module."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.calls: list[Endpoint] = []

    def call(
        self, method: str | None, *, secure: bool = True, role: str | None = None
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Register a function as a call; its first parameter is the :class:`Call`, the others are arguments."""

        def register(function: Callable[..., Any]) -> Callable[..., Any]:
            signature = inspect.signature(function)
            without_call = signature.replace(parameters=list(signature.parameters.values())[1:])
            hints = typing.get_type_hints(function)
            name = function.__name__
            self.calls.append(Endpoint(self.name, name, function, method, secure, role, without_call, hints))
            return function

        return register


SSL_REQUIRED = "SSL secure connection is required"
ROLE_REQUIRED = "production or pilot role required"


def refusal(endpoint: Endpoint, *, method: str, identity: Identity | None) -> str | None:
    """Return why a request may not make this call, or None."""
    if endpoint.secure and identity is None:
        return SSL_REQUIRED
    if endpoint.role and not (identity and (identity.production or (endpoint.role == "pilot" and identity.pilot))):
        return ROLE_REQUIRED
    if endpoint.method is not None and method != endpoint.method:
        return f"expecting {endpoint.method}, received {method}"
    return None


def bind(endpoint: Endpoint, arguments: Mapping[str, Any], *, from_query: bool) -> tuple[dict[str, Any], str | None]:
    """Return the arguments as the function takes them, and what is wrong with them, or None.

    :param from_query: whether they are texts of a query string, to be converted.
    """
    try:
        bound = endpoint.signature.bind(**arguments)
    except TypeError as error:
        return {}, f"Argument error: {error}"
    for name, value in bound.arguments.items():
        expected = endpoint.hints.get(name)
        if from_query:
            try:
                value = _from_query(value, expected)
            except ValueError:
                what = f"'{name}' with value '{value}' could not be casted to type {_name(expected)}"
                return {}, f"Type error: {what} from {type(value).__name__}."
            bound.arguments[name] = value
        if not _fits(value, expected):
            return {}, f"Type error: '{name}' must be of type {_name(expected)}, got {type(value).__name__}."
        element = _element(expected)
        if element is not None and isinstance(value, list) and not all(_fits(v, element) for v in value):
            return {}, f"Type error: All elements in '{name}' must be {_name(element)}."
    return dict(bound.arguments), None


def _alternatives(hint: Any) -> tuple[Any, ...]:
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return typing.get_args(hint)
    return (hint,)


def _fits(value: Any, hint: Any) -> bool:
    for option in _alternatives(hint):
        if option is Any or option is None or (option is type(None) and value is None):
            if option is not type(None) or value is None:
                return True
            continue
        kind = typing.get_origin(option) or option
        if kind is int and isinstance(value, bool):
            continue
        if isinstance(value, kind):
            return True
    return False


def _name(hint: Any) -> str:
    kinds = [o for o in _alternatives(hint) if o is not type(None)]
    kind = kinds[0]
    return getattr(typing.get_origin(kind) or kind, "__name__", str(kind))


def _element(hint: Any) -> Any:
    """Return the type of a list's elements where a hint says it."""
    for option in _alternatives(hint):
        if typing.get_origin(option) is list:
            return typing.get_args(option)[0]
    return None


def _from_query(value: Any, hint: Any) -> Any:
    """Convert what stands in a query string: lists are repeated keys, None and booleans are their Python names.

    :raises ValueError: it is no number where one belongs.
    """
    kinds = [typing.get_origin(o) or o for o in _alternatives(hint)]
    if list in kinds:
        return [_from_query(v, _element(hint)) for v in (value if isinstance(value, list) else [value])]
    if isinstance(value, list):
        value = value[-1]
    if value == "None" and type(None) in kinds:
        return None
    if bool in kinds:
        return str(value).lower() in ("true", "1")
    if int in kinds:
        try:
            return int(float(value))
        except OverflowError as error:
            raise ValueError(str(error)) from None
    return value
