"""Questions about the text of a module, answered from its syntax tree: where a name is bound, what a piece uses."""

from __future__ import annotations
import __future__

import ast
import copy
import dis
import inspect
import linecache
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from types import CodeType, FunctionType
from typing import cast

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
Definition = FunctionNode | ast.ClassDef
Edit = tuple[ast.expr | ast.stmt, str]
"""A node and the text that takes its place."""

_GLOBAL_OPS = frozenset({"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS", "STORE_GLOBAL", "DELETE_GLOBAL"})
_MODULE_NAMES = frozenset(
    {"__name__", "__file__", "__doc__", "__module__", "__qualname__", "__annotations__", "__debug__", "__spec__"}
    | {"__builtins__", "__package__", "__loader__", "__class__", "__conditional_annotations__"}
)
_IMPORT_ERRORS = frozenset({"ImportError", "ModuleNotFoundError", "Exception", "BaseException"})


class NoSourceError(Exception):
    """There is no text of a function, or it cannot be cut out."""


@dataclass(frozen=True, slots=True)
class Binding:
    """A statement at module level that binds a name.

    :param node: the statement.
    :param alias: the part of an import statement that binds it.
    :param guard: the outermost ``try`` or ``if`` around it, if that holds only imports and simple assignments.
    """

    node: ast.stmt
    alias: ast.alias | None = None
    guard: ast.stmt | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """A definition and the definitions around it, outermost first."""

    node: Definition
    around: tuple[Definition, ...]


@dataclass(slots=True)
class ModuleText:
    """The parsed text of one module."""

    filename: str
    lines: list[str]
    tree: ast.Module
    bindings: dict[str, list[Binding]] = field(default_factory=dict)
    star_imports: list[ast.ImportFrom] = field(default_factory=list)
    places: list[Place] = field(default_factory=list)

    def place_of(self, function: FunctionType) -> Place:
        """Return where a function is defined.

        :raises NoSourceError: the text is not that of the function any more, or it is a lambda.
        """
        code = function.__code__
        for place in self.places:
            node = place.node
            if isinstance(node, ast.ClassDef) or node.name != code.co_name:
                continue
            if begins_at(node, code.co_firstlineno):
                return place
        raise NoSourceError(f"{self.filename} has no definition of {code.co_name} at line {code.co_firstlineno}")

    def class_place(self, qualname: str) -> Place | None:
        """Return where the class of a qualified name (with ``<locals>``) is defined; the last one, if several."""
        wanted = [part for part in qualname.split(".") if part != "<locals>"]
        found = None
        for place in self.places:
            if isinstance(place.node, ast.ClassDef) and [n.name for n in (*place.around, place.node)] == wanted:
                found = place
        return found

    def slice(self, first: int, last: int) -> str:
        """Return the lines ``first`` to ``last``, counted from 1, both included."""
        return "".join(self.lines[first - 1 : last])

    def decorator_line(self, decorator: ast.expr) -> int:
        """Return the line of a decorator's ``@`` (the expression may begin later, in parentheses)."""
        line = decorator.lineno
        while line > 1 and not self.lines[line - 1].lstrip().startswith("@"):
            line -= 1
        return line


def read_module(filename: str, module_globals: dict[str, object] | None = None) -> ModuleText:
    """Return the parsed text of a module as it is now.

    :raises NoSourceError: there is no text, or it is not Python of this version.
    """
    linecache.checkcache(filename)
    lines = linecache.getlines(filename, module_globals)
    if not lines:
        raise NoSourceError(f"there is no source text of {filename}")
    return _parse(filename, "".join(lines))


def begins_at(node: FunctionNode, line: int) -> bool:
    """Whether a definition, or the first of its decorators, stands at a line: versions of Python count differently."""
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    return line in (first, node.lineno)


def module_text(function: FunctionType) -> ModuleText:
    """Return the text of the module where a function is defined; see :func:`read_module`."""
    return read_module(inspect.getsourcefile(function) or function.__code__.co_filename, function.__globals__)


