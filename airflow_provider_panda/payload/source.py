"""The source form of a function: its text, with everything of its module that it uses, as one file of plain Python.

Names are followed from the function through helpers, classes and constants. Text is shipped of imports, functions and
classes; of variables, their present value, for the text of an assignment may no longer tell it. The file starts with
``from __future__ import annotations``, so that annotations need nothing on the worker node.
"""

from __future__ import annotations

import ast
import builtins
import functools
import importlib
import inspect
import json
import math
import re
import sys
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from types import BuiltinFunctionType, CellType, FunctionType, ModuleType
from typing import Any

from airflow_provider_panda.exceptions import MissingModuleError, PackagingError

from . import values
from .callables import Unwrapped, is_ours, kept_decorators, unwrap, wrapper_layers
from .modules import is_available
from .runner import FUNCTION_MODULE
from .syntax import (
    Binding,
    Definition,
    FunctionNode,
    ModuleText,
    NoSourceError,
    Place,
    annotation_names,
    global_names,
    read_module,
    splice,
    unguarded_imports,
)

_LATE = 10**9
"""Position in the file of what was defined inside functions: after everything of module level."""
_MISSING: Any = object()
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

    :param function: the callable, without partial objects (:func:`..callables.unwrap`).
    :param included: top-level names of the modules that travel along.
    :raises PackagingError: something that the function uses cannot be shipped.
    :raises NoSourceError: there is no source form; another form may do.
    """

    def __init__(self, function: Unwrapped, *, included: frozenset[str]) -> None:
        self.name = function.name
        self.included = included
        self.modules: dict[int, ModuleText] = {}
        self.pieces: dict[tuple[Any, ...], tuple[int, str]] = {}
        self.owners: dict[str, int] = {}
        self.variants: dict[tuple[Any, ...], int] = {}
        self.nested: dict[int, str] = {}
        self.kept_alive: list[Any] = []
        self.classes: dict[type, tuple[str, str, str]] = {}
        self.needs_decoder = False
        self.home_globals: dict[str, Any] = {}
        self.home_text: ModuleText | None = None
        self.entry = self._entry(function)

    def build(self) -> Source:
        """Return the file, with every piece that was needed so far."""
        head = ["from __future__ import annotations\n"]
        if self.needs_decoder:
            head.append("from panda_runner.values import loads as _panda_value\n")
        body = [text for _, text in sorted(self.pieces.values(), key=lambda piece: piece[0])]
        table = {key: (module, name) for key, module, name in self.classes.values()}
        return Source(text="\n".join([*head, *body]), entry=self.entry, classes=table)

    def token(self, cls: type) -> str | None:
        """Return the key under which a dataclass or enum is known to the decoder, after shipping its definition."""
        if cls in self.classes:
            return self.classes[cls][0]
        module, name = cls.__module__, cls.__qualname__
        if module == self.home_globals.get("__name__", _MISSING) or "<locals>" in name:
            try:
                module, name = FUNCTION_MODULE, self._local_class(cls, line=None)
            except NoSourceError:
                return None
        elif not (self._travels(module) and _found_in_module(cls, module, name)):
            return None
        key = str(len(self.classes))
        self.classes[cls] = (key, module, name)
        return key

    # --- the function itself ---------------------------------------------------------------------------------

    def _entry(self, function: Unwrapped) -> str:
        target = function.target
        if isinstance(target, BuiltinFunctionType) and isinstance(target.__module__, str):
            self._check_module(target.__module__, None, None)
            self._piece(("entry",), 0, f"from {target.__module__} import {target.__name__}\n", target.__name__)
            return target.__name__
        plain = inspect.unwrap(target)
        if not isinstance(plain, FunctionType):
            raise NoSourceError(f"a callable of type {values.type_name(type(plain))} has no source form")
        if plain.__name__ == "<lambda>" or plain.__code__.co_name == "<lambda>":
            raise NoSourceError("a lambda has no source form; write it as a def")
        self.home_globals = plain.__globals__
        self.home_text = self._text_of(plain)
        owner = function.owner
        if owner is not None:
            return f"{self._local_class(owner, line=None)}.{plain.__name__}"
        if "." in plain.__qualname__ and not plain.__qualname__.rpartition(".")[0].endswith("<locals>"):
            qualname = plain.__qualname__.rpartition(".")[0]
            place = self.home_text.place_of(plain)
            if place.around and isinstance(place.around[-1], ast.ClassDef):
                found = self._find_class(qualname)
                if found is not None:
                    return f"{self._local_class(found, line=None)}.{plain.__name__}"
                raise NoSourceError(f"class {qualname} of the method is not a variable of its module")
        return self._function(target, line=None, main=True)

    def _find_class(self, qualname: str) -> type | None:
        found: Any = self.home_globals.get(qualname.partition(".")[0], None)
        for part in qualname.split(".")[1:]:
            found = getattr(found, part, None)
        return found if isinstance(found, type) else None

    # --- definitions -----------------------------------------------------------------------------------------

    def _function(self, function: Any, *, line: int | None, main: bool = False) -> str:
        """Ship a function object and return the expression that names it in the file."""
        layers = wrapper_layers(function)
        plain = inspect.unwrap(function)
        text = self._text_of(plain)
        place = text.place_of(plain)
        names = self._names_at_hand(plain)
        kept = kept_decorators(place, names, layers)
        if layers and not kept and function is not plain:
            # Wrapped by a call, not by a decorator of its definition: ship the wrapper, which closes over the function.
            plain, layers = _outermost(function), 0
            text = self._text_of(plain)
            place = text.place_of(plain)
            kept = []
        elif not layers and kept and not main and (place.around or plain.__globals__.get(place.node.name) is not plain):
            kept = []  # the raw function that its own decorator's wrapper closes over
        if any(not isinstance(one, ast.ClassDef) for one in place.around):
            return self._nested(plain, text, place, kept, line)
        if place.around:
            raise NoSourceError(f"method {plain.__qualname__} is used apart from its class")
        return self._definition(text, plain.__globals__, place, kept, plain)

    def _definition(
        self,
        text: ModuleText,
        module_globals: dict[str, Any],
        place: Place,
        kept: list[ast.expr],
        function: FunctionType | None = None,
    ) -> str:
        """Ship a function or class of module level."""
        node = place.node
        key = ("def", text.filename, node.lineno)
        if self.variants.setdefault(key, len(kept)) != len(kept):
            raise NoSourceError(f"{node.name}() is used both with and without its decorators")
        if key in self.pieces:
            return node.name
        self._own(node.name, module_globals)
        self.pieces[key] = (node.lineno, "")  # recursion ends here
        edits, prelude = self._default_edits(node, module_globals, function)
        body = self._text(text, node, kept, edits, module_globals)
        if node.col_offset:
            body = "if True:\n" + body
        self.pieces[key] = (node.lineno, prelude + body)
        self._follow(text, module_globals, self._pruned(node, kept, edits), ())
        for other in text.places:  # what registers itself with it, as with functools.singledispatch
            if not other.around and any(_attribute_root(one) == node.name for one in other.node.decorator_list):
                self._definition(text, module_globals, other, kept_decorators(other, module_globals, None))
        return node.name

    def _nested(
        self, function: FunctionType, text: ModuleText, place: Place, kept: list[ast.expr], line: int | None
    ) -> str:
        """Ship a function defined inside another one: its closure variables become those of a scope of its own."""
        if id(function) in self.nested:
            return self.nested[id(function)]
        node = place.node
        number = len(self.nested)
        name = f"_panda_{number}"
        self.nested[id(function)] = name
        self.kept_alive.append(function)
        indent = " " * node.col_offset or "    "
        statements: list[str] = []
        late: list[str] = []
        freevars = function.__code__.co_freevars
        for variable, cell in zip(freevars, function.__closure__ or (), strict=True):
            content = _content(cell)
            if content is _MISSING or _is_same(content, function):
                continue
            used_at = _line_of_name(node, variable)
            inner = _plain_function(content)
            if inner is not None and id(inner) in self.nested and ("nested", id(inner)) not in self.pieces:
                late.append(variable)  # they call each other: bound once both are there
                self.pieces[("late", number, variable)] = (
                    _LATE + 10**6,
                    f"_panda_bind_{number}({self.nested[id(inner)]})\n",
                )
                statements.append(f"{variable} = None")
                continue
            statements.append(self._assignment(variable, content, text.filename, used_at))
        edits, prelude = self._default_edits(node, function.__globals__, function, nested=True)
        statements += [one for one in prelude.split("\n") if one]
        body = self._text(text, node, kept, edits, function.__globals__)
        head = "".join(f"{indent}{statement}\n" for statement in statements)
        results = node.name
        for variable in late:
            body += f"{indent}def _panda_late(value):\n{indent} nonlocal {variable}\n{indent} {variable} = value\n"
            results += ", _panda_late"
        scope = f"def _panda_scope_{number}():\n{head}{body}{indent}return {results}\n"
        target = name + "".join(f", _panda_bind_{number}" for _ in late)
        self._follow(text, function.__globals__, self._pruned(node, kept, edits), (*freevars, node.name))
        # Only now, so that what it closes over comes first.
        self.pieces[("nested", id(function))] = (
            _LATE + len(self.pieces),
            f"{scope}\n{target} = _panda_scope_{number}()\n",
        )
        if line is None and name not in self.owners:
            self.owners[name] = id(function.__globals__)
        return name

    def _local_class(self, cls: type, *, line: int | None) -> str:
        """Ship the definition of a class and return the expression that names it."""
        text = self._class_text(cls)
        place = text.class_place(cls.__qualname__)
        if place is None:
            raise NoSourceError(f"{text.filename} has no definition of class {cls.__qualname__}")
        module_globals = vars(sys.modules[cls.__module__]) if cls.__module__ in sys.modules else self.home_globals
        if self.home_globals.get("__name__") == cls.__module__:
            module_globals = self.home_globals
        functions = [one for one in place.around if not isinstance(one, ast.ClassDef)]
        if not functions:
            outer = Place(place.around[0], ()) if place.around else place
            root = cls.__qualname__.partition(".")[0]
            if not place.around and module_globals.get(root) is not cls:
                raise NoSourceError(f"class {cls.__qualname__} is no variable of its module any more")
            self._definition(text, module_globals, outer, list(outer.node.decorator_list))
            return cls.__qualname__
        return self._nested_class(cls, text, place, module_globals)

    def _nested_class(self, cls: type, text: ModuleText, place: Place, module_globals: dict[str, Any]) -> str:
        if isinstance(place.around[-1], ast.ClassDef):
            raise NoSourceError(f"class {cls.__qualname__} is defined inside a class of a function")
        if id(cls) in self.nested:
            return self.nested[id(cls)]
        node = place.node
        number = len(self.nested)
        name = self.nested[id(cls)] = f"_panda_{number}"
        self.kept_alive.append(cls)
        indent = " " * node.col_offset
        cells: dict[str, CellType] = {}
        for member in vars(cls).values():
            plain = inspect.unwrap(getattr(member, "__func__", member))
            if isinstance(plain, FunctionType):
                cells.update(zip(plain.__code__.co_freevars, plain.__closure__ or (), strict=True))
        statements = []
        for variable, cell in cells.items():
            content = _content(cell)
            if variable not in ("__class__", node.name) and content is not _MISSING:
                line = _line_of_name(node, variable)
                statements.append(self._assignment(variable, content, text.filename, line))
        body = self._text(text, node, list(node.decorator_list), [], module_globals)
        head = "".join(f"{indent}{statement}\n" for statement in statements)
        self._follow(text, module_globals, node, (*cells, node.name))
        scope = f"def _panda_scope_{number}():\n{head}{body}{indent}return {node.name}\n"
        self.pieces[("nested", id(cls))] = (_LATE + len(self.pieces), f"{scope}\n{name} = _panda_scope_{number}()\n")
        return name

    def _text(
        self,
        text: ModuleText,
        node: Definition,
        kept: list[ast.expr],
        edits: list[tuple[ast.expr | ast.stmt, str]],
        module_globals: Mapping[str, Any],
    ) -> str:
        """Return the lines of a definition as they stand, without the decorators that do not travel."""
        assert node.end_lineno is not None
        edits = [*edits, *self._absolute_imports(node, module_globals)]
        whole = splice(text.slice(node.lineno, node.end_lineno), node.lineno, edits)
        starts = [text.decorator_line(one) for one in node.decorator_list]
        decorators = ""
        for decorator, start, stop in zip(node.decorator_list, starts, [*starts, node.lineno][1:], strict=True):
            if any(decorator is one for one in kept):
                decorators += text.slice(start, stop - 1)
        return decorators + whole

    def _absolute_imports(
        self, node: ast.AST, module_globals: Mapping[str, Any]
    ) -> list[tuple[ast.expr | ast.stmt, str]]:
        edits: list[tuple[ast.expr | ast.stmt, str]] = []
        for child in ast.walk(node):
            if isinstance(child, ast.ImportFrom) and child.level:
                names = [ast.alias(alias.name, alias.asname) for alias in child.names]
                absolute = ast.ImportFrom(_absolute(child, module_globals), names, 0)
                edits.append((child, ast.unparse(absolute)))
        return edits

    def _default_edits(
        self,
        node: Definition,
        module_globals: Mapping[str, Any],
        function: FunctionType | None,
        *,
        nested: bool = False,
    ) -> tuple[list[tuple[ast.expr | ast.stmt, str]], str]:
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
        edits: list[tuple[ast.expr | ast.stmt, str]] = []
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
                statement = self._assignment(variable, value, filename, expression.lineno)
            except PackagingError:
                if known:
                    continue
                raise
            prelude += statement + "\n"
            edits.append((expression, variable))
        return edits, prelude

    def _pruned(
        self, node: Definition, kept: list[ast.expr], edits: list[tuple[ast.expr | ast.stmt, str]]
    ) -> Definition:
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
        pruned: FunctionNode = type(node)(**{**fields, "args": changed, "decorator_list": kept})
        return ast.copy_location(pruned, node)

    # --- names -----------------------------------------------------------------------------------------------

    def _follow(
        self, text: ModuleText, module_globals: dict[str, Any], node: ast.stmt | ast.expr, local_names: tuple[str, ...]
    ) -> None:
        """Ship everything that a piece uses, and check what it imports."""
        for statement in unguarded_imports(node):
            self._check_import(statement, module_globals, text.filename)
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
                    self._piece(("function", name), _LATE, f"{name}.function = {name}\n", None)

    def _annotation(self, name: str, text: ModuleText, module_globals: dict[str, Any]) -> None:
        """Ship a name used in an annotation if that is possible; nothing fails without it."""
        bindings = text.bindings.get(name, [])
        imports = [one for one in bindings if isinstance(one.node, (ast.Import, ast.ImportFrom))]
        if imports:
            binding = imports[-1]
            assert isinstance(binding.node, (ast.Import, ast.ImportFrom))
            module = _imported_module(binding, module_globals)
            if name in module_globals and not is_ours(ModuleType(module)) and self._travels(module):
                statement = _import_text(binding, module_globals)
                guarded = f"try:\n    {statement}\nexcept ImportError:\n    pass\n"
                if not any(key[:2] == ("import", name) for key in self.pieces):
                    self._piece(("annotation", name), binding.node.lineno, guarded, None)
            return
        if not bindings or name not in module_globals:
            return
        before = (dict(self.pieces), dict(self.owners), dict(self.nested))
        try:
            self._global(name, text, module_globals, bindings[-1].node.lineno)
        except (PackagingError, NoSourceError):
            self.pieces, self.owners, self.nested = before

    def _global(self, name: str, text: ModuleText, module_globals: dict[str, Any], line: int) -> None:
        """Ship a global variable of a module."""
        value = module_globals.get(name, _MISSING)
        if value is _MISSING:
            return  # a builtin, or a name that fails here as well
        bindings = text.bindings.get(name, [])
        binding = bindings[-1] if bindings else None
        plain = _plain_function(value)
        if plain is not None and plain.__globals__ is module_globals and plain.__code__.co_filename == text.filename:
            matching = [one for one in bindings if isinstance(one.node, (ast.FunctionDef, ast.AsyncFunctionDef))]
            for one in matching:
                first = min([one.node.lineno, *(d.lineno for d in one.node.decorator_list)])  # type: ignore[attr-defined]
                if plain.__code__.co_firstlineno in (first, one.node.lineno):
                    binding = one
        if binding is None:
            self._unbound(name, value, text, module_globals, line)
        elif binding.guard is not None:
            self._guard(binding.guard, name, text, module_globals)
        elif isinstance(binding.node, (ast.Import, ast.ImportFrom)):
            self._imports(name, bindings, text, module_globals)
        elif isinstance(binding.node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            place = Place(binding.node, ())
            names = self._names_at_hand(plain) if plain is not None else module_globals
            kept = kept_decorators(place, names, None)
            function = plain if plain is not None and plain.__code__.co_name == binding.node.name else None
            self._definition(text, module_globals, place, kept, function)
        else:
            self._variable(name, value, binding, text, module_globals, line)

    def _guard(self, guard: ast.stmt, name: str, text: ModuleText, module_globals: dict[str, Any]) -> None:
        key = ("guard", text.filename, guard.lineno)
        if key in self.pieces:
            return
        assert guard.end_lineno is not None
        self._own(name, module_globals)
        edits = self._absolute_imports(guard, module_globals)
        body = splice(text.slice(guard.lineno, guard.end_lineno), guard.lineno, edits)
        self.pieces[key] = (guard.lineno, body)
        self._follow(text, module_globals, guard, ())

    def _imports(self, name: str, bindings: list[Binding], text: ModuleText, module_globals: dict[str, Any]) -> None:
        used = [one for one in bindings if isinstance(one.node, ast.Import) and one.guard is None]
        if isinstance(bindings[-1].node, ast.ImportFrom) or (bindings[-1].alias and bindings[-1].alias.asname):
            used = [bindings[-1]]
        for binding in used:
            self._check_module(_imported_module(binding, module_globals), text.filename, binding.node.lineno)
            statement = _import_text(binding, module_globals)
            self._piece(("import", name, statement), binding.node.lineno, statement + "\n", None)
        self._own(name, module_globals)

    def _unbound(self, name: str, value: Any, text: ModuleText, module_globals: dict[str, Any], line: int) -> None:
        """Ship a variable that no statement of the module binds: from ``import *``, or set from outside."""
        for star in text.star_imports:
            module = _absolute(star, module_globals)
            if getattr(sys.modules.get(module), name, _MISSING) is value:
                self._check_module(module, text.filename, star.lineno)
                self._piece(("import", name), star.lineno, f"from {module} import {name}\n", name, module_globals)
                return
        self._piece(("value", name), 0, self._assignment(name, value, text.filename, line) + "\n", name, module_globals)

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
        if key in self.pieces:
            return
        self._own(name, module_globals)
        node = binding.node
        self.pieces[key] = (node.lineno, "")
        expression = getattr(node, "value", None)
        if _is_lambda(value) and not isinstance(expression, ast.Lambda):
            expression = None
        text_is_safe = isinstance(expression, ast.expr) and self._same_again(value, expression, module_globals)
        if not (text_is_safe and _prefers_text(value)):
            try:
                self.pieces[key] = (node.lineno, self._assignment(name, value, text.filename, line) + "\n")
                return
            except PackagingError:
                if not text_is_safe:
                    raise
        assert isinstance(expression, ast.expr)
        segment = ast.get_source_segment("".join(text.lines), node)
        self.pieces[key] = (node.lineno, f"{segment}\n")
        self._follow(text, module_globals, expression, ())

    def _same_again(self, value: Any, expression: ast.expr, module_globals: Mapping[str, Any]) -> bool:
        """Whether the text of an assignment gives an equal object on the worker node."""
        if _is_lambda(value):
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

    # --- values ----------------------------------------------------------------------------------------------

    def _assignment(self, name: str, value: Any, filename: str, line: int | None) -> str:
        """Return the statement (one line) that gives a variable its value.

        :raises PackagingError: the value cannot be written down.
        """
        if isinstance(value, ModuleType):
            self._check_module(value.__name__, filename, line)
            return f"import {value.__name__} as {name}"
        return f"{name} = {self._expression(name, value, filename, line)}"

    def _expression(self, name: str, value: Any, filename: str, line: int | None) -> str:
        if _is_literal(value, 0):
            return repr(value)
        if isinstance(value, functools.partial):
            inner = self._expression(name, value.func, filename, line)
            parts = [inner, *(self._expression(name, one, filename, line) for one in value.args)]
            parts += [f"{key}={self._expression(name, one, filename, line)}" for key, one in value.keywords.items()]
            return f"__import__('functools').partial({', '.join(parts)})"
        plain = _plain_function(value)
        try:
            if plain is not None:
                home = plain.__globals__ is self.home_globals
                if (
                    not home
                    and self._travels(plain.__module__)
                    and _found_in_module(plain, plain.__module__, plain.__qualname__)
                ):
                    return _by_import(plain.__module__, plain.__qualname__)
                if plain.__name__ != "<lambda>":
                    return self._function(unwrap(value).target, line=line)
            elif isinstance(value, type):
                if value.__module__ == self.home_globals.get("__name__") or "<locals>" in value.__qualname__:
                    return self._local_class(value, line=line)
                if self._travels(value.__module__) and _found_in_module(value, value.__module__, value.__qualname__):
                    return _by_import(value.__module__, value.__qualname__)
            elif (
                isinstance(value, BuiltinFunctionType)
                and self._travels(value.__module__)
                and _found_in_module(value, value.__module__, value.__qualname__)
            ):
                return _by_import(value.__module__, value.__qualname__)
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

    def _refused(self, name: str, value: Any, filename: str, line: int | None, why: str) -> PackagingError:
        what = f"variable {name!r} holds a {values.type_name(type(value))}: {why}"
        return PackagingError(
            function=self.name,
            problem=what,
            remedy="Make it inside the function, or pass what it is made of as an argument",
            filename=filename,
            line=line,
        )

    # --- modules ---------------------------------------------------------------------------------------------

    def _travels(self, module: str | None) -> bool:
        return (
            bool(module)
            and module != "__main__"
            and (str(module).partition(".")[0] in self.included or is_available(str(module)))
        )

    def _check_module(self, module: str, filename: str | None, line: int | None) -> None:
        if not self._travels(module):
            root = module.partition(".")[0]
            raise MissingModuleError(module=root, function=self.name, filename=filename, line=line)

    def _check_import(
        self, statement: ast.Import | ast.ImportFrom, module_globals: Mapping[str, Any], filename: str
    ) -> None:
        if isinstance(statement, ast.ImportFrom):
            self._check_module(_absolute(statement, module_globals), filename, statement.lineno)
            return
        for alias in statement.names:
            self._check_module(alias.name, filename, statement.lineno)

    # --- bookkeeping -----------------------------------------------------------------------------------------

    def _text_of(self, function: FunctionType) -> ModuleText:
        return read_module(inspect.getsourcefile(function) or function.__code__.co_filename, function.__globals__)

    def _class_text(self, cls: type) -> ModuleText:
        if cls.__module__ == self.home_globals.get("__name__") and self.home_text is not None:
            return self.home_text
        module = sys.modules.get(cls.__module__)
        filename = getattr(module, "__file__", None)
        if filename is None:
            raise NoSourceError(f"there is no source text of class {cls.__qualname__}")
        return read_module(filename)

    def _names_at_hand(self, function: FunctionType) -> dict[str, Any]:
        names = dict(function.__globals__)
        for variable, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            content = _content(cell)
            if content is not _MISSING:
                names[variable] = content
        return names

    def _piece(
        self, key: tuple[Any, ...], order: int, text: str, name: str | None, owner: Mapping[str, Any] | None = None
    ) -> None:
        if key not in self.pieces:
            if name is not None:
                self._own(name, owner if owner is not None else self.home_globals)
            self.pieces[key] = (order, text)

    def _own(self, name: str, module_globals: Mapping[str, Any]) -> None:
        """Note whose name it is: two modules that use one name for two things do not fit into one file."""
        if self.owners.setdefault(name, id(module_globals)) != id(module_globals):
            raise NoSourceError(f"the name {name} means different things in two modules that the function uses")


def _plain_function(value: Any) -> FunctionType | None:
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


def _outermost(function: Any) -> FunctionType:
    if not isinstance(function, FunctionType):
        raise NoSourceError(f"a wrapper of type {values.type_name(type(function))} has no source form")
    return function


def _attribute_root(decorator: ast.expr) -> str | None:
    """Return ``name`` of a decorator ``@name.attribute`` or ``@name.attribute(...)``."""
    expression = decorator.func if isinstance(decorator, ast.Call) else decorator
    if isinstance(expression, ast.Attribute) and isinstance(expression.value, ast.Name):
        return expression.value.id
    return None


def _is_same(content: Any, function: FunctionType) -> bool:
    return content is function or _plain_function(content) is function


def _is_lambda(value: Any) -> bool:
    return isinstance(value, FunctionType) and value.__name__ == "<lambda>"


def _prefers_text(value: Any) -> bool:
    return isinstance(value, (FunctionType, types.GenericAlias, types.UnionType, re.Pattern, typing.TypeVar, type))


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return _MISSING


def _line_of_name(node: ast.AST, name: str) -> int | None:
    for child in ast.walk(node):
        if isinstance(child, ast.Name) and child.id == name:
            return child.lineno
    return getattr(node, "lineno", None)


def _is_literal(value: Any, depth: int) -> bool:
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
        return all(_is_literal(item, depth + 1) for item in value)
    if kind is dict:
        return all(_is_literal(key, depth + 1) and _is_literal(item, depth + 1) for key, item in value.items())
    return False


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


def _absolute(node: ast.ImportFrom, module_globals: Mapping[str, Any]) -> str:
    if not node.level:
        return node.module or ""
    package = str(module_globals.get("__package__") or "")
    base = package.split(".")
    base = base[: len(base) - (node.level - 1)]
    return ".".join([*base, node.module] if node.module else base)


def _imported_module(binding: Binding, module_globals: Mapping[str, Any]) -> str:
    if isinstance(binding.node, ast.ImportFrom):
        return _absolute(binding.node, module_globals)
    assert binding.alias is not None
    return binding.alias.name


def _import_text(binding: Binding, module_globals: Mapping[str, Any]) -> str:
    assert binding.alias is not None
    alias = binding.alias
    name = f"{alias.name} as {alias.asname}" if alias.asname else alias.name
    if isinstance(binding.node, ast.ImportFrom):
        return f"from {_absolute(binding.node, module_globals)} import {name}"
    return f"import {name}"
