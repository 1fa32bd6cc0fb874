"""Which jobs of a mapped call a try sends where earlier tries of it brought values: ``retry = "failed_jobs"``.

A note tells which jobs each try was sent, and so which job of the call the i-th job of its task is. Pure: who keeps the
note and asks what has become of those jobs is in ``kept.py``.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, Literal

from airflow_provider_panda.triggers.event import pack, unpack

Retry = Literal["all", "failed_jobs"]

NOTE_LIMIT: Final = 32 * 1024
"""Bytes of a note: half of what a trigger event has, in which it travels as well; and Airflow's store takes 64 KiB."""

_VERSION: Final = 1
_PACKED: Final = "z:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What one try sent.

    :param task_key: key of its task.
    :param jobs: index in the call of each job of its task, in their order.
    :param task_id: jediTaskID; None while iDDS has not told it.
    :param request_id: iDDS request, where the task went through iDDS.
    :param transform_id: iDDS transform, likewise.
    :param task_name: PanDA task name, by which the id is found where it is not known.
    """

    task_key: str
    jobs: tuple[int, ...]
    task_id: int | None = None
    request_id: int | None = None
    transform_id: int | None = None
    task_name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """What tries of a mapped call sent.

    :param call: hash of function and arguments: other ones have other values.
    :param n_jobs: number of jobs of the call.
    :param tries: the tries whose values count, the latest one last.
    """

    call: str
    n_jobs: int
    tries: tuple[Sent, ...]

    @classmethod
    def of_whole(cls, task_key: str, task_id: int | None, n_jobs: int) -> Note:
        """Return the note of a try that was sent all jobs of its call."""
        sent = Sent(task_key=task_key, jobs=tuple(range(n_jobs)), task_id=task_id)
        return cls(call="", n_jobs=n_jobs, tries=(sent,))

    def to_text(self) -> str:
        """Return the note as JSON."""
        tries = [
            [sent.task_key, pack_jobs(sent.jobs, self.n_jobs), sent.task_id, sent.request_id, sent.transform_id,
             sent.task_name]
            for sent in self.tries
        ]  # fmt: skip
        fields = {"version": _VERSION, "call": self.call, "n_jobs": self.n_jobs, "tries": tries}
        return json.dumps(fields, separators=(",", ":"))

    @classmethod
    def from_text(cls, text: Any) -> Note:
        """Read back what :meth:`to_text` wrote.

        :raises ValueError: it is something else.
        """
        try:
            fields = json.loads(text)
            if fields["version"] != _VERSION:
                raise ValueError(f"version {fields['version']!r:.20} is unknown")
            call, n_jobs = str(fields["call"]), int(fields["n_jobs"])
            tries = tuple(
                Sent(
                    task_key=str(key),
                    jobs=unpack_jobs(jobs, n_jobs),
                    task_id=_id(task_id),
                    request_id=_id(request_id),
                    transform_id=_id(transform_id),
                    task_name=str(name),
                )
                for key, jobs, task_id, request_id, transform_id, name in fields["tries"]
            )
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"it is no such note: {error!r:.100}") from None
        return cls(call=call, n_jobs=n_jobs, tries=tries)

    def fits(self, *, call: str, n_jobs: int) -> bool:
        """Whether it is of this very call, so that its values are those that the jobs would bring again."""
        return (self.call, self.n_jobs) == (call, n_jobs)


def _id(value: Any) -> int | None:
    return None if value is None else int(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rest:
    """What a try sends of a call, and which earlier tries have the values of all other jobs.

    :param call: hash of function and arguments.
    :param n_jobs: number of jobs of the call.
    :param jobs: indices of the jobs to send.
    :param earlier: earlier tries that have values.
    """

    call: str
    n_jobs: int
    jobs: tuple[int, ...]
    earlier: tuple[Sent, ...] = ()

    @property
    def n_kept(self) -> int:
        """How many jobs have a value already."""
        return self.n_jobs - len(self.jobs)

    def noted(self, own: Sent) -> Note:
        """Return the note for whoever comes next.

        :param own: what this try sent.
        """
        return Note(call=self.call, n_jobs=self.n_jobs, tries=(*self.earlier, own))


def decide(note: Note, found: Sequence[Collection[int]], *, key: str) -> Rest:
    """Return what is still to be sent.

    :param note: what earlier tries sent, of this very call.
    :param found: the jobs of the call that have a value, for each try of the note.
    :param key: key of this try.
    """
    first = {job: position for position, jobs in reversed(list(enumerate(found))) for job in jobs}
    useful = {position for position in first.values() if note.tries[position].task_key != key}
    earlier = tuple(note.tries[position] for position in sorted(useful))
    # Executed once more, a try gets the task that it has submitted, whatever it would submit now.
    own = next((sent.jobs for sent in note.tries if sent.task_key == key), None)
    jobs = tuple(job for job in range(note.n_jobs) if job not in first) if own is None else own
    return Rest(call=note.call, n_jobs=note.n_jobs, jobs=jobs, earlier=earlier)


def everything(*, call: str, n_jobs: int) -> Rest:
    """Return what the first try of a call sends."""
    return Rest(call=call, n_jobs=n_jobs, jobs=tuple(range(n_jobs)))


def pack_jobs(jobs: Sequence[int], n_jobs: int) -> str:
    """Return rising job indices as text: as ranges ("0-6,9") or as bits, whichever is shorter.

    :param jobs: the indices.
    :param n_jobs: number of jobs of the call.
    """
    ranges = ",".join(f"{first}-{last}" if last > first else str(first) for first, last in _ranges(jobs))
    if len(ranges) <= 100:
        return ranges
    flags = bytearray(n_jobs)
    for job in jobs:
        flags[job] = 1
    packed = _PACKED + pack(bytes(flags))
    return min(ranges, packed, key=len)


def _ranges(jobs: Sequence[int]) -> Iterator[tuple[int, int]]:
    if not jobs:
        return
    first = jobs[0]
    for before, job in pairwise(jobs):
        if job != before + 1:
            yield first, before
            first = job
    yield first, jobs[-1]


def unpack_jobs(text: str, n_jobs: int) -> tuple[int, ...]:
    """Return the job indices of :func:`pack_jobs`.

    :raises ValueError: it is no such text.
    """
    if text.startswith(_PACKED):
        try:
            flags = unpack(text.removeprefix(_PACKED), n_jobs)
        except Exception as error:  # of base64, zlib or int
            raise ValueError(f"no packed jobs: {error}") from None
        if len(flags) != n_jobs:
            raise ValueError(f"packed jobs are not of {n_jobs}")
        return tuple(job for job, flag in enumerate(flags) if flag)
    jobs: list[int] = []
    for part in text.split(",") if text else ():
        first, _, last = part.partition("-")
        start, end = int(first), int(last or first)
        if not (jobs[-1] if jobs else -1) < start <= end < n_jobs:
            raise ValueError(f"{part:.40} are no further jobs of {n_jobs}")
        jobs.extend(range(start, end + 1))
    return tuple(jobs)
