"""Finds and kills orphans: what PanDA lists of this instance, judged by what Airflow waits for.

Two at once do no harm, and neither does one that is interrupted: a kill of a killed task is none.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Protocol

from airflow_provider_panda.exceptions import GridError, GridUnreachableError
from airflow_provider_panda.grid.names import key_in, mark_in, processing_type, run_mark
from airflow_provider_panda.grid.task import TaskStatus
from airflow_provider_panda.reaping.orphans import GRACE, Finding, GridTask, Standing, judge, judge_all
from airflow_provider_panda.reaping.witness import Witness

if TYPE_CHECKING:
    from airflow_provider_panda.grid.endpoint import PandaEndpoint
    from airflow_provider_panda.grid.idds.runs import RunClosing
    from airflow_provider_panda.hooks.panda import PandaHook

log = logging.getLogger(__name__)

REACH: Final = timedelta(days=30)
"""How far back PanDA's short listing goes at most (spec/panda_api.yaml)."""

RUNS_BACK: Final = 3 * 86400.0
"""Seconds since the end of a DAG run in which its iDDS request is looked for: each look is a call."""


class Killer(Protocol):
    """A :class:`~airflow_provider_panda.grid.panda.PandaGrid`."""

    def kill(self, task_id: int) -> object:
        """Kill a task."""


class Requests(Protocol):
    """An :class:`~airflow_provider_panda.grid.idds.runs.IddsGrid`."""

    def requests_of_instance(self, instance: str) -> dict[str, int]:
        """Return the ids of an instance's requests by name."""

    def close_ended(self, request_ids: Iterable[int]) -> RunClosing:
        """Close those that are open and whose works have ended."""


