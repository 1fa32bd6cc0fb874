"""Values as JSON with a closed set of tagged types: equal in type and value after a round trip, or an error.

Shipped to the worker node with the runner: standard library only, Python 3.9-3.13. numpy and pandas are imported
only when a value or a tag asks for them (see ``arrays``). Nothing named in a message is ever imported: a tag selects
one of the decoders below, and classes of dataclasses and enums come from a table that the caller passes in.

A tagged value is ``{"$type": name, ...}``; a dict that has the key ``$type`` itself travels as tagged pairs.
"""

from __future__ import annotations

import json
from typing import Any, Callable, Dict, Mapping, Optional, Tuple

TAG = "$type"
MAX_DEPTH = 200
"""Deepest nesting of containers in a value."""
_BIG_INT = 1 << 1000
_TAGGED_IN_TEXT = '"$type"'

Path = Optional[Tuple[Any, str]]
"""Where in a value: a linked list (parent, step), turned to text only for an error."""
ClassToken = Callable[[type], Optional[str]]
Classes = Mapping[str, type]


class UnsupportedValue(ValueError):  # noqa: N818
    """A value has no encoding.

    :param path: place in the value, such as ``$.points[3]``.
    :param type_name: module and name of the type.
    """

    def __init__(self, path: str, type_name: str, problem: str = "") -> None:
        self.path, self.type_name = path, type_name
        self.problem = problem or "a value of type %s has no JSON form" % type_name
        super().__init__("%s: %s" % (path, self.problem))


class UndecodableValue(ValueError):  # noqa: N818
    """An encoded value cannot be rebuilt here.

    :param path: place in the value.
    :param problem: what is wrong.
    """

    def __init__(self, path: str, problem: str) -> None:
        self.path, self.problem = path, problem
        super().__init__("%s: %s" % (path, problem))


class MissingLibrary(UndecodableValue):
    """A value needs a library, or time zone data, that is not installed here; another node may have it."""


def path_text(path: Path) -> str:
    """Return ``$.points[3]`` for a linked path."""
    steps = []
    while path is not None:
        path, step = path
        steps.append(step)
    return "$" + "".join(reversed(steps))


def type_name(cls: type) -> str:
    """Return the name of a type as a reader knows it, without ``builtins``."""
    name = getattr(cls, "__qualname__", cls.__name__)
    return name if cls.__module__ == "builtins" else "%s.%s" % (cls.__module__, name)


def dumps(value: Any, token: Optional[ClassToken] = None) -> str:
    """Return the JSON text (ASCII, one line) of a value.

    :param token: gives the table key of a dataclass or enum class whose definition is shipped, or None.
    :raises UnsupportedValue: the value, or a part of it, has no encoding.
    """
    return json.dumps(encode(value, token), separators=(",", ":"), allow_nan=False)


def loads(text: str, classes: Optional[Classes] = None) -> Any:
    """Return the value of a JSON text made by :func:`dumps`.

    :raises UndecodableValue: the text is no JSON, or a part of it cannot be rebuilt here.
    """
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UndecodableValue("$", "no JSON: %s" % error) from None
    return decode(tree, classes) if _TAGGED_IN_TEXT in text else tree


def encode(value: Any, token: Optional[ClassToken] = None) -> Any:
    """Return the JSON-able form of a value; see :func:`dumps`."""
    return _Encoder(token).encode(value, None, 0)


def decode(tree: Any, classes: Optional[Classes] = None) -> Any:
    """Return the value of a JSON-able form; see :func:`loads`."""
    return _Decoder(classes or {}).decode(tree, None, 0)


