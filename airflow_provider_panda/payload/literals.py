"""Which values can be written as Python text: by their ``repr``, or by the text of an assignment once more."""

from __future__ import annotations

import ast
import math
import re
import types
import typing
from collections.abc import Mapping
from types import FunctionType, ModuleType
from typing import Any

from . import values

_TEXT_TYPES: tuple[str, ...] = (
    "logging.Logger",
    "re.Pattern",
    "types.GenericAlias",
    "types.UnionType",
    "typing.TypeVar",
    "typing.ParamSpec",
    "typing.NewType",
    "typing.TypeAliasType",
    "struct.Struct",
    "_struct.Struct",
    "string.Template",
    "operator.itemgetter",
    "operator.attrgetter",
    "operator.methodcaller",
    "functools._lru_cache_wrapper",
    "numpy.dtype",
    "numpy.ufunc",
    "numpy.vectorize",
)
"""Types without state of their own: the text of an assignment makes an equal object again."""


def is_literal(value: Any, depth: int) -> bool:
    """Whether ``repr`` of a value is Python text that gives it back, the same text each time."""
    kind = type(value)
    if value is None or kind in (bool, bytes) or value is Ellipsis:
        return True
    if kind is int:
        return bool(-(10**300) < value < 10**300)
    if kind is float:
        return math.isfinite(value)
    if kind is str:
        return bool(value.isascii()) or not any("\ud800" <= character <= "\udfff" for character in value)
    if depth > 20:
        return False
    if kind in (list, tuple):
        return all(is_literal(item, depth + 1) for item in value)
    if kind is dict:
        return all(is_literal(key, depth + 1) and is_literal(item, depth + 1) for key, item in value.items())
    return False


def same_again(value: Any, expression: ast.expr, module_globals: Mapping[str, Any]) -> bool:
    """Whether the text of an assignment gives an equal object on the worker node."""
    if is_lambda(value):
        return True
    root = expression
    while isinstance(root, ast.Attribute):
        root = root.value
    if isinstance(root, ast.Name) and root is not expression:
        return isinstance(module_globals.get(root.id), (ModuleType, type))
    kind = values.type_name(type(value))
    if kind in _TEXT_TYPES or kind.startswith("typing."):
        return True
    return isinstance(value, type) and value.__module__ == module_globals.get("__name__")


def prefers_text(value: Any) -> bool:
    """Whether the text of an assignment says more than the value's encoded form."""
    return isinstance(value, (FunctionType, types.GenericAlias, types.UnionType, re.Pattern, typing.TypeVar, type))


def is_lambda(value: Any) -> bool:
    """Whether a value was made by a lambda expression."""
    return isinstance(value, FunctionType) and value.__name__ == "<lambda>"
