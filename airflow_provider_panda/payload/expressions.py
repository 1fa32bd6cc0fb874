"""Values as Python expressions: a literal, a name of the file, an import, or their encoded form."""

from __future__ import annotations

import functools
import importlib
import json
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

from airflow_provider_panda.exceptions import PackagingError

from . import values
from .callables import MISSING, plain_function, unwrap
from .definitions import Definitions
from .imports import NodeModules
from .literals import is_literal
from .pieces import Home
from .runner import FUNCTION_MODULE
from .syntax import NoSourceError


class Expressions:
    """Writes down values, and ships the definitions that they need.

    :param nodes: modules of the worker node, which are imported there.
    """

    def __init__(self, home: Home, *, nodes: NodeModules, definitions: Definitions) -> None:
        self.home = home
        self.nodes = nodes
        self.definitions = definitions
        self.classes: dict[type, tuple[str, str, str]] = {}
        self.needs_decoder = False

    def assignment(self, name: str, value: Any, filename: str, line: int | None) -> str:
        """Return the statement (one line) that gives a variable its value.

        :raises PackagingError: the value cannot be written down.
        """
        if isinstance(value, ModuleType):
            self.nodes.check_module(value.__name__, filename, line)
            return f"import {value.__name__} as {name}"
        return f"{name} = {self._expression(name, value, filename, line)}"

    def _expression(self, name: str, value: Any, filename: str, line: int | None) -> str:
        if is_literal(value, 0):
            return repr(value)
        if isinstance(value, functools.partial):
            inner = self._expression(name, value.func, filename, line)
            parts = [inner, *(self._expression(name, one, filename, line) for one in value.args)]
            parts += [f"{key}={self._expression(name, one, filename, line)}" for key, one in value.keywords.items()]
            return f"__import__('functools').partial({', '.join(parts)})"
        try:
            reference = self._reference(value, line)
            if reference is not None:
                return reference
            text = values.dumps(value, self.token)
        except values.UnsupportedValue as error:
            raise self._refused(name, value, filename, line, f"{error.problem} (at {error.path})") from None
        except NoSourceError as error:
            raise self._refused(name, value, filename, line, str(error)) from None
        self.needs_decoder = True
        used = [entry for entry in self.classes.values() if json.dumps(entry[0]) in text]
        table = "".join(
            f"{key!r}: {shipped if module == FUNCTION_MODULE else _by_import(module, shipped)}, "
            for key, module, shipped in used
        )
        return f"_panda_value({text!r}, {{{table}}})" if used else f"_panda_value({text!r})"

    def _reference(self, value: Any, line: int | None) -> str | None:
        """Return the expression that names a function or class, shipped or imported; None if it is neither."""
        plain = plain_function(value)
        if plain is not None:
            if plain.__globals__ is not self.home.globals and self._is_importable(plain):
                return _by_import(plain.__module__, plain.__qualname__)
            return None if plain.__name__ == "<lambda>" else self.definitions.function(unwrap(value).target, line=line)
        if isinstance(value, type) and (
            value.__module__ == self.home.globals.get("__name__") or "<locals>" in value.__qualname__
        ):
            return self.definitions.class_(value)
        if isinstance(value, (type, BuiltinFunctionType)) and self._is_importable(value):
            return _by_import(value.__module__, value.__qualname__)
        return None

    def _is_importable(self, value: type | FunctionType | BuiltinFunctionType) -> bool:
        module = value.__module__
        return self.nodes.travels(module) and _found_in_module(value, module, value.__qualname__)

    def token(self, cls: type) -> str | None:
        """Return the key under which a dataclass or enum is known to the decoder, after shipping its definition."""
        if cls in self.classes:
            return self.classes[cls][0]
        module, name = cls.__module__, cls.__qualname__
        if module == self.home.globals.get("__name__", MISSING) or "<locals>" in name:
            try:
                module, name = FUNCTION_MODULE, self.definitions.class_(cls)
            except NoSourceError:
                return None
        elif not self._is_importable(cls):
            return None
        key = str(len(self.classes))
        self.classes[cls] = (key, module, name)
        return key

    def _refused(self, name: str, value: Any, filename: str, line: int | None, why: str) -> PackagingError:
        what = f"variable {name!r} holds a {values.type_name(type(value))}: {why}"
        return PackagingError(
            function=self.nodes.function,
            problem=what,
            remedy="Make it inside the function, or pass what it is made of as an argument",
            filename=filename,
            line=line,
        )


def _by_import(module: str, qualname: str) -> str:
    if module == "builtins":
        return qualname
    return f"__import__({module!r}, fromlist=['_']).{qualname}"


def _found_in_module(value: Any, module: str, qualname: str) -> bool:
    try:
        found: Any = importlib.import_module(module)
        for part in qualname.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError):
        return False
    return found is value
