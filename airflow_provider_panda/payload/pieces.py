"""The file in the making: its pieces in their order, and which module owns which name."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from .syntax import ModuleText, NoSourceError

LATE = 10**9
"""Position in the file of what was defined inside functions: after everything of module level."""


class Assign(Protocol):
    """Gives the statement (one line) that gives a variable its value."""

    def __call__(self, name: str, value: Any, filename: str, line: int | None) -> str: ...


class Follow(Protocol):
    """Ships everything that a piece uses, and checks what it imports."""

    def __call__(
        self, text: ModuleText, module_globals: dict[str, Any], node: ast.stmt | ast.expr, local_names: tuple[str, ...]
    ) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """The module of the function itself.

    :param globals: its variables.
    :param text: its text; None if the function is a builtin.
    """

    globals: dict[str, Any] = field(default_factory=dict)
    text: ModuleText | None = None


State = tuple[dict[tuple[Any, ...], tuple[int, str]], dict[str, int], dict[int, str]]


class Pieces:
    """The pieces that were needed so far.

    ``texts`` holds each piece with its position, by what it is; ``owners`` the globals that each name belongs to;
    ``nested`` the names of functions and classes defined inside functions, by their id.
    """

    def __init__(self) -> None:
        self.texts: dict[tuple[Any, ...], tuple[int, str]] = {}
        self.owners: dict[str, int] = {}
        self.nested: dict[int, str] = {}
        self.kept_alive: list[Any] = []  # what ``nested`` knows by its id

    def add(
        self,
        key: tuple[Any, ...],
        order: int,
        text: str,
        name: str | None = None,
        owner: Mapping[str, Any] | None = None,
    ) -> None:
        """Put a piece in, unless it is there.

        :param order: position: the line in its module.
        :param name: the name it binds, and ``owner`` the globals of the module whose name that is.
        """
        if key not in self.texts:
            if name is not None and owner is not None:
                self.own(name, owner)
            self.texts[key] = (order, text)

    def own(self, name: str, module_globals: Mapping[str, Any]) -> None:
        """Note whose name it is: two modules that use one name for two things do not fit into one file.

        :raises NoSourceError: another module owns it.
        """
        if self.owners.setdefault(name, id(module_globals)) != id(module_globals):
            raise NoSourceError(f"the name {name} means different things in two modules that the function uses")

    def open_scope(self, value: Any) -> int:
        """Return a number for the scope of a function or class defined inside a function, and name it by that."""
        number = len(self.nested)
        self.nested[id(value)] = f"_panda_{number}"
        self.kept_alive.append(value)
        return number

    def state(self) -> State:
        """Return what :meth:`restore` goes back to."""
        return dict(self.texts), dict(self.owners), dict(self.nested)

    def restore(self, state: State) -> None:
        """Forget the pieces that were put in after :meth:`state`."""
        self.texts, self.owners, self.nested = state

    def in_order(self) -> list[str]:
        """Return the texts as they follow each other in the file."""
        return [text for _, text in sorted(self.texts.values(), key=lambda piece: piece[0])]
