"""Tasks on PanDA itself: submit, look up, read results, kill, retry, secrets."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

from airflow_provider_panda.exceptions import (
    GridAnswerTooLargeError,
    GridError,
    GridRefusedError,
    GridServerError,
    TaskNotFoundError,
)
from airflow_provider_panda.grid import answers
from airflow_provider_panda.grid.answers import Answer, KillOutcome, Stored
from airflow_provider_panda.grid.client import PandaClient, panda_client
from airflow_provider_panda.grid.endpoint import PandaEndpoint
from airflow_provider_panda.grid.parameters import GridDefaults, task_parameters
from airflow_provider_panda.grid.retry import PATIENT, RetryPolicy, again, passes_by_itself
from airflow_provider_panda.grid.task import JobRecord, Phase, TaskSpec, TaskStatus

log = logging.getLogger(__name__)

T = TypeVar("T")

JOBS_AT_ONCE: Final = 100
"""Job descriptions in one request: 5 kB each, and up to 1 MiB more with a job report."""

TASKS_AT_ONCE: Final = 500
"""Tasks in one listing: 10 kB and 20 ms of the server each (facts/panda.md section 10)."""

KILL_POLICY: Final = RetryPolicy(attempts=6, first=2.0, longest=8.0)
"""A kill right after a submission is refused until JEDI knows the task, up to 15 s (facts/panda.md section 3)."""


class PandaGrid:
    """The tasks of one identity on one PanDA server. Safe to use from many threads at once.

    :param endpoint: where and who.
    :param defaults: what the connection gives to tasks that do not say it.
    :param policy: how often a call is made that failed for a reason that may pass.
    :param kill_policy: the same for kills of tasks that PanDA does not know yet.
    :param pause: waits for the seconds given.
    """

    def __init__(
        self,
        endpoint: PandaEndpoint,
        *,
        defaults: GridDefaults | None = None,
        policy: RetryPolicy | None = None,
        kill_policy: RetryPolicy = KILL_POLICY,
        pause: Callable[[float], object] = time.sleep,
    ) -> None:
        self.endpoint = endpoint
        self.defaults = defaults or GridDefaults()
        self._policy = policy or PATIENT
        self._kill_policy = kill_policy
        self._pause = pause

    @property
    def _client(self) -> PandaClient:
        return panda_client(self.endpoint)

    @property
    def cache_url(self) -> str:
        """Base URL of the cache."""
        return self._client.cache_url

    @property
    def owner(self) -> str | None:
        """The user's name as PanDA writes it, from the token; None where it cannot be told, as with a proxy."""
        return self._client.user_name()

    @property
    def user_name(self) -> str:
        """Owner of new tasks; the server puts a plain user's own name in its place."""
        return self.owner or "airflow"

    def _read(self, function: str, *args: object, **kwargs: object) -> Answer:
        """Make a call that changes nothing, again where that helps."""
        return self._again(function, lambda: self._client.call(function, *args, **kwargs))

    def _again(self, what: str, action: Callable[[], T]) -> T:
        return again(self._policy, f"PanDA call {what}", action, pause=self._pause)

    # --- before and at submission ---

    def ping(self) -> None:
        """Check that a PanDA server answers (system/is_alive, open to anyone)."""
        answers.granted(self._client.call("hello"))

    def upload(self, name: str, content: bytes) -> None:
        """Put a file into the cache; one that is there by that name is taken for the same.

        :param name: name that holds a hash of the content, such as ``sources.<sha256>.tar.gz``.
        :param content: its bytes.
        :raises GridError: it is not there afterwards.
        """

        def attempt() -> Stored:
            return answers.stored(self._client.upload(name, content))

        outcome = self._again(f"upload {name}", attempt)
        if outcome is Stored.UNCERTAIN:
            if not self._again(f"look for {name}", lambda: self._client.in_cache(name)):
                raise GridServerError(
                    f"PanDA could not register {name}, and it is not in the cache. Try again",
                    url=self.archive_url(name),
                    status=200,
                )
            log.info("PanDA stored %s, though it could not register it", name)
        else:
            log.debug("%s in the cache: %s", name, outcome.value)

    def archive_url(self, name: str) -> str:
        """Return the URL of a file in the cache."""
        return f"{self.cache_url}/cache/{name}"

    def submit(self, spec: TaskSpec) -> int:
        """Submit a task once, and return its jediTaskID.

        Made again, or after a lost reply, it returns the id of the task of that name.

        :raises GridRefusedError: PanDA does not take it.
        :raises GridError: no usable answer, also after further attempts.
        """
        parameters = task_parameters(
            spec,
            vo=self.endpoint.vo,
            source_url=self.cache_url,
            defaults=self.defaults,
            user_name=self.user_name,
        )
        return self.submit_parameters(parameters, key=spec.key)

    def submit_parameters(self, parameters: dict[str, Any], *, key: str) -> int:
        """Submit a task parameter map once, and return its jediTaskID.

        Made again, or after a lost reply, it returns the id of the task of that name.

        :param parameters: complete map for PanDA API v1 task/submit; its taskName is unique and ``uniqueTaskName`` set.
        :param key: task key, for the log.
        :raises GridRefusedError: PanDA does not take it.
        :raises GridError: no usable answer, also after further attempts.
        """

        def attempt() -> int:
            # First of all, for an ended task of that name would be taken up again by a submission.
            known = self._sole(parameters["taskName"], parameters["processingType"])
            if known is not None:
                log.info("%s: PanDA has the task already: %d (%s)", key, known.task_id, known.status)
                return known.task_id
            answer = self._client.call("insertTaskParams", parameters)
            task_id = answers.submitted(answer)
            log.info("%s: PanDA task %d: %s", key, task_id, answers.plain_text(answer.message))
            return task_id

        return self._again(f"submit of {key}", attempt)

    def set_secret(self, name: str, value: str | None) -> None:
        """Store a secret of the user with PanDA, or delete it with None."""
        self._again("set_user_secret", lambda: answers.granted(self._client.call("set_user_secret", name, value)))

    def secrets(self) -> dict[str, str]:
        """Return the user's secrets."""
        return answers.user_secrets(self._read("get_user_secrets_internal"))

    # --- while it runs ---

    def find(self, name: str, *, processing_type: str | None = None) -> TaskStatus | None:
        """Return the task of that name (:func:`winner`), or None; PanDA lists it some seconds after its submission.

        :param processing_type: narrows the search; worth giving for names with dots and other signs of regular
            expressions, which the server matches slowly and among the first 500 tasks only.
        """
        return self._again(f"find {name}", lambda: winner(self._listed(name, processing_type)))

    def sole(self, name: str, *, processing_type: str | None = None) -> TaskStatus | None:
        """Return the task of that name as :meth:`find` does, and kill any other of that name.

        PanDA looks for the name before it inserts a task: two submissions at the same moment may both be taken.

        :param processing_type: see :meth:`find`.
        """
        return self._again(f"find {name}", lambda: self._sole(name, processing_type))

    def _sole(self, name: str, processing_type: str | None) -> TaskStatus | None:
        listed = self._listed(name, processing_type)
        chosen = winner(listed)
        for task in listed:
            if task is chosen or task.phase.terminal:
                continue
            try:
                outcome = answers.killed(self._client.call("killTask", task.task_id))
                log.warning("%s: PanDA took it twice; kill of task %d: %s", name, task.task_id, outcome.value)
            except GridError as error:
                log.warning("%s: PanDA took it twice; task %d was not killed: %s", name, task.task_id, error)
        return chosen

    def _listed(self, name: str, processing_type: str | None) -> list[TaskStatus]:
        filters = {"taskName": name}
        if processing_type:
            filters["processingType"] = processing_type
        answer = self._client.call("get_tasks_detailed_info_since", None, filters, TASKS_AT_ONCE)
        return answers.task_statuses(answer, taskName=name)

    def statuses(self, processing_type: str, *, since: datetime | None = None) -> list[TaskStatus]:
        """Return the tasks of one kind in one request.

        :param processing_type: PanDA processingType.
        :param since: bound on PanDA's modificationTime, which may lag an hour and more: leave a day's margin.
        """
        answer = self._read(
            "get_tasks_detailed_info_since", utc_text(since), {"processingType": processing_type}, TASKS_AT_ONCE
        )
        return answers.task_statuses(answer, processingType=processing_type)

    def status(self, task_id: int) -> TaskStatus:
        """Return the state of one task.

        :raises TaskNotFoundError: PanDA does not know it: normal for a minute after its submission.
        """
        return answers.one_task(self._read("get_task_details_json", task_id), task_id)

    def job_ids(self, task_id: int) -> list[int]:
        """Return the sorted PandaIDs of a task, of all attempts."""
        return answers.job_ids(self._read("getPandaIDsWithTaskID", task_id))

    def output_datasets(self, task_id: int) -> list[str]:
        """Return the names of a task's output datasets, without those of logs."""
        return answers.dataset_names(self._read("get_files_in_datasets", task_id, "output"))

    def record_batches(self, task_id: int) -> Iterator[list[JobRecord]]:
        """Yield the jobs of a task, all attempts, with the reports of finished ones: never all of them at once."""
        for batch in batches(self.job_ids(task_id), JOBS_AT_ONCE):
            yield self._described(batch)

    def jobs(self, task_id: int, panda_ids: Sequence[int] | None = None) -> list[JobRecord]:
        """Return the jobs of a task, all attempts, or those of the PandaIDs given."""
        if panda_ids is None:
            panda_ids = self.job_ids(task_id)
        return [record for batch in batches(panda_ids, JOBS_AT_ONCE) for record in self._described(batch)]

    def reports(self, task_id: int, panda_ids: Sequence[int] | None = None) -> list[JobRecord]:
        """Return those jobs of a task that left a report (``jobReport.json``; finished jobs only)."""
        return [record for record in self.jobs(task_id, panda_ids) if record.report is not None]

    def _described(self, panda_ids: Sequence[int]) -> list[JobRecord]:
        try:
            found = answers.job_records(self._read("getJobStatus_internal", list(panda_ids)))
            missing = sorted(set(panda_ids) - {record.panda_id for record in found})
            if missing:  # older than a few days: in the archive
                found += answers.job_records(self._read("getFullJobStatus_internal", missing))
        except GridAnswerTooLargeError:
            if len(panda_ids) == 1:
                raise
            return [record for half in halves(panda_ids) for record in self._described(half)]
        return found

    def kill(self, task_id: int) -> KillOutcome:
        """Kill a task.

        :raises TaskNotFoundError: PanDA does not know the task for longer than a registration takes, or it is
            another user's.
        """

        def attempt() -> KillOutcome:
            return answers.killed(self._client.call("killTask", task_id))

        outcome = again(
            self._kill_policy,
            f"kill of PanDA task {task_id}",
            attempt,
            worth=lambda error: isinstance(error, TaskNotFoundError) or passes_by_itself(error),
            pause=self._pause,
        )
        log.info("kill of PanDA task %d: %s", task_id, outcome.value)
        return outcome

    def retry(self, task_id: int) -> None:
        """Let PanDA run the failed jobs of a task again.

        :raises GridRefusedError: it does not in the task's present state (a done task has nothing to retry).
        """
        # Made once: a second one after a lost reply would raise the attempts of the failed jobs twice.
        answers.retried(self._client.call("retryTask", task_id))

    def check(self) -> str:
        """Try the connection, and return what was found in one sentence.

        :raises GridError: what is wrong and what to do.
        """
        self.ping()
        try:
            answers.granted(
                self._client.call("get_tasks_detailed_info_since", None, {"taskName": "airflow_panda_check"}, 1)
            )
        except GridRefusedError as error:
            raise GridRefusedError(
                f"PanDA is alive, but an authenticated read failed: {error}", url=error.url
            ) from None
        return f"PanDA at {self.endpoint.url} is alive and accepts the credentials"


def winner(tasks: Sequence[TaskStatus]) -> TaskStatus | None:
    """Return which task of one name counts: the oldest, unless it failed or was killed and another did not."""
    lost = (Phase.FAILED, Phase.KILLED)
    return min(tasks, key=lambda task: (task.phase in lost, task.task_id), default=None)


def utc_text(moment: datetime | None) -> str | None:
    """Return a moment as PanDA's listings take it."""
    return None if moment is None else moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Yield parts of at most ``size``."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def halves(numbers: Sequence[int]) -> tuple[Sequence[int], Sequence[int]]:
    """Return both halves."""
    middle = len(numbers) // 2
    return numbers[:middle], numbers[middle:]