@lru_cache(maxsize=16)
def _parse(filename: str, text: str) -> ModuleText:
    try:
        tree = ast.parse(text, filename)
    except SyntaxError as error:
        raise NoSourceError(f"{filename} cannot be parsed: {error}") from None
    module = ModuleText(filename, [line + "\n" for line in text.split("\n")], tree)
    for statement in tree.body:
        guard = statement if isinstance(statement, (ast.Try, ast.If)) and _is_simple(statement) else None
        for inner in _module_level(statement):
            _bind(module, inner, guard)
    module.places.extend(_places(tree, ()))
    return module


def _module_level(statement: ast.stmt) -> Iterator[ast.stmt]:
    """Yield a statement and those in its blocks, without entering functions and classes."""
    yield statement
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return
    for name in ("body", "orelse", "finalbody"):
        for inner in getattr(statement, name, ()):
            yield from _module_level(inner)
    for handler in getattr(statement, "handlers", ()):
        for inner in handler.body:
            yield from _module_level(inner)
    for case in getattr(statement, "cases", ()):
        for inner in case.body:
            yield from _module_level(inner)


def _is_simple(statement: ast.stmt) -> bool:
    """Whether a ``try`` or ``if`` only chooses between imports, so that it can travel whole."""
    if isinstance(statement, ast.If) and is_type_checking(statement.test):
        return False
    allowed = (ast.Import, ast.ImportFrom, ast.Pass, ast.Try, ast.If)
    inner = list(_module_level(statement))
    if not any(isinstance(node, (ast.Import, ast.ImportFrom)) for node in inner):
        return False
    return all(
        isinstance(node, allowed) or (isinstance(node, ast.Assign) and isinstance(node.value, (ast.Constant, ast.Name)))
        for node in inner
    )


def _bind(module: ModuleText, node: ast.stmt, guard: ast.stmt | None) -> None:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        module.bindings.setdefault(node.name, []).append(Binding(node, guard=guard))
    elif isinstance(node, (ast.Import, ast.ImportFrom)):
        for alias in node.names:
            if alias.name == "*" and isinstance(node, ast.ImportFrom):
                module.star_imports.append(node)
                continue
            name = alias.asname or (alias.name.partition(".")[0] if isinstance(node, ast.Import) else alias.name)
            module.bindings.setdefault(name, []).append(Binding(node, alias=alias, guard=guard))
    else:
        for target in _targets(node):
            module.bindings.setdefault(target, []).append(Binding(node, guard=guard))


def _targets(node: ast.stmt) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.stmt, ast.excepthandler)):
            continue
        for name in ast.walk(child):
            if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store):
                yield name.id


def _places(node: ast.AST, around: tuple[Definition, ...]) -> Iterator[Place]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield Place(child, around)
            yield from _places(child, (*around, child))
        else:
            yield from _places(child, around)


def is_type_checking(test: ast.expr) -> bool:
    """Whether the test of an ``if`` is ``TYPE_CHECKING``."""
    name = test.attr if isinstance(test, ast.Attribute) else test.id if isinstance(test, ast.Name) else ""
    return name == "TYPE_CHECKING"


def global_names(node: ast.stmt | ast.expr, local_names: tuple[str, ...] = ()) -> dict[str, int]:
    """Return the global names that a definition or an expression uses, annotations apart, with a line of each.

    :param local_names: names bound around it (closure variables).
    """
    statement = node if isinstance(node, ast.stmt) else ast.Expr(node)
    empty = cast(ast.FunctionDef, ast.parse("def _():\n    pass").body[0])
    empty.body = [
        *(ast.Assign([ast.Name(name, ast.Store())], ast.Constant(None)) for name in local_names),
        copy.deepcopy(statement),
    ]
    wrapper = ast.fix_missing_locations(ast.Module([empty], []))
    flags = __future__.annotations.compiler_flag
    try:
        code = compile(wrapper, "<names>", "exec", flags, dont_inherit=True)
    except SyntaxError as error:
        raise NoSourceError(f"a piece of the function cannot be compiled by itself: {error}") from None
    found: dict[str, int] = {}
    _collect(next(const for const in code.co_consts if isinstance(const, CodeType)), found)
    return found