class _Encoder:
    def __init__(self, token: Optional[ClassToken]) -> None:
        self.token = token
        self.open_ids: set[int] = set()

    def fail(self, value: Any, path: Path, problem: str = "") -> UnsupportedValue:
        return UnsupportedValue(path_text(path), type_name(type(value)), problem)

    def encode(self, value: Any, path: Path, depth: int) -> Any:
        kind = type(value)
        if value is None or kind is bool:
            return value
        if kind is int:
            return value if -_BIG_INT < value < _BIG_INT else {TAG: "int", "v": hex(value)}
        if kind is float:
            return value if value - value == 0.0 else {TAG: "float", "v": repr(value)}
        if kind is str:
            return value if _is_text(value) else {TAG: "str", "v": _b64(value.encode("utf-8", "surrogatepass"))}
        leaf = _LEAVES.get(kind)
        if leaf is not None:
            return leaf(value)
        if depth >= MAX_DEPTH:
            raise self.fail(value, path, "nested deeper than %d levels" % MAX_DEPTH)
        if id(value) in self.open_ids:
            raise self.fail(value, path, "a %s that contains itself has no JSON form" % kind.__name__)
        self.open_ids.add(id(value))
        try:
            return self.container(value, kind, path, depth + 1)
        finally:
            self.open_ids.discard(id(value))

    def container(self, value: Any, kind: type, path: Path, depth: int) -> Any:
        if kind is list:
            return self.items(value, path, depth)
        if kind is dict:
            return self.mapping(value, path, depth)
        if kind is tuple:
            return {TAG: "tuple", "v": self.items(value, path, depth)}
        if kind is set or kind is frozenset:
            items = [self.encode(item, (path, "{%.40r}" % (item,)), depth) for item in value]
            items.sort(key=json.dumps)  # same set, same text
            return {TAG: kind.__name__, "v": items}
        name = type_name(kind)
        late = _LATE.get(name)
        if late is not None:
            return late(self, value, path)
        root = kind.__module__.partition(".")[0]
        if root in ("numpy", "pandas"):
            from . import arrays

            return arrays.encode(value, path, depth, self.encode)
        return self.instance(value, kind, path, depth)

    def items(self, value: Any, path: Path, depth: int) -> list[Any]:
        encode = self.encode
        return [encode(item, (path, "[%d]" % index), depth) for index, item in enumerate(value)]

    def mapping(self, value: dict[Any, Any], path: Path, depth: int) -> Any:
        if TAG not in value and all(type(key) is str and _is_text(key) for key in value):
            return {key: self.encode(item, (path, _step(key)), depth) for key, item in value.items()}
        pairs = [
            [self.encode(key, (path, "{key %.40r}" % (key,)), depth), self.encode(item, (path, _step(key)), depth)]
            for key, item in value.items()
        ]
        return {TAG: "dict", "v": pairs}

    def instance(self, value: Any, kind: type, path: Path, depth: int) -> Any:
        from dataclasses import fields, is_dataclass
        from enum import Enum, Flag

        is_enum = isinstance(value, Enum)
        if not is_enum and not is_dataclass(value):
            raise self.fail(value, path)
        key = self.token(kind) if self.token is not None else None
        if key is None:
            what = "an enum member" if is_enum else "a dataclass instance"
            raise self.fail(value, path, "%s of class %s has no JSON form here" % (what, type_name(kind)))
        if is_enum:
            if value.name is None or (isinstance(value, Flag) and value.name not in kind.__members__):  # type: ignore[attr-defined]
                return {TAG: "enum", "class": key, "value": self.encode(value.value, (path, ".value"), depth)}
            return {TAG: "enum", "class": key, "name": value.name}
        state = {field.name: getattr(value, field.name) for field in fields(value) if hasattr(value, field.name)}
        state.update(getattr(value, "__dict__", {}))
        return {TAG: "dataclass", "class": key, "state": self.mapping(state, path, depth)}

    def zone(self, zone: Any, path: Path) -> Any:
        from datetime import timezone

        if zone is None:
            return None
        if type(zone) is timezone:
            offset, name = zone.utcoffset(None), zone.tzname(None)
            is_default = name == timezone(offset).tzname(None)
            return {"offset": _parts(offset), "name": None if is_default else name}
        if type_name(type(zone)) == "zoneinfo.ZoneInfo" and zone.key is not None:
            return {"key": zone.key}
        raise self.fail(zone, (path, ".tzinfo"))


def _is_text(value: str) -> bool:
    """Whether JSON carries the text unchanged: adjacent surrogates would be merged to one character."""
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _step(key: Any) -> str:
    return "." + key if type(key) is str and key.isidentifier() else "[%.40r]" % (key,)


