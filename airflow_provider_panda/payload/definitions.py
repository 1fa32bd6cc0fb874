"""The functions and classes that a function uses: where they are defined, and which decorators travel."""

from __future__ import annotations

import ast
import inspect
import sys
from types import FunctionType
from typing import Any

from . import values
from .callables import kept_decorators, names_at_hand, wrapper_layers
from .closures import Closures
from .excerpt import default_edits, definition_text, pruned
from .pieces import Assign, Follow, Home, Pieces
from .syntax import ModuleText, NoSourceError, Place, attribute_root, module_text, read_module


class Definitions:
    """Ships definitions.

    :param assignment: writes down values that they hold, such as defaults.
    :param follow: ships what they use.
    """

    def __init__(self, pieces: Pieces, home: Home, *, assignment: Assign, follow: Follow) -> None:
        self.pieces = pieces
        self.home = home
        self.closures = Closures(pieces, assignment=assignment, follow=follow)
        self.variants: dict[tuple[Any, ...], int] = {}
        self.assignment = assignment
        self.follow = follow

    def function(self, function: Any, *, line: int | None, main: bool = False) -> str:
        """Ship a function object and return the expression that names it in the file."""
        layers = wrapper_layers(function)
        plain = inspect.unwrap(function)
        text = module_text(plain)
        place = text.place_of(plain)
        names = names_at_hand(plain)
        kept = kept_decorators(place, names, layers)
        if layers and not kept and function is not plain:
            # Wrapped by a call, not by a decorator of its definition: ship the wrapper, which closes over the function.
            plain, layers = _outermost(function), 0
            text = module_text(plain)
            place = text.place_of(plain)
            kept = []
        elif not layers and kept and not main and (place.around or plain.__globals__.get(place.node.name) is not plain):
            kept = []  # the raw function that its own decorator's wrapper closes over
        if any(not isinstance(one, ast.ClassDef) for one in place.around):
            return self.closures.function(plain, text, place, kept, line)
        if place.around:
            raise NoSourceError(f"method {plain.__qualname__} is used apart from its class")
        return self.definition(text, plain.__globals__, place, kept, plain)

    def definition(
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
        if key in self.pieces.texts:
            return node.name
        self.pieces.own(node.name, module_globals)
        self.pieces.texts[key] = (node.lineno, "")  # recursion ends here
        edits, prelude = default_edits(node, module_globals, function, self.assignment)
        body = definition_text(text, node, kept, edits, module_globals)
        if node.col_offset:
            body = "if True:\n" + body
        self.pieces.texts[key] = (node.lineno, prelude + body)
        self.follow(text, module_globals, pruned(node, kept, edits), ())
        for other in text.places:  # what registers itself with it, as with functools.singledispatch
            if not other.around and any(attribute_root(one) == node.name for one in other.node.decorator_list):
                self.definition(text, module_globals, other, kept_decorators(other, module_globals, None))
        return node.name

    def class_(self, cls: type) -> str:
        """Ship the definition of a class and return the expression that names it."""
        text = self._class_text(cls)
        place = text.class_place(cls.__qualname__)
        if place is None:
            raise NoSourceError(f"{text.filename} has no definition of class {cls.__qualname__}")
        module_globals = vars(sys.modules[cls.__module__]) if cls.__module__ in sys.modules else self.home.globals
        if self.home.globals.get("__name__") == cls.__module__:
            module_globals = self.home.globals
        functions = [one for one in place.around if not isinstance(one, ast.ClassDef)]
        if not functions:
            outer = Place(place.around[0], ()) if place.around else place
            root = cls.__qualname__.partition(".")[0]
            if not place.around and module_globals.get(root) is not cls:
                raise NoSourceError(f"class {cls.__qualname__} is no variable of its module any more")
            self.definition(text, module_globals, outer, list(outer.node.decorator_list))
            return cls.__qualname__
        return self.closures.class_(cls, text, place, module_globals)

    def _class_text(self, cls: type) -> ModuleText:
        if cls.__module__ == self.home.globals.get("__name__") and self.home.text is not None:
            return self.home.text
        module = sys.modules.get(cls.__module__)
        filename = getattr(module, "__file__", None)
        if filename is None:
            raise NoSourceError(f"there is no source text of class {cls.__qualname__}")
        return read_module(filename)


def _outermost(function: Any) -> FunctionType:
    if not isinstance(function, FunctionType):
        raise NoSourceError(f"a wrapper of type {values.type_name(type(function))} has no source form")
    return function
