"""What a trigger tells its operator: everything that a resumed task needs, as JSON.

Nothing else survives deferral, so the event carries results and failures themselves, up to a limit in all: it stands in
a row of Airflow's database. What has no room is counted, and read from PanDA's own record by the operator.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from itertools import islice
from typing import Any, Final

from airflow_provider_panda.grid.outcome import HEAD_LENGTH, VALUES_LIMIT, Tally, Value
from airflow_provider_panda.payload.result import JobFailure

INLINE_LIMIT: Final = VALUES_LIMIT
"""Bytes of a whole event as JSON; what has no room, the operator fetches (design.md section 3, "Sizes")."""

FULL_FAILURES: Final = 5
"""Failures that keep a traceback in an event; further ones keep their type and the head of their message."""

TRACEBACK_LIMIT: Final = 16 * 1024
"""Bytes of JSON that the first traceback has; the others have a quarter of it."""

MESSAGE_LIMIT: Final = 2000
"""Bytes of JSON of a message or of PanDA's error text."""

NAME_LIMIT: Final = 200
"""Bytes of JSON of a failure's type, host or site."""

MISSING_TOLD: Final = 500
"""Jobs without a result that an event names."""


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
    :param failures: failed jobs, the first ones.
    :param failures_left_out: how many more failed.
    :param missing: jobs of which nothing is known, the first ones.
    :param missing_left_out: of how many more nothing is known.
    :param returned: which jobs returned, packed, where neither ``results`` nor ``failures`` tells it (see
        :attr:`failed_jobs`); empty where they do, or where it has no room.
    :param request_id: iDDS request, where the task went through iDDS.
    :param transform_id: iDDS transform.
    :param task_name: PanDA task name.
    :param carried: what the operator gave the trigger to be handed back.
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
    failures_left_out: int = 0
    missing: tuple[int, ...] = ()
    missing_left_out: int = 0
    returned: str = ""
    request_id: int | None = None
    transform_id: int | None = None
    task_name: str = ""
    carried: str = ""

    @property
    def n_failures(self) -> int:
        """How many jobs failed, whether the event has room for them or not."""
        return len(self.failures) + self.failures_left_out

    @property
    def n_missing(self) -> int:
        """Of how many jobs nothing is known."""
        return len(self.missing) + self.missing_left_out

    @property
    def failed_jobs(self) -> frozenset[int] | None:
        """Of a complete call the jobs that failed; None if the event has no room for telling which."""
        if not self.failures_left_out:
            return frozenset(failure.job for failure in self.failures)
        if self.results is not None:
            return frozenset(range(self.n_jobs)) - {entry["job"] for entry in self.results}
        if self.returned:
            return frozenset(job for job, has_value in enumerate(unpack(self.returned, self.n_jobs)) if not has_value)
        return None

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


def filled(event: FunctionEvent, tally: Tally) -> FunctionEvent:
    """Return an event with what is known of the jobs, as far as it has room: :data:`INLINE_LIMIT` bytes in all.

    Failures come first, but leave values up to half of the room: PanDA keeps values whole, and of failures little.
    Takes some milliseconds for whatever number of jobs, so that the triggerer's loop may do it.

    :param event: what is to be told of the task, and nothing of its jobs yet.
    :param tally: what is known of its jobs.
    """
    complete, only_final = event.outcome is Outcome.COMPLETE, event.outcome is Outcome.FAILED
    event = dataclasses.replace(event, error=event.error and _fitting(event.error, MESSAGE_LIMIT))
    room = INLINE_LIMIT - _size(event.to_json()) - _COUNTS
    missing = tuple(islice(tally.each_unknown(), MISSING_TOLD))
    room -= _size(missing)
    kept_free = min(_size_of_jobs(tally), room // 2) if complete else 0
    failures = shorten(tally.each_failure(final=only_final), room - kept_free)
    room -= _size([dataclasses.asdict(failure) for failure in failures])
    left_out = (tally.n_final_failures if only_final else tally.n_failures) - len(failures)
    results: list[dict[str, Any]] | None = []
    if complete:
        results = (
            None if tally.values is None else inline_results((tally.values[job] for job in sorted(tally.values)), room)
        )
    returned = pack(tally.has_value) if results is None and left_out else ""
    return dataclasses.replace(
        event,
        results=results,
        failures=failures,
        failures_left_out=left_out,
        missing=missing,
        missing_left_out=tally.n_unknown - len(missing),
        returned=returned if len(returned) <= room else "",
    )


_COUNTS: Final = 100
"""Bytes that the numbers and signs take which are put in last."""


def _size_of_jobs(tally: Tally) -> int:
    """Return the bytes in which values are told, or at least which jobs have some: a bit each, as text."""
    return tally.policy.n_jobs // 6 + _COUNTS if tally.values is None else tally.values_size


def inline_results(values: Iterable[Value], limit: int = INLINE_LIMIT) -> list[dict[str, Any]] | None:
    """Return values for an event, or None if they are more than ``limit`` bytes."""
    inline: list[dict[str, Any]] = []
    size = 0
    for value in values:
        size += value.size
        if size > limit:
            return None
        inline.append(value.to_json())
    return inline


def shorten(failures: Iterable[JobFailure], limit: int = INLINE_LIMIT) -> tuple[JobFailure, ...]:
    """Return as many of the failures, and as much of their texts, as ``limit`` bytes carry; at least the first one."""
    kept: list[JobFailure] = []
    size = 0
    for position, failure in enumerate(failures):
        told = _shortened(failure, position)
        size += _size(dataclasses.asdict(told)) + _BETWEEN
        if size > limit and kept:
            break
        kept.append(told)
    return tuple(kept)


def _shortened(failure: JobFailure, position: int) -> JobFailure:
    full = position < FULL_FAILURES
    return dataclasses.replace(
        failure,
        type=_fitting(failure.type, NAME_LIMIT),
        message=_fitting(failure.message if full else failure.message[:HEAD_LENGTH], MESSAGE_LIMIT),
        traceback=_fitting(failure.traceback, TRACEBACK_LIMIT // (4 if position else 1)) if full else "",
        host=failure.host and _fitting(failure.host, NAME_LIMIT),
        site=failure.site and _fitting(failure.site, NAME_LIMIT),
    )


_BETWEEN: Final = 2
"""Bytes between two entries of a list."""


def _size(part: Any) -> int:
    """Bytes of JSON, in the widest of the usual forms."""
    return len(json.dumps(part))


def _fitting(text: str, limit: int) -> str:
    """Return a text, or both its ends, in at most ``limit`` bytes of JSON: a sign takes up to twelve."""
    kept = limit
    while _size(cut := _ends_of(text, kept)) > limit:
        kept = kept * 3 // 4
    return cut


def _ends_of(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    return f"{text[: limit // 4]}\n... {len(text) - limit} characters left out ...\n{text[-limit * 3 // 4 :]}"


def pack(flags: bytes) -> str:
    """Return zeros and ones as text: a bit each, compressed."""
    digits = flags.translate(_DIGITS).decode()
    bits = int(digits, 2).to_bytes((len(flags) + 7) // 8, "big")
    return base64.b85encode(zlib.compress(bits)).decode()


def unpack(text: str, count: int) -> bytes:
    """Return the ``count`` zeros and ones of :func:`pack`."""
    bits = int.from_bytes(zlib.decompress(base64.b85decode(text)), "big")
    return bytes(digit == "1" for digit in f"{bits:0{count}b}")


_DIGITS: Final = bytes.maketrans(b"\0\1", b"01")
