"""Exchanges with a real idds 2.6.21 (tests/samples/idds): what was sent, and what it answered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[3] / "samples" / "idds"


def sample(name: str) -> Any:
    """Return a captured JSON text, decoded."""
    return json.loads((FOLDER / name).read_text())


def exchange(method: str, path: str) -> dict[str, Any]:
    """Return the captured exchange of that method and path; paths are alike but for ids."""
    (found,) = [
        each
        for each in sample("rest_exchanges.json")
        if (each["method"], each["path"]) == (method, path) and each["status"] == "200 OK"
    ]
    return found  # type: ignore[no-any-return]


def refusals() -> list[dict[str, Any]]:
    """Return the captured exchanges that iDDS did not answer with 200."""
    return [each for each in sample("rest_exchanges.json") if each["status"] != "200 OK"]
