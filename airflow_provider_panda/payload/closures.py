"""Functions and classes defined inside functions: each becomes a scope of its own that binds what it closes over."""

from __future__ import annotations

import ast
import inspect
from types import CellType, FunctionType
from typing import Any

from .callables import MISSING, cell_content, plain_function
from .excerpt import default_edits, definition_text, pruned
from .pieces import LATE, Assign, Follow, Pieces
from .syntax import Definition, ModuleText, NoSourceError, Place, line_of_name


class Closures:
    """Ships closures.

    :param assignment: writes down what they close over.
    :param follow: ships what they use.
    """

    def __init__(self, pieces: Pieces, *, assignment: Assign, follow: Follow) -> None:
        self.pieces = pieces
        self.assignment = assignment
        self.follow = follow

    def function(
        self, function: FunctionType, text: ModuleText, place: Place, kept: list[ast.expr], line: int | None
    ) -> str:
        """Ship a function defined inside another one: its closure variables become those of a scope of its own."""
        if id(function) in self.pieces.nested:
            return self.pieces.nested[id(function)]
        node = place.node
        number = self.pieces.open_scope(function)
        name = self.pieces.nested[id(function)]
        indent = " " * node.col_offset or "    "
        statements, late = self._bindings(function, text.filename, node, number)
        edits, prelude = default_edits(node, function.__globals__, function, self.assignment, nested=True)
        statements += [one for one in prelude.split("\n") if one]
        body = definition_text(text, node, kept, edits, function.__globals__)
        results = node.name
        for variable in late:
            body += f"{indent}def _panda_late(value):\n{indent} nonlocal {variable}\n{indent} {variable} = value\n"
            results += ", _panda_late"
        local_names = (*function.__code__.co_freevars, node.name)
        self.follow(text, function.__globals__, pruned(node, kept, edits), local_names)
        target = name + "".join(f", _panda_bind_{number}" for _ in late)
        self._close(function, number, target, _indented(statements, indent) + body + f"{indent}return {results}\n")
        if line is None and name not in self.pieces.owners:
            self.pieces.owners[name] = id(function.__globals__)
        return name

    def class_(self, cls: type, text: ModuleText, place: Place, module_globals: dict[str, Any]) -> str:
        """Ship a class defined inside a function, in a scope of its own."""
        if isinstance(place.around[-1], ast.ClassDef):
            raise NoSourceError(f"class {cls.__qualname__} is defined inside a class of a function")
        if id(cls) in self.pieces.nested:
            return self.pieces.nested[id(cls)]
        node = place.node
        number = self.pieces.open_scope(cls)
        name = self.pieces.nested[id(cls)]
        indent = " " * node.col_offset
        cells: dict[str, CellType] = {}
        for member in vars(cls).values():
            plain = inspect.unwrap(getattr(member, "__func__", member))
            if isinstance(plain, FunctionType):
                cells.update(zip(plain.__code__.co_freevars, plain.__closure__ or (), strict=True))
        statements = []
        for variable, cell in cells.items():
            content = cell_content(cell)
            if variable not in ("__class__", node.name) and content is not MISSING:
                line = line_of_name(node, variable)
                statements.append(self.assignment(variable, content, text.filename, line))
        body = definition_text(text, node, list(node.decorator_list), [], module_globals)
        self.follow(text, module_globals, node, (*cells, node.name))
        self._close(cls, number, name, _indented(statements, indent) + body + f"{indent}return {node.name}\n")
        return name

    def _bindings(
        self, function: FunctionType, filename: str, node: Definition, number: int
    ) -> tuple[list[str], list[str]]:
        """Return the statements that bind what a function closes over, and the variables that are bound later."""
        statements: list[str] = []
        late: list[str] = []
        for variable, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            content = cell_content(cell)
            if content is MISSING or _is_same(content, function):
                continue
            inner = plain_function(content)
            if inner is not None and id(inner) in self.pieces.nested and ("nested", id(inner)) not in self.pieces.texts:
                late.append(variable)  # they call each other: bound once both are there
                call = f"_panda_bind_{number}({self.pieces.nested[id(inner)]})\n"
                self.pieces.texts[("late", number, variable)] = (LATE + 10**6, call)
                statements.append(f"{variable} = None")
                continue
            statements.append(self.assignment(variable, content, filename, line_of_name(node, variable)))
        return statements, late

    def _close(self, value: Any, number: int, target: str, body: str) -> None:
        """Put a scope in: only now, so that what it closes over comes first."""
        scope = f"def _panda_scope_{number}():\n{body}\n{target} = _panda_scope_{number}()\n"
        self.pieces.texts[("nested", id(value))] = (LATE + len(self.pieces.texts), scope)


def _indented(statements: list[str], indent: str) -> str:
    return "".join(f"{indent}{statement}\n" for statement in statements)


def _is_same(content: Any, function: FunctionType) -> bool:
    return content is function or plain_function(content) is function