def _b64(data: bytes) -> str:
    from binascii import b2a_base64

    return b2a_base64(data, newline=False).decode()


def _unb64(text: str) -> bytes:
    from binascii import a2b_base64

    return a2b_base64(text)


def _parts(delta: Any) -> list[int]:
    return [delta.days, delta.seconds, delta.microseconds]


_LEAVES: Dict[type, Callable[[Any], Any]] = {
    bytes: lambda value: {TAG: "bytes", "v": _b64(value)},
    bytearray: lambda value: {TAG: "bytearray", "v": _b64(bytes(value))},
    complex: lambda value: {TAG: "complex", "v": [repr(value.real), repr(value.imag)]},
    range: lambda value: {TAG: "range", "v": [str(value.start), str(value.stop), str(value.step)]},
}


def _encode_time(encoder: _Encoder, value: Any, path: Path) -> Any:
    """Encode a ``datetime`` or a ``time``."""
    text = value.replace(tzinfo=None).isoformat()
    return {TAG: type(value).__name__, "v": text, "fold": value.fold, "zone": encoder.zone(value.tzinfo, path)}


# By name, so that a program that has no datetime or Decimal does not import them.
_LATE: Dict[str, Callable[[_Encoder, Any, Path], Any]] = {
    "datetime.datetime": _encode_time,
    "datetime.time": _encode_time,
    "datetime.date": lambda encoder, value, path: {TAG: "date", "v": value.isoformat()},
    "datetime.timedelta": lambda encoder, value, path: {TAG: "timedelta", "v": _parts(value)},
    "decimal.Decimal": lambda encoder, value, path: {TAG: "Decimal", "v": str(value)},
    "uuid.UUID": lambda encoder, value, path: {TAG: "UUID", "v": value.hex},
    "pathlib.PosixPath": lambda encoder, value, path: {TAG: "Path", "v": encoder.encode(str(value), path, 0)},
    "pathlib._local.PosixPath": lambda encoder, value, path: {TAG: "Path", "v": encoder.encode(str(value), path, 0)},
}


class _Decoder:
    def __init__(self, classes: Classes) -> None:
        self.classes = classes

    def decode(self, tree: Any, path: Path, depth: int) -> Any:
        kind = type(tree)
        if kind is not list and kind is not dict:
            return tree
        if depth > MAX_DEPTH:
            raise UndecodableValue(path_text(path), "nested deeper than %d levels" % MAX_DEPTH)
        if kind is list:
            return [self.decode(item, (path, "[%d]" % index), depth + 1) for index, item in enumerate(tree)]
        tag = tree.get(TAG)
        if tag is None:
            return {key: self.decode(item, (path, _step(key)), depth + 1) for key, item in tree.items()}
        decoder = _DECODERS.get(tag) if type(tag) is str else None
        try:
            if decoder is not None:
                return decoder(self, tree, path, depth)
            if type(tag) is str and tag.startswith(("numpy.", "pandas.")):
                from . import arrays

                return arrays.decode(tag, tree, path, depth, self.decode)
        except UndecodableValue:
            raise
        except Exception as error:  # whatever a forged or foreign tree provokes is an error of the value
            raise UndecodableValue(path_text(path), "bad %s: %s: %s" % (tag, type(error).__name__, error)) from None
        raise UndecodableValue(path_text(path), "unknown tag %.60r" % (tag,))

    def items(self, tree: Any, path: Path, depth: int) -> list[Any]:
        if type(tree["v"]) is not list:
            raise UndecodableValue(path_text(path), "bad %s: no list" % tree[TAG])
        return [self.decode(item, (path, "[%d]" % index), depth + 1) for index, item in enumerate(tree["v"])]

    def zone(self, tree: Any, path: Path) -> Any:
        from datetime import timedelta, timezone

        if tree is None:
            return None
        if "offset" in tree:
            offset = timedelta(*tree["offset"])
            return timezone(offset) if tree.get("name") is None else timezone(offset, tree["name"])
        from zoneinfo import ZoneInfo

        try:
            return ZoneInfo(tree["key"])
        except Exception:
            raise MissingLibrary(
                path_text(path), "time zone %.60r is unknown here (is tzdata installed?)" % (tree.get("key"),)
            ) from None

    def class_of(self, tree: Any, path: Path) -> Any:
        cls = self.classes.get(tree["class"])
        if cls is None:
            raise UndecodableValue(path_text(path), "class %.60r is not part of this archive" % (tree["class"],))
        return cls


