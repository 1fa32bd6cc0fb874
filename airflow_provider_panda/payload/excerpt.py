"""One definition cut out of its module, as it travels: its text, its tree, and its default values."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Mapping
from types import FunctionType
from typing import Any

from airflow_provider_panda.exceptions import PackagingError

from .imports import absolute_imports
from .pieces import Assign
from .syntax import Definition, Edit, FunctionNode, ModuleText, global_names, last_line, splice


def definition_text(
    text: ModuleText,
    node: Definition,
    kept: list[ast.expr],
    edits: list[Edit],
    module_globals: Mapping[str, Any],
) -> str:
    """Return the lines of a definition as they stand, without the decorators that do not travel."""
    edits = [*edits, *absolute_imports(node, module_globals)]
    whole = splice(text.slice(node.lineno, last_line(node)), node.lineno, edits)
    starts = [text.decorator_line(one) for one in node.decorator_list]
    decorators = ""
    for decorator, start, stop in zip(node.decorator_list, starts, [*starts, node.lineno][1:], strict=True):
        if any(decorator is one for one in kept):
            decorators += text.slice(start, stop - 1)
    return decorators + whole


def pruned(node: Definition, kept: list[ast.expr], edits: list[Edit]) -> Definition:
    """Return the definition as it travels, for the question which names it uses."""
    replaced = {id(old): ast.Constant(None) for old, _ in edits}
    if isinstance(node, ast.ClassDef):
        fields = {name: getattr(node, name) for name in node._fields}
        return ast.copy_location(ast.ClassDef(**{**fields, "decorator_list": kept}), node)
    arguments = node.args
    changed = ast.arguments(
        posonlyargs=arguments.posonlyargs,
        args=arguments.args,
        vararg=arguments.vararg,
        kwonlyargs=arguments.kwonlyargs,
        kw_defaults=[None if one is None else replaced.get(id(one), one) for one in arguments.kw_defaults],
        kwarg=arguments.kwarg,
        defaults=[replaced.get(id(one), one) for one in arguments.defaults],
    )
    fields = {name: getattr(node, name) for name in node._fields}
    changed_node: FunctionNode = type(node)(**{**fields, "args": changed, "decorator_list": kept})
    return ast.copy_location(changed_node, node)


def default_edits(
    node: Definition,
    module_globals: Mapping[str, Any],
    function: FunctionType | None,
    assignment: Assign,
    *,
    nested: bool = False,
) -> tuple[list[Edit], str]:
    """Replace default values whose text means nothing outside, or something else now, by their values."""
    if function is None or isinstance(node, ast.ClassDef):
        return [], ""
    arguments = node.args
    positional = function.__defaults__ or ()
    pairs: list[tuple[ast.expr, Any]] = []
    if len(positional) == len(arguments.defaults):
        pairs += zip(arguments.defaults, positional, strict=True)
    for arg, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        if default is not None and arg.arg in (function.__kwdefaults__ or {}):
            pairs.append((default, (function.__kwdefaults__ or {})[arg.arg]))
    edits: list[Edit] = []
    prelude = ""
    for number, (expression, value) in enumerate(pairs):
        used = global_names(expression)
        if not used:
            continue
        known = all(name in module_globals or hasattr(builtins, name) for name in used)
        if known and not any(isinstance(part, ast.Call) for part in ast.walk(expression)) and not nested:
            continue
        variable = f"_panda_default_{node.lineno}_{number}"
        filename = function.__code__.co_filename
        try:
            statement = assignment(variable, value, filename, expression.lineno)
        except PackagingError:
            if known:
                continue
            raise
        prelude += statement + "\n"
        edits.append((expression, variable))
    return edits, prelude
