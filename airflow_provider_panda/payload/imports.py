"""Import statements of the shipped file: absolute, one name each, and only of modules that the worker node has."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from airflow_provider_panda.exceptions import MissingModuleError

from .modules import is_available
from .syntax import Binding, Edit, NoSourceError


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeModules:
    """The modules that the worker node will have.

    :param function: name of the function, for errors.
    :param included: top-level names of the modules that travel along.
    """

    function: str
    included: frozenset[str]

    def travels(self, module: str | None) -> bool:
        """Whether a module can be imported on the worker node."""
        return (
            bool(module)
            and module != "__main__"
            and (str(module).partition(".")[0] in self.included or is_available(str(module)))
        )

    def check_module(self, module: str, filename: str | None, line: int | None) -> None:
        """Refuse a module that no worker node has.

        :raises MissingModuleError: it is neither installed nor included.
        """
        if not self.travels(module):
            root = module.partition(".")[0]
            raise MissingModuleError(module=root, function=self.function, filename=filename, line=line)

    def check_import(
        self, statement: ast.Import | ast.ImportFrom, module_globals: Mapping[str, Any], filename: str
    ) -> None:
        """Refuse an import statement of such a module; see :meth:`check_module`."""
        if isinstance(statement, ast.ImportFrom):
            self.check_module(absolute_module(statement, module_globals), filename, statement.lineno)
            return
        for alias in statement.names:
            self.check_module(alias.name, filename, statement.lineno)


def absolute_module(node: ast.ImportFrom, module_globals: Mapping[str, Any]) -> str:
    """Return the absolute name of the module of a ``from`` import."""
    if not node.level:
        return node.module or ""
    package = str(module_globals.get("__package__") or "")
    base = package.split(".")
    base = base[: len(base) - (node.level - 1)]
    return ".".join([*base, node.module] if node.module else base)


def imported_module(binding: Binding, module_globals: Mapping[str, Any]) -> str:
    """Return the absolute name of the module that a binding comes from."""
    if isinstance(binding.node, ast.ImportFrom):
        return absolute_module(binding.node, module_globals)
    return _alias(binding).name


def _alias(binding: Binding) -> ast.alias:
    if binding.alias is None:
        raise NoSourceError(f"line {binding.node.lineno} is no import")
    return binding.alias


def import_text(binding: Binding, module_globals: Mapping[str, Any]) -> str:
    """Return the statement that binds this one name, with an absolute module name."""
    alias = _alias(binding)
    name = f"{alias.name} as {alias.asname}" if alias.asname else alias.name
    if isinstance(binding.node, ast.ImportFrom):
        return f"from {absolute_module(binding.node, module_globals)} import {name}"
    return f"import {name}"


def absolute_imports(node: ast.AST, module_globals: Mapping[str, Any]) -> list[Edit]:
    """Return the edits that make the relative imports in a piece absolute."""
    edits: list[Edit] = []
    for child in ast.walk(node):
        if isinstance(child, ast.ImportFrom) and child.level:
            names = [ast.alias(alias.name, alias.asname) for alias in child.names]
            absolute = ast.ImportFrom(absolute_module(child, module_globals), names, 0)
            edits.append((child, ast.unparse(absolute)))
    return edits
