"""Message selectors of the embedded broker: ``=``, ``<>``, ``LIKE`` and ``IN`` on headers, with AND, OR, NOT.

A small part of JMS selectors, enough for what subscribers of results and status need.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

Selector = Callable[[Mapping[str, str]], bool]

_TOKEN = re.compile(r"\s*(?:('(?:[^']|'')*')|([A-Za-z_$][\w$.-]*)|(<>|=|\(|\)|,)|(-?\d+(?:\.\d+)?))")
_KEYWORDS = frozenset({"and", "or", "not", "like", "in", "is", "null"})
MAX_LENGTH = 4096


class SelectorError(ValueError):
    """A selector that this broker does not understand."""


def parse_selector(text: str) -> Selector:
    """Return the predicate over message headers that a selector stands for.

    :raises SelectorError: it is no selector, or uses what this broker does not have.
    """
    if len(text) > MAX_LENGTH:
        raise SelectorError(f"a selector longer than {MAX_LENGTH} characters")
    parser = _Parser(_tokens(text), text)
    predicate = parser.either()
    parser.end()
    return predicate


def like_pattern(pattern: str, escape: str | None = None) -> re.Pattern[str]:
    """Return the regular expression of a LIKE pattern: ``%`` any text, ``_`` any character."""
    parts: list[str] = []
    characters = iter(pattern)
    for character in characters:
        if escape and character == escape:
            parts.append(re.escape(next(characters, "")))
        elif character == "%":
            parts.append(".*")
        elif character == "_":
            parts.append(".")
        else:
            parts.append(re.escape(character))
    return re.compile("".join(parts), re.DOTALL)


def _tokens(text: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    position = 0
    stripped = text.rstrip()
    while position < len(stripped):
        match = _TOKEN.match(stripped, position)
        if match is None:
            raise SelectorError(f"selector {text!r}: {stripped[position : position + 10]!r} is not understood")
        literal, name, sign, number = match.groups()
        if literal is not None:
            found.append(("text", literal[1:-1].replace("''", "'")))
        elif number is not None:
            found.append(("text", number))
        elif sign is not None:
            found.append(("sign", sign))
        elif name.lower() in _KEYWORDS:
            found.append(("word", name.lower()))
        else:
            found.append(("name", name))
        position = match.end()
    return found


class _Parser:
    def __init__(self, tokens: list[tuple[str, str]], text: str) -> None:
        self._tokens, self._text, self._at, self._depth = tokens, text, 0, 0

    def _next(self, kind: str, value: str | None = None) -> str | None:
        if self._at < len(self._tokens):
            found_kind, found = self._tokens[self._at]
            if found_kind == kind and (value is None or found == value):
                self._at += 1
                return found
        return None

    def _need(self, kind: str, value: str | None = None) -> str:
        found = self._next(kind, value)
        if found is None:
            raise SelectorError(f"selector {self._text!r}: {value or kind} expected")
        return found

    def end(self) -> None:
        if self._at < len(self._tokens):
            raise SelectorError(f"selector {self._text!r}: {self._tokens[self._at][1]!r} is not understood")

    def either(self) -> Selector:
        options = [self._all()]
        while self._next("word", "or"):
            options.append(self._all())
        return options[0] if len(options) == 1 else lambda headers: any(o(headers) for o in options)

    def _all(self) -> Selector:
        conditions = [self._one()]
        while self._next("word", "and"):
            conditions.append(self._one())
        return conditions[0] if len(conditions) == 1 else lambda headers: all(c(headers) for c in conditions)

    def _one(self) -> Selector:
        self._depth += 1
        if self._depth > 50:
            raise SelectorError("a selector nested too deeply")
        try:
            if self._next("word", "not"):
                inner = self._one()
                return lambda headers: not inner(headers)
            if self._next("sign", "("):
                inner = self.either()
                self._need("sign", ")")
                return inner
            return self._comparison(self._need("name"))
        finally:
            self._depth -= 1

    def _comparison(self, name: str) -> Selector:
        if self._next("sign", "="):
            value = self._need("text")
            return lambda headers: headers.get(name) == value
        if self._next("sign", "<>"):
            value = self._need("text")
            return lambda headers: name in headers and headers[name] != value
        if self._next("word", "is"):
            absent = self._next("word", "not") is None
            self._need("word", "null")
            return lambda headers: (name not in headers) is absent
        negated = self._next("word", "not") is not None
        if self._next("word", "like"):
            pattern = like_pattern(self._need("text"))
            return lambda headers: name in headers and (pattern.fullmatch(headers[name]) is not None) is not negated
        self._need("word", "in")
        self._need("sign", "(")
        values = {self._need("text")}
        while self._next("sign", ","):
            values.add(self._need("text"))
        self._need("sign", ")")
        return lambda headers: name in headers and (headers[name] in values) is not negated
