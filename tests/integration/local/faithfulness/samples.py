"""The captured exchanges with panda-server 1.0.4: tests/samples/panda, one entry per outcome."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SAMPLES = Path(__file__).parents[3] / "samples"
CAPTURED = Path("/work/shared/samples/panda")
"""Where they were captured to; only on the machine where this package is developed."""
BROKER_MESSAGES = "broker_messages"


TRUNCATED = frozenset(
    {
        "job.get_description#0",
        "job.get_description_incl_archive#0",
        "task.get_job_descriptions#0",
        "task.get_tasks_detailed_info_since#0",
    }
)
"""Answers that were captured up to a length: lists of which the first elements are there."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One captured exchange.

    :param name: file and number of the entry, ``task.retry#2``.
    :param answer: body of the answer, decoded where it is JSON.
    """

    name: str
    method: str
    path: str
    headers: dict[str, str]
    body: Any
    status: int
    answer_headers: dict[str, str]
    answer: Any


@dataclass(frozen=True, slots=True)
class BrokerSample:
    """One captured message, with its body decoded."""

    name: str
    headers: dict[str, str]
    body: dict[str, Any]


def names_in(folder: Path) -> list[str]:
    """Return the names of all entries of a folder of samples."""
    return [
        f"{path.stem}#{i}" for path in sorted(folder.glob("*.json")) for i in range(len(json.loads(path.read_text())))
    ]


def exchanges() -> dict[str, Sample]:
    """Return every captured HTTP exchange by name."""
    found = {}
    for path in sorted((SAMPLES / "panda").glob("*.json")):
        if path.stem == BROKER_MESSAGES:
            continue
        for index, entry in enumerate(json.loads(path.read_text())):
            name = f"{path.stem}#{index}"
            found[name] = Sample(
                name=name,
                method=entry["method"],
                path=entry["path"],
                headers=entry["request_headers"],
                body=entry["request_body"],
                status=entry["status"],
                answer_headers=entry["response_headers"],
                answer=entry["response_body"],
            )
    return found


def messages() -> dict[str, BrokerSample]:
    """Return every captured broker message by name."""
    entries = json.loads((SAMPLES / "panda" / f"{BROKER_MESSAGES}.json").read_text())
    return {
        f"{BROKER_MESSAGES}#{i}": BrokerSample(f"{BROKER_MESSAGES}#{i}", entry["headers"], json.loads(entry["body"]))
        for i, entry in enumerate(entries)
    }