def _collect(code: CodeType, found: dict[str, int]) -> None:
    stored = set()
    line = code.co_firstlineno
    for instruction in dis.get_instructions(code):
        position = instruction.positions
        if position is not None and position.lineno is not None:
            line = position.lineno
        if instruction.opname == "STORE_NAME":
            stored.add(instruction.argval)
        elif instruction.opname in _GLOBAL_OPS and instruction.argval not in stored | _MODULE_NAMES:
            found.setdefault(instruction.argval, line)
    for const in code.co_consts:
        if isinstance(const, CodeType):
            _collect(const, found)


def annotation_names(node: ast.AST, *, functions: bool) -> set[str]:
    """Return the names in annotations: of class bodies always, of functions' parameters only if ``functions``."""
    expressions: list[ast.expr] = []
    for child in ast.walk(node):
        if isinstance(child, ast.ClassDef):
            expressions += [item.annotation for item in child.body if isinstance(item, ast.AnnAssign)]
        elif functions and isinstance(child, ast.arg) and child.annotation is not None:
            expressions.append(child.annotation)
        elif functions and isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)) and child.returns is not None:
            expressions.append(child.returns)
    names = set()
    for expression in expressions:
        for child in ast.walk(expression):
            if isinstance(child, ast.Name):
                names.add(child.id)
            elif isinstance(child, ast.Constant) and isinstance(child.value, str):
                try:
                    quoted = ast.parse(child.value, mode="eval")
                except SyntaxError:
                    continue
                names.update(name.id for name in ast.walk(quoted) if isinstance(name, ast.Name))
    return names


def unguarded_imports(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Yield the import statements in a piece, without those that may fail (``except ImportError``) or never run."""
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        yield node
        return
    if isinstance(node, ast.Try) and any(_catches_import_error(handler) for handler in node.handlers):
        children: list[ast.AST] = [*node.orelse, *node.finalbody]
    elif isinstance(node, ast.If) and is_type_checking(node.test):
        children = list(node.orelse)
    else:
        children = list(ast.iter_child_nodes(node))
    for child in children:
        yield from unguarded_imports(child)


def _catches_import_error(handler: ast.ExceptHandler) -> bool:
    if handler.type is None:
        return True
    return any(isinstance(name, ast.Name) and name.id in _IMPORT_ERRORS for name in ast.walk(handler.type))


def last_line(node: ast.expr | ast.stmt) -> int:
    """Return the line that a node ends in.

    :raises NoSourceError: it was not parsed from a text.
    """
    if node.end_lineno is None:
        raise NoSourceError(f"line {node.lineno}: a piece has no end in the text")
    return node.end_lineno


def splice(text: str, first_line: int, edits: list[Edit]) -> str:
    """Return a text with nodes replaced; ``first_line`` is the line of the module where the text begins."""
    lines = text.encode().splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    data = b"".join(lines)
    for node, replacement in sorted(edits, key=lambda edit: (edit[0].lineno, edit[0].col_offset), reverse=True):
        if node.end_col_offset is None:
            raise NoSourceError(f"line {node.lineno}: a piece has no end in the text")
        begin = starts[node.lineno - first_line] + node.col_offset
        end = starts[last_line(node) - first_line] + node.end_col_offset
        data = data[:begin] + replacement.encode() + data[end:]
    return data.decode()


def attribute_root(decorator: ast.expr) -> str | None:
    """Return ``name`` of a decorator ``@name.attribute`` or ``@name.attribute(...)``."""
    expression = decorator.func if isinstance(decorator, ast.Call) else decorator
    if isinstance(expression, ast.Attribute) and isinstance(expression.value, ast.Name):
        return expression.value.id
    return None


def line_of_name(node: ast.AST, name: str) -> int | None:
    """Return the line of a piece where a name is used, else that of the piece."""
    for child in ast.walk(node):
        if isinstance(child, ast.Name) and child.id == name:
            return child.lineno
    return getattr(node, "lineno", None)
