"""What a trigger tells its operator: everything that a resumed task needs, as JSON.

Nothing else survives deferral, so the event carries results (up to a limit) and failures themselves.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from airflow_provider_panda.payload.result import JobFailure, JobResult

INLINE_LIMIT: Final = 64 * 1024
"""Bytes of results that an event carries; above, the operator fetches them (design.md section 3, "Sizes")."""

FULL_FAILURES: Final = 5
"""Failures that keep their whole traceback in an event; further ones keep their type and the head of their message."""

TRACEBACK_LIMIT: Final = 16 * 1024
MESSAGE_LIMIT: Final = 2000
SHORT_MESSAGE_LIMIT: Final = 120


class Outcome(Enum):
    """Why a trigger fired."""

    COMPLETE = "complete"
    FAILED = "failed"
    ENDED = "ended"
    DEADLINE = "deadline"


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionEvent:
    """The end of a function's grid task.

    :param outcome: why the trigger fired.
    :param task_key: key of the task.
    :param task_id: jediTaskID, or None if iDDS had not told of one yet.
    :param n_jobs: number of jobs of the call.
    :param ended: whether PanDA itself had ended the task.
    :param status: PanDA's last word on the task, if any was heard.
    :param error: PanDA's error text, if any.
    :param results: of each job that returned: ``{"job", "payload"}``, or ``{"job", "envelope"}`` where the value must
        be verified once more before it is decoded; None if there are too many bytes of them.
    :param failures: failed jobs.
    :param missing: jobs of which nothing is known.
    :param request_id: iDDS request, where the task went through iDDS.
    :param transform_id: iDDS transform.
    :param task_name: PanDA task name.
    """

    outcome: Outcome
    task_key: str
    task_id: int | None
    n_jobs: int
    ended: bool
    status: str | None = None
    error: str | None = None
    results: list[dict[str, Any]] | None = None
    failures: tuple[JobFailure, ...] = ()
    missing: tuple[int, ...] = ()
    request_id: int | None = None
    transform_id: int | None = None
    task_name: str = ""

    @property
    def where(self) -> str:
        """The task in words, by all names under which a person finds it."""
        known = []
        if self.task_id is not None:
            known.append(f"PanDA task {self.task_id}")
        if self.request_id is not None:
            known.append(f"iDDS request {self.request_id}, transform {self.transform_id}")
        return f"{self.task_key} ({', '.join(known)})"

    def to_json(self) -> dict[str, Any]:
        """Return the event as JSON for Airflow."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {
            **fields,
            "outcome": self.outcome.value,
            "failures": [dataclasses.asdict(failure) for failure in self.failures],
            "missing": list(self.missing),
        }

    @classmethod
    def from_json(cls, event: dict[str, Any]) -> FunctionEvent:
        """Read back what :meth:`to_json` wrote; fields that a newer provider added are ignored."""
        known = {field.name for field in dataclasses.fields(cls)}
        fields = {name: value for name, value in event.items() if name in known}
        fields["outcome"] = Outcome(fields["outcome"])
        fields["failures"] = tuple(JobFailure(**failure) for failure in fields.get("failures", ()))
        fields["missing"] = tuple(fields.get("missing", ()))
        return cls(**fields)


def inline_results(results: Iterable[JobResult]) -> list[dict[str, Any]] | None:
    """Return the results for an event, or None if they are more than :data:`INLINE_LIMIT` bytes."""
    inline: list[dict[str, Any]] = []
    size = 0
    for result in results:
        entry: dict[str, Any] = {"job": result.job}
        if result.encoding == "json":
            entry["payload"] = result.payload
        else:
            entry["envelope"] = result.envelope
        size += len(json.dumps(entry, separators=(",", ":")))
        if size > INLINE_LIMIT:
            return None
        inline.append(entry)
    return inline


def shorten(failures: Iterable[JobFailure]) -> tuple[JobFailure, ...]:
    """Return the failures with as much of their texts as an event can carry."""
    kept = []
    for position, failure in enumerate(failures):
        full = position < FULL_FAILURES
        kept.append(
            dataclasses.replace(
                failure,
                message=failure.message[: MESSAGE_LIMIT if full else SHORT_MESSAGE_LIMIT],
                traceback=_ends_of(failure.traceback, TRACEBACK_LIMIT) if full else "",
            )
        )
    return tuple(kept)


def _ends_of(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    return f"{text[: limit // 4]}\n... {len(text) - limit} characters left out ...\n{text[-limit * 3 // 4 :]}"
