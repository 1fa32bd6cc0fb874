"""docker-compose.yml as data: variables put in, order of start, and what each service runs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped,unused-ignore]

ROOT = Path(__file__).parents[3]
FILE = ROOT / "docker-compose.yml"

_VARIABLE = re.compile(r"\$(?:(?P<escaped>\$)|\{(?P<name>\w+)(?:(?P<kind>:[-?])(?P<word>[^}]*))?\})")


class MissingVariableError(Exception):
    """A variable without a default is not set; the argument is what Compose would print."""


@dataclass(frozen=True, kw_only=True)
class Mount:
    """A volume or folder in a container.

    :param source: name of a volume, or path of a folder that begins with ``./``.
    :param target: path in the container.
    :param read_only: whether it is mounted so.
    """

    source: str
    target: str
    read_only: bool


@dataclass(frozen=True, kw_only=True)
class Service:
    """One service.

    :param name: its name, which is its host name, too.
    :param command: program and arguments.
    :param health: program and arguments of the health check, or None.
    :param after: services that it waits for, and whether it waits for their end (else until they are healthy).
    :param raw: everything that the file says.
    """

    name: str
    image: str
    command: tuple[str, ...]
    health: tuple[str, ...] | None
    environment: Mapping[str, str] = field(repr=False)
    mounts: tuple[Mount, ...]
    after: Mapping[str, bool]
    working_dir: str | None
    raw: Mapping[str, Any] = field(repr=False)

    @property
    def one_shot(self) -> bool:
        """Whether it is done when it has ended."""
        return self.raw.get("restart") == "no"


def put_in(text: str, values: Mapping[str, str]) -> str:
    """Return a text with its variables put in, as Compose does for the forms that the file uses.

    :raises MissingVariableError: ``${NAME:?...}`` is not set.
    """

    def one(match: re.Match[str]) -> str:
        if match["escaped"]:
            return "$"
        value = values.get(match["name"]) or ""
        if not value and match["kind"] == ":-":
            return match["word"]
        if not value and match["kind"] == ":?":
            raise MissingVariableError(f"{match['name']}: {match['word']}")
        return value

    return _VARIABLE.sub(one, text)


def variables(node: Any) -> dict[str, set[str]]:
    """Return the variables in a part of the file, with the forms (``:?`` or ``:-``) in which they are used."""
    found: dict[str, set[str]] = {}
    if isinstance(node, str):
        for match in _VARIABLE.finditer(node):
            if match["name"]:
                found.setdefault(match["name"], set()).add(match["kind"] or "")
    elif isinstance(node, Mapping | list):
        for each in node.values() if isinstance(node, Mapping) else node:
            for name, kinds in variables(each).items():
                found.setdefault(name, set()).update(kinds)
    return found


def load() -> dict[str, Any]:
    """Return the file as it is, with YAML's anchors resolved."""
    loaded: dict[str, Any] = yaml.safe_load(FILE.read_text())
    return loaded


def services(values: Mapping[str, str]) -> dict[str, Service]:
    """Return all services with variables put in.

    :param values: what is in ``.env``.
    """
    return {name: _service(name, _all_put_in(raw, values)) for name, raw in load()["services"].items()}


def dotenv(path: Path) -> dict[str, str]:
    """Return the variables of a ``.env`` file without quotes."""
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


def _all_put_in(node: Any, values: Mapping[str, str]) -> Any:
    if isinstance(node, str):
        return put_in(node, values)
    if isinstance(node, Mapping):
        return {name: _all_put_in(each, values) for name, each in node.items()}
    return [_all_put_in(each, values) for each in node] if isinstance(node, list) else node


def _service(name: str, raw: Mapping[str, Any]) -> Service:
    test = raw.get("healthcheck", {}).get("test")
    assert test is None or test[0] == "CMD", f"{name}: health checks here are programs, not shell lines"
    mounts = [text.split(":") for text in raw.get("volumes", ())]
    return Service(
        name=name,
        image=raw["image"],
        command=tuple(raw["command"]),
        health=tuple(test[1:]) if test else None,
        environment={key: str(value) for key, value in raw.get("environment", {}).items()},
        mounts=tuple(Mount(source=m[0], target=m[1], read_only=m[2:] == ["ro"]) for m in mounts),
        after={
            other: told["condition"] == "service_completed_successfully"
            for other, told in raw.get("depends_on", {}).items()
        },
        working_dir=raw.get("working_dir"),
        raw=raw,
    )
