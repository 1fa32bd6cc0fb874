"""The source form of a function: its text, with everything of its module that it uses, as one file of plain Python.

Names are followed from the function through helpers, classes and constants. Text is shipped of imports, functions and
classes; of variables, their present value, for the text of an assignment may no longer tell it. The file starts with
``from __future__ import annotations``, so that annotations need nothing on the worker node.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from types import BuiltinFunctionType, FunctionType
from typing import Any

from . import values
from .callables import Unwrapped
from .definitions import Definitions
from .expressions import Expressions
from .imports import NodeModules
from .names import Names
from .pieces import Home, Pieces
from .syntax import ModuleText, NoSourceError, Place, module_text


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A function as one file.

    :param text: the file.
    :param entry: dotted name of the callable in it.
    :param classes: classes that arguments refer to: key -> (module, qualified name).
    """

    text: str
    entry: str
    classes: dict[str, tuple[str, str]]


class SourceBuilder:
    """Collects the pieces of one function's file.

    Definitions, values and names lead to each other until nothing new is found; this is where they are joined.

    :param function: the callable, without partial objects (:func:`..callables.unwrap`).
    :param included: top-level names of the modules that travel along.
    :raises PackagingError: something that the function uses cannot be shipped.
    :raises NoSourceError: there is no source form; another form may do.
    """

    def __init__(self, function: Unwrapped, *, included: frozenset[str]) -> None:
        self.nodes = NodeModules(function=function.name, included=included)
        self.pieces = Pieces()
        self.home = _home(function.target)
        self.definitions = Definitions(self.pieces, self.home, assignment=self._assignment, follow=self._follow)
        self.expressions = Expressions(self.home, nodes=self.nodes, definitions=self.definitions)
        self.names = Names(self.pieces, nodes=self.nodes, definitions=self.definitions, expressions=self.expressions)
        self.entry = self._entry(function)

    def build(self) -> Source:
        """Return the file, with every piece that was needed so far."""
        head = ["from __future__ import annotations\n"]
        if self.expressions.needs_decoder:
            head.append("from panda_runner.values import loads as _panda_value\n")
        table = {key: (module, name) for key, module, name in self.expressions.classes.values()}
        return Source(text="\n".join([*head, *self.pieces.in_order()]), entry=self.entry, classes=table)

    def token(self, cls: type) -> str | None:
        """Return the key under which a dataclass or enum is known to the decoder, after shipping its definition."""
        return self.expressions.token(cls)

    def _assignment(self, name: str, value: Any, filename: str, line: int | None) -> str:
        return self.expressions.assignment(name, value, filename, line)

    def _follow(
        self, text: ModuleText, module_globals: dict[str, Any], node: ast.stmt | ast.expr, local_names: tuple[str, ...]
    ) -> None:
        self.names.follow(text, module_globals, node, local_names)

    def _entry(self, function: Unwrapped) -> str:
        target = function.target
        if self.home.text is None:
            self.nodes.check_module(target.__module__, None, None)
            statement = f"from {target.__module__} import {target.__name__}\n"
            self.pieces.add(("entry",), 0, statement, target.__name__, self.home.globals)
            return str(target.__name__)
        plain = inspect.unwrap(target)
        if function.owner is not None:
            return f"{self.definitions.class_(function.owner)}.{plain.__name__}"
        qualname = plain.__qualname__.rpartition(".")[0]
        if qualname and not qualname.endswith("<locals>"):
            place = self.home.text.place_of(plain)
            if _is_method(place):
                found = _find_class(qualname, self.home.globals)
                if found is not None:
                    return f"{self.definitions.class_(found)}.{plain.__name__}"
                raise NoSourceError(f"class {qualname} of the method is not a variable of its module")
        return self.definitions.function(target, line=None, main=True)


def _home(target: Any) -> Home:
    """Return the module of a callable.

    :raises NoSourceError: the callable has no source form.
    """
    if isinstance(target, BuiltinFunctionType) and isinstance(target.__module__, str):
        return Home()
    plain = inspect.unwrap(target)
    if not isinstance(plain, FunctionType):
        raise NoSourceError(f"a callable of type {values.type_name(type(plain))} has no source form")
    if plain.__name__ == "<lambda>" or plain.__code__.co_name == "<lambda>":
        raise NoSourceError("a lambda has no source form; write it as a def")
    return Home(globals=plain.__globals__, text=module_text(plain))


def _is_method(place: Place) -> bool:
    return bool(place.around) and isinstance(place.around[-1], ast.ClassDef)


def _find_class(qualname: str, module_globals: Mapping[str, Any]) -> type | None:
    found: Any = module_globals.get(qualname.partition(".")[0], None)
    for part in qualname.split(".")[1:]:
        found = getattr(found, part, None)
    return found if isinstance(found, type) else None