@dataclass(kw_only=True)
class Harvest:
    """What a reaper found and did.

    :param findings: live grid tasks of this instance.
    :param killed: those that were killed.
    :param failed: why others were not, by jediTaskID.
    :param closed: iDDS requests of ended DAG runs that were closed.
    :param open_works: such requests that stay open, for their works have not ended.
    :param troubles: what else could not be asked or done.
    :param dry_run: whether nothing was to be done.
    """

    findings: list[Finding] = field(default_factory=list)
    killed: set[int] = field(default_factory=set)
    failed: dict[int, str] = field(default_factory=dict)
    closed: tuple[int, ...] = ()
    open_works: tuple[int, ...] = ()
    troubles: list[str] = field(default_factory=list)
    dry_run: bool = False

    @property
    def good(self) -> bool:
        """Whether everything could be asked and done."""
        return not (self.failed or self.troubles)

    def of(self, standing: Standing) -> list[Finding]:
        """Return what has one standing."""
        return [finding for finding in self.findings if finding.standing is standing]

    def lines(self) -> list[str]:
        """Return a line for each task that is no one's, what went wrong, and the totals."""
        told = []
        for finding in self.findings:
            if finding.standing in (Standing.ORPHAN, Standing.UNKNOWN):
                task = finding.task
                told.append(f"{self._done(finding):<12}{task.task_id} {task.name} ({task.status}): {finding.why}")
        told += [f"wrong       {trouble}" for trouble in self.troubles]
        counts = {standing: len(self.of(standing)) for standing in Standing}
        told.append(
            f"{len(self.findings)} live grid task(s): {counts[Standing.AWAITED]} waited for, "
            f"{counts[Standing.SPARED]} spared, {counts[Standing.ORPHAN]} orphan(s), {counts[Standing.UNKNOWN]} "
            f"unknown; {len(self.killed)} killed, {len(self.failed)} not killed"
        )
        if self.closed or self.open_works:
            told.append(
                f"iDDS requests of ended DAG runs: {len(self.closed)} closed, {len(self.open_works)} left open, for "
                "their works have not ended"
            )
        return told

    def _done(self, finding: Finding) -> str:
        task_id = finding.task.task_id
        if task_id in self.killed:
            return "killed"
        if task_id in self.failed:
            return "not killed"
        return finding.standing.value

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON."""
        return {
            "ok": self.good,
            "dry_run": self.dry_run,
            "tasks": [
                {
                    "task_id": finding.task.task_id,
                    "name": finding.task.name,
                    "status": finding.task.status,
                    "standing": finding.standing.value,
                    "why": finding.why,
                    "killed": finding.task.task_id in self.killed,
                    "error": self.failed.get(finding.task.task_id),
                }
                for finding in self.findings
            ],
            "requests_closed": list(self.closed),
            "requests_left_open": list(self.open_works),
            "troubles": list(self.troubles),
        }


class Reaper:
    """Looks for orphans of one Airflow instance at one PanDA server, as one user.

    :param instance: four characters of this Airflow instance.
    :param listing: returns the tasks of a PanDA processingType that are this user's.
    :param killer: kills.
    :param witness: what Airflow waits for.
    :param requests: iDDS, or None where no task goes through it.
    :param grace: seconds, see :data:`~airflow_provider_panda.reaping.orphans.GRACE`.
    :param clock: Unix time in seconds.
    """

    def __init__(
        self,
        instance: str,
        *,
        listing: Callable[[str], Collection[TaskStatus]],
        killer: Killer,
        witness: Witness,
        requests: Requests | None = None,
        grace: float = GRACE,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._instance = instance
        self._listing, self._killer, self._witness, self._requests = listing, killer, witness, requests
        self._grace, self._clock = grace, clock

    def reap(self, *, dry_run: bool = False, unknown: bool = False) -> Harvest:
        """Find orphans and kill them.

        :param dry_run: find them only.
        :param unknown: kill as well what has a key of this instance that Airflow does not know.
        :raises PandaProviderError: PanDA or Airflow cannot be asked; nothing was killed.
        """
        # PanDA first, then Airflow: of whatever is submitted in between, nothing is known here that could be killed.
        tasks = self._live_tasks()
        attempts = self._witness.attempts(tasks) if tasks else {}
        present = self._witness.present({attempt.place for attempt in attempts.values()})
        findings = judge_all(tasks, attempts, present, now=self._clock(), grace=self._grace)
        harvest = Harvest(findings=findings, dry_run=dry_run)
        if not dry_run:
            self._kill(harvest, [Standing.ORPHAN, Standing.UNKNOWN] if unknown else [Standing.ORPHAN], attempts)
            self._close_requests(harvest)
        return harvest

    def _live_tasks(self) -> list[GridTask]:
        found = []
        for status in self._listing(processing_type(self._instance)):
            key = key_in(status.name, self._instance)
            if key is not None and not status.phase.terminal:
                found.append(
                    GridTask(
                        task_id=status.task_id, name=status.name, key=key, status=status.status, created=status.created
                    )
                )
        return found

    def _kill(self, harvest: Harvest, standings: Collection[Standing], attempts: Any) -> None:
        unreachable = 0
        for number, finding in enumerate(harvest.findings):
            if finding.standing not in standings:
                continue
            task = finding.task
            # Once more, for the first look may be minutes old by now.
            present = None
            if finding.place is not None:
                present = self._witness.present([finding.place]).get(finding.place)
                again = judge(task, attempts[task.key], present, now=self._clock(), grace=self._grace)
                harvest.findings[number] = again
                if again.standing not in standings:
                    continue
            try:
                self._killer.kill(task.task_id)
            except GridError as error:
                harvest.failed[task.task_id] = str(error)
                unreachable = unreachable + 1 if isinstance(error, GridUnreachableError) else 0
                if unreachable >= 3:
                    harvest.troubles.append(f"PanDA is not there any more, the rest is left: {error}")
                    return
            else:
                unreachable = 0
                harvest.killed.add(task.task_id)
                log.info("%s: PanDA task %d killed: %s", task.key, task.task_id, finding.why)

    def _close_requests(self, harvest: Harvest) -> None:
        """Close what DAG runs left open that have ended; of runs that Airflow does not know, nothing is touched."""
        if self._requests is None:
            return
        try:
            # Before Airflow is asked: the request of a run that is cleared right now is then not in the list yet.
            listed = self._requests.requests_of_instance(self._instance)
            if not listed:
                return
            runs = self._witness.ended_runs(self._clock() - RUNS_BACK)
            ended = {run_mark(self._instance, dag_id, run_id) for dag_id, run_id in runs}
            closing = self._requests.close_ended(
                sorted(request_id for name, request_id in listed.items() if mark_in(name, self._instance) in ended)
            )
        except GridError as error:
            harvest.troubles.append(f"iDDS requests could not be looked at: {error}")
        else:
            harvest.closed, harvest.open_works = closing.closed, closing.waiting


def all_tasks(endpoint: PandaEndpoint, kind: str) -> list[TaskStatus]:
    """Return all tasks of a PanDA processingType that are this user's, however many.

    :raises GridError: PanDA cannot be asked.
    """
    from airflow_provider_panda.grid.loop import loop_thread
    from airflow_provider_panda.grid.panda import TASKS_AT_ONCE
    from airflow_provider_panda.grid.watch import AsyncPandaClient

    async def listed() -> list[TaskStatus]:
        client = AsyncPandaClient(endpoint)
        try:
            found = {task.task_id: task for task in await client.statuses(kind)}
            if len(found) >= TASKS_AT_ONCE:
                brief = await client.brief_statuses(kind, since=datetime.now(UTC) - REACH)
                found = {**{task.task_id: task for task in brief}, **found}
            return list(found.values())
        finally:
            await client.aclose()

    return loop_thread().wait_for(listed)


def reaper_of(hook: PandaHook, instance: str, witness: Witness, *, grace: float = GRACE) -> Reaper:
    """Return the reaper of a PanDA connection.

    :raises ConfigurationError: a field of it is wrong.
    """
    connection = hook.get_conn()
    return Reaper(
        instance,
        listing=lambda kind: all_tasks(connection.endpoint, kind),
        killer=hook.grid(),
        witness=witness,
        requests=hook.idds_grid() if connection.service == "idds" else None,
        grace=grace,
    )
