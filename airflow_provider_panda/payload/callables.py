"""What a callable is underneath: partial objects, bound methods and decorators taken off, without importing Airflow."""

from __future__ import annotations

import ast
import functools
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any

from .syntax import Definition, FunctionNode, Place

DECORATOR_MARK = "__panda_decorator__"
"""Attribute that marks a decorator as ours; it never travels."""
MISSING: Any = object()
"""Stands for no value."""
_OUR_PACKAGES = ("airflow", "airflow_provider_panda")


@dataclass(frozen=True, slots=True, kw_only=True)
class Unwrapped:
    """A callable without partial objects and bindings.

    :param target: the callable itself.
    :param args: arguments that come before those of the call.
    :param kwargs: keyword arguments under those of the call.
    :param owner: class of a bound class method.
    """

    target: Any
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    owner: type | None = None

    @property
    def name(self) -> str:
        """Name for people."""
        return str(getattr(self.target, "__qualname__", None) or type(self.target).__name__).split("<locals>.")[-1]


def unwrap(function: Any) -> Unwrapped:
    """Take partial objects, Airflow's decorated functions and method bindings off a callable."""
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    while True:
        if isinstance(function, functools.partial):
            args, kwargs = (*function.args, *args), {**function.keywords, **kwargs}
            function = function.func
        elif is_ours(type(function)) and callable(getattr(function, "function", None)):
            function = function.function
        elif isinstance(function, MethodType):
            if isinstance(function.__self__, type):
                return Unwrapped(target=function.__func__, args=args, kwargs=kwargs, owner=function.__self__)
            args, function = (function.__self__, *args), function.__func__
        else:
            return Unwrapped(target=function, args=args, kwargs=kwargs)


def refusal(function: Any) -> str | None:
    """Return why a callable cannot be a grid function at all, or None."""
    target = inspect.unwrap(unwrap(function).target)
    if inspect.iscoroutinefunction(target):
        return "it is an async function, and a grid job has no event loop"
    if inspect.isgeneratorfunction(target) or inspect.isasyncgenfunction(target):
        return "it is a generator function: what it yields cannot travel"
    if not callable(target):
        return "it is not callable"
    return None


def is_ours(value: Any) -> bool:
    """Whether an object, class or module belongs to Airflow or to this package, so that it never travels."""
    if isinstance(value, MethodType):
        return is_ours(value.__self__)
    if isinstance(value, ModuleType):
        module = value.__name__
    elif isinstance(value, (type, FunctionType)):
        module = value.__module__ or ""
    else:
        module = type(value).__module__
    return module.partition(".")[0] in _OUR_PACKAGES


def is_our_decorator(decorator: ast.expr, names: Mapping[str, Any], around: tuple[Definition, ...]) -> bool:
    """Whether a decorator makes a task of the function, so that it is removed before shipping.

    :param names: the globals of the module and the closure variables at hand.
    :param around: enclosing definitions, whose own import statements are looked at for names that are not at hand.
    """
    expression = decorator
    while isinstance(expression, ast.Call):
        expression = expression.func
    root: ast.expr = expression
    attributes = []
    while isinstance(root, (ast.Attribute, ast.Call)):
        if isinstance(root, ast.Attribute):
            attributes.append(root.attr)
            root = root.value
        else:
            root = root.func
    if not isinstance(root, ast.Name):
        return False
    if root.id not in names:
        module = _imported_from(root.id, around)
        if module is not None:
            return module.partition(".")[0] in _OUR_PACKAGES
        return root.id == "panda_task" or (root.id == "task" and bool(attributes))
    value = names[root.id]
    if isinstance(value, functools.partial):
        value = value.func
    if _marked(value) or is_ours(value):
        return True
    for attribute in reversed(attributes):  # an alias inside a namespace or a module of the user
        try:
            value = inspect.getattr_static(value, attribute)
        except AttributeError:
            return False
        value = value.func if isinstance(value, functools.partial) else value
        if _marked(value) or is_ours(value):
            return True
    return False


def _marked(value: Any) -> bool:
    try:
        return bool(inspect.getattr_static(value, DECORATOR_MARK, False))
    except TypeError:
        return False


def _imported_from(name: str, around: tuple[Definition, ...]) -> str | None:
    for definition in reversed(around):
        for node in ast.walk(definition):
            if isinstance(node, ast.ImportFrom) and any((alias.asname or alias.name) == name for alias in node.names):
                return node.module
            if isinstance(node, ast.Import):
                for alias in node.names:
                    if (alias.asname or alias.name.partition(".")[0]) == name:
                        return alias.name
    return None


def kept_decorators(place: Place, names: Mapping[str, Any], layers: int | None) -> list[ast.expr]:
    """Return the decorators of a definition that are part of what runs on the grid.

    Those above ours were applied to Airflow's object, not to the function, unless the function that was passed has
    more wrappers than there are decorators below ours.

    :param layers: wrappers (``__wrapped__``) around the function that was passed; None keeps all but ours.
    """
    decorators = place.node.decorator_list
    ours = [index for index, one in enumerate(decorators) if is_our_decorator(one, names, place.around)]
    if not ours:
        return list(decorators)
    below = decorators[ours[-1] + 1 :]
    if layers is not None and layers <= len(below):
        return list(below)
    return [one for index, one in enumerate(decorators) if index not in ours]


def wrapper_layers(function: Any) -> int:
    """Return how many ``functools.wraps`` layers are around a function."""
    count = 0
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
        count += 1
    return count


def has_parameter(node: FunctionNode, name: str) -> bool:
    """Whether a function takes an argument of a name."""
    arguments = node.args
    return any(arg.arg == name for arg in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs))


def plain_function(value: Any) -> FunctionType | None:
    """Return the function under Airflow's decorator and ``functools.wraps`` layers, or None."""
    if is_ours(type(value)) and callable(getattr(value, "function", None)):
        value = value.function
    if not isinstance(value, FunctionType) and not hasattr(value, "__wrapped__"):
        return None
    try:
        plain = inspect.unwrap(value)
    except ValueError:
        return None
    return plain if isinstance(plain, FunctionType) else None


def names_at_hand(function: FunctionType) -> dict[str, Any]:
    """Return the globals and closure variables of a function by name."""
    names = dict(function.__globals__)
    for variable, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        content = cell_content(cell)
        if content is not MISSING:
            names[variable] = content
    return names


def cell_content(cell: CellType) -> Any:
    """Return what a closure variable holds, or :data:`MISSING`."""
    try:
        return cell.cell_contents
    except ValueError:
        return MISSING