def _decode_dict(decoder: _Decoder, tree: Any, path: Path, depth: int) -> Any:
    result = {}
    for pair in tree["v"]:
        key = decoder.decode(pair[0], (path, "{key}"), depth + 1)
        result[key] = decoder.decode(pair[1], (path, _step(key)), depth + 1)
    return result


def _decode_time(decoder: _Decoder, tree: Any, path: Path, depth: int) -> Any:
    from datetime import datetime, time

    kind = datetime if tree[TAG] == "datetime" else time
    return kind.fromisoformat(tree["v"]).replace(fold=tree["fold"], tzinfo=decoder.zone(tree["zone"], path))


def _decode_date(decoder: _Decoder, tree: Any, path: Path, depth: int) -> Any:
    from datetime import date

    return date.fromisoformat(tree["v"])


def _decode_timedelta(decoder: _Decoder, tree: Any, path: Path, depth: int) -> Any:
    from datetime import timedelta

    return timedelta(*tree["v"])


def _decode_decimal(decoder: _Decoder, tree: Any, path: Path, depth: int) -> Any:
    from decimal import Decimal

    return Decimal(tree["v"])


def _decode_uuid(decoder: _Decoder, tree: Any, path: Path, depth: int) -> Any:
    from uuid import UUID

    return UUID(hex=tree["v"])


def _decode_path(decoder: _Decoder, tree: Any, path: Path, depth: int) -> Any:
    from pathlib import Path as FilePath

    text = decoder.decode(tree["v"], path, depth + 1)
    if type(text) is not str:
        raise UndecodableValue(path_text(path), "bad Path: no text")
    return FilePath(text)


def _decode_enum(decoder: _Decoder, tree: Any, path: Path, depth: int) -> Any:
    cls = decoder.class_of(tree, path)
    if "name" in tree:
        return cls[tree["name"]]
    return cls(decoder.decode(tree["value"], (path, ".value"), depth + 1))


def _decode_dataclass(decoder: _Decoder, tree: Any, path: Path, depth: int) -> Any:
    """Rebuild the state as it was: neither ``__init__`` nor ``__post_init__`` runs a second time."""
    cls = decoder.class_of(tree, path)
    instance = object.__new__(cls)
    for name, item in decoder.decode(tree["state"], path, depth).items():
        object.__setattr__(instance, name, item)
    return instance


_DECODERS: Dict[str, Callable[[_Decoder, Any, Path, int], Any]] = {
    "int": lambda decoder, tree, path, depth: int(tree["v"], 16),
    "float": lambda decoder, tree, path, depth: float(tree["v"]),
    "str": lambda decoder, tree, path, depth: _unb64(tree["v"]).decode("utf-8", "surrogatepass"),
    "bytes": lambda decoder, tree, path, depth: _unb64(tree["v"]),
    "bytearray": lambda decoder, tree, path, depth: bytearray(_unb64(tree["v"])),
    "complex": lambda decoder, tree, path, depth: complex(float(tree["v"][0]), float(tree["v"][1])),
    "range": lambda decoder, tree, path, depth: range(*[int(part) for part in tree["v"]]),
    "tuple": lambda decoder, tree, path, depth: tuple(decoder.items(tree, path, depth)),
    "set": lambda decoder, tree, path, depth: set(decoder.items(tree, path, depth)),
    "frozenset": lambda decoder, tree, path, depth: frozenset(decoder.items(tree, path, depth)),
    "dict": _decode_dict,
    "datetime": _decode_time,
    "time": _decode_time,
    "date": _decode_date,
    "timedelta": _decode_timedelta,
    "Decimal": _decode_decimal,
    "UUID": _decode_uuid,
    "Path": _decode_path,
    "enum": _decode_enum,
    "dataclass": _decode_dataclass,
}
