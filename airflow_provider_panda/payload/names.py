"""The global names that a piece of the file uses: each is shipped as what its module binds to it."""

from __future__ import annotations

import ast
import sys
from types import ModuleType
from typing import Any

from airflow_provider_panda.exceptions import PackagingError

from .callables import MISSING, is_ours, kept_decorators, names_at_hand, plain_function
from .definitions import Definitions
from .expressions import Expressions
from .imports import NodeModules, absolute_imports, absolute_module, import_text, imported_module
from .literals import is_lambda, prefers_text, same_again
from .pieces import LATE, Pieces
from .syntax import (
    Binding,
    FunctionNode,
    ModuleText,
    NoSourceError,
    Place,
    annotation_names,
    begins_at,
    global_names,
    last_line,
    splice,
    unguarded_imports,
)


class Names:
    """Follows names, from one piece of the file to the next."""

    def __init__(
        self, pieces: Pieces, *, nodes: NodeModules, definitions: Definitions, expressions: Expressions
    ) -> None:
        self.pieces = pieces
        self.nodes = nodes
        self.definitions = definitions
        self.expressions = expressions

    def follow(
        self, text: ModuleText, module_globals: dict[str, Any], node: ast.stmt | ast.expr, local_names: tuple[str, ...]
    ) -> None:
        """Ship everything that a piece uses, and check what it imports."""
        for statement in unguarded_imports(node):
            self.nodes.check_import(statement, module_globals, text.filename)
        for name, line in global_names(node, local_names).items():
            self._global(name, text, module_globals, line)
        decorated = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and bool(node.decorator_list)
        for name in sorted(annotation_names(node, functions=decorated) - set(local_names)):
            self._annotation(name, text, module_globals)
        for child in ast.walk(node):
            if isinstance(child, ast.Attribute) and child.attr == "function" and isinstance(child.value, ast.Name):
                name = child.value.id
                value = module_globals.get(name)
                if value is not None and is_ours(type(value)):
                    self.pieces.add(("function", name), LATE, f"{name}.function = {name}\n")

    def _global(self, name: str, text: ModuleText, module_globals: dict[str, Any], line: int) -> None:
        """Ship a global variable of a module."""
        value = module_globals.get(name, MISSING)
        if value is MISSING:
            return  # a builtin, or a name that fails here as well
        bindings = text.bindings.get(name, [])
        binding = bindings[-1] if bindings else None
        plain = plain_function(value)
        if plain is not None and plain.__globals__ is module_globals and plain.__code__.co_filename == text.filename:
            for one in bindings:
                node = one.node
                if isinstance(node, FunctionNode) and begins_at(node, plain.__code__.co_firstlineno):
                    binding = one
        if binding is None:
            self._unbound(name, value, text, module_globals, line)
        elif binding.guard is not None:
            self._guard(binding.guard, name, text, module_globals)
        elif isinstance(binding.node, (ast.Import, ast.ImportFrom)):
            self._imports(name, bindings, text, module_globals)
        elif isinstance(binding.node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            place = Place(binding.node, ())
            names = names_at_hand(plain) if plain is not None else module_globals
            kept = kept_decorators(place, names, None)
            function = plain if plain is not None and plain.__code__.co_name == binding.node.name else None
            self.definitions.definition(text, module_globals, place, kept, function)
        else:
            self._variable(name, value, binding, text, module_globals, line)

    def _annotation(self, name: str, text: ModuleText, module_globals: dict[str, Any]) -> None:
        """Ship a name used in an annotation if that is possible; nothing fails without it."""
        bindings = text.bindings.get(name, [])
        imports = [one for one in bindings if isinstance(one.node, (ast.Import, ast.ImportFrom))]
        if imports:
            binding = imports[-1]
            module = imported_module(binding, module_globals)
            if name in module_globals and not is_ours(ModuleType(module)) and self.nodes.travels(module):
                statement = import_text(binding, module_globals)
                guarded = f"try:\n    {statement}\nexcept ImportError:\n    pass\n"
                if not any(key[:2] == ("import", name) for key in self.pieces.texts):
                    self.pieces.add(("annotation", name), binding.node.lineno, guarded)
            return
        if not bindings or name not in module_globals:
            return
        before = self.pieces.state()
        try:
            self._global(name, text, module_globals, bindings[-1].node.lineno)
        except (PackagingError, NoSourceError):
            self.pieces.restore(before)

    def _guard(self, guard: ast.stmt, name: str, text: ModuleText, module_globals: dict[str, Any]) -> None:
        key = ("guard", text.filename, guard.lineno)
        if key in self.pieces.texts:
            return
        self.pieces.own(name, module_globals)
        edits = absolute_imports(guard, module_globals)
        body = splice(text.slice(guard.lineno, last_line(guard)), guard.lineno, edits)
        self.pieces.texts[key] = (guard.lineno, body)
        self.follow(text, module_globals, guard, ())

    def _imports(self, name: str, bindings: list[Binding], text: ModuleText, module_globals: dict[str, Any]) -> None:
        used = [one for one in bindings if isinstance(one.node, ast.Import) and one.guard is None]
        if isinstance(bindings[-1].node, ast.ImportFrom) or (bindings[-1].alias and bindings[-1].alias.asname):
            used = [bindings[-1]]
        for binding in used:
            self.nodes.check_module(imported_module(binding, module_globals), text.filename, binding.node.lineno)
            statement = import_text(binding, module_globals)
            self.pieces.add(("import", name, statement), binding.node.lineno, statement + "\n")
        self.pieces.own(name, module_globals)

    def _unbound(self, name: str, value: Any, text: ModuleText, module_globals: dict[str, Any], line: int) -> None:
        """Ship a variable that no statement of the module binds: from ``import *``, or set from outside."""
        for star in text.star_imports:
            module = absolute_module(star, module_globals)
            if getattr(sys.modules.get(module), name, MISSING) is value:
                self.nodes.check_module(module, text.filename, star.lineno)
                self.pieces.add(("import", name), star.lineno, f"from {module} import {name}\n", name, module_globals)
                return
        statement = self.expressions.assignment(name, value, text.filename, line)
        self.pieces.add(("value", name), 0, statement + "\n", name, module_globals)

    def _variable(
        self,
        name: str,
        value: Any,
        binding: Binding,
        text: ModuleText,
        module_globals: dict[str, Any],
        line: int,
    ) -> None:
        """Ship a variable: its value if that can be written down, else its assignment's text where that is safe."""
        key = ("value", name, text.filename)
        if key in self.pieces.texts:
            return
        self.pieces.own(name, module_globals)
        node = binding.node
        self.pieces.texts[key] = (node.lineno, "")
        expression = getattr(node, "value", None)
        if is_lambda(value) and not isinstance(expression, ast.Lambda):
            expression = None
        safe = (
            expression if isinstance(expression, ast.expr) and same_again(value, expression, module_globals) else None
        )
        if safe is None or not prefers_text(value):
            try:
                statement = self.expressions.assignment(name, value, text.filename, line)
                self.pieces.texts[key] = (node.lineno, statement + "\n")
                return
            except PackagingError:
                if safe is None:
                    raise
        segment = ast.get_source_segment("".join(text.lines), node)
        self.pieces.texts[key] = (node.lineno, f"{segment}\n")
        self.follow(text, module_globals, safe, ())
