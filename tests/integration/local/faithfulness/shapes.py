"""How an answer differs from a captured one: keys, types, and every value that the situation determines."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

DATETIME = "__datetime__"

_NAMES = re.compile(r"user\.[\w-]+\.[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_GUID = re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b")
_HOST = re.compile(r"(?:https?://)?(?:localhost|127\.0\.0\.1)(?::\d+(?!\w))?")
_DIGEST = re.compile(r"\b[0-9a-f]{32}\b")
_NICKNAME = re.compile(r"(?<=nickname:)\w+")
_NUMBER = re.compile(r"(?<![\w-])\d+(?:\.\d+)?(?!\w)")


def normalised(text: str) -> str:
    """Return a text with names, hosts, digests and ids replaced."""
    for pattern, word in (
        (_NAMES, "<name>"),
        (_GUID, "<guid>"),
        (_HOST, "<host>"),
        (_DIGEST, "<digest>"),
        (_NICKNAME, "<nickname>"),
    ):
        text = pattern.sub(word, text)
    return _NUMBER.sub("<n>", text)


def kind(value: Any) -> str:
    """Return the JSON type of a value; times in PanDA's form are one of their own."""
    if isinstance(value, Mapping) and set(value) == {DATETIME}:
        return "datetime"
    return {type(None): "null", bool: "bool", dict: "object", list: "list"}.get(type(value), type(value).__name__)


def _keyed_by_id(value: Mapping[str, Any]) -> bool:
    return bool(value) and all(key.isdigit() for key in value)


def differences(
    real: Any, ours: Any, *, volatile: frozenset[str], ids: Mapping[int, int], path: str = ""
) -> Iterator[tuple[str, str]]:
    """Yield where a value differs from a captured one, as ``(path, what)``.

    :param volatile: names of keys whose values (not types) depend on more than the situation: ids, times, names.
    :param ids: which id stands for a captured one; of an object keyed by ids, these are compared.
    """
    if kind(real) != kind(ours):
        yield path, f"is {kind(ours)} {ours!r:.80}, the real one is {kind(real)} {real!r:.80}"
    elif isinstance(real, dict) and kind(real) == "object":
        if _keyed_by_id(real):
            pairs = [(key, str(ids[int(key)])) for key in real if int(key) in ids]
            assert pairs, f"none of {list(real)} has a counterpart"
        else:
            pairs = [(key, key) for key in real.keys() | ours.keys()]
        for theirs, mine in pairs:
            place = f"{path}.{theirs}"
            if mine not in ours:
                yield place, "is missing"
            elif theirs not in real:
                yield place, "is not in the real one"
            else:
                yield from differences(real[theirs], ours[mine], volatile=volatile, ids=ids, path=place)
    elif isinstance(real, list):
        if len(real) != len(ours):
            yield path, f"has {len(ours)} elements, the real one {len(real)}"
        for theirs_element, our_element in zip(real, ours, strict=False):
            yield from differences(theirs_element, our_element, volatile=volatile, ids=ids, path=f"{path}[]")
    elif leaf(path) not in volatile and kind(real) != "datetime":
        same = normalised(real) == normalised(ours) if isinstance(real, str) else real == ours
        if not same:
            yield path, f"is {ours!r:.120}, the real one is {real!r:.120}"


def leaf(path: str) -> str:
    """Return the last key of a path."""
    return path.removesuffix("[]").rsplit(".", 1)[-1]
