"""The two ways of a task to the grid: directly to PanDA, or through iDDS as a work of the DAG run's request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from airflow_provider_panda import configuration
from airflow_provider_panda.exceptions import TaskNotFoundError
from airflow_provider_panda.grid.names import secret_name
from airflow_provider_panda.hooks.panda import PandaConnection, PandaHook
from airflow_provider_panda.payload.command import Environment, job_command, wrapped_command
from airflow_provider_panda.payload.package import Archive
from airflow_provider_panda.triggers.ids import CONNECTION_KEY, REQUEST_ID_KEY

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_panda.grid.idds.runs import DagRun
    from airflow_provider_panda.grid.task import TaskSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A task that was taken.

    :param task_name: name that its PanDA task has or will have.
    :param task_id: jediTaskID; None while iDDS has not submitted it.
    :param request_id: iDDS request, where it went through iDDS.
    :param transform_id: iDDS transform, likewise.
    """

    task_name: str
    task_id: int | None = None
    request_id: int | None = None
    transform_id: int | None = None

    def __str__(self) -> str:
        if self.request_id is None:
            return f"PanDA task {self.task_id}"
        if self.transform_id is None:
            return f"iDDS request {self.request_id}"
        return f"iDDS request {self.request_id}, transform {self.transform_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A task that was found by its name.

    :param submission: its ids.
    :param status: its state, PanDA's own word; empty while PanDA does not know it.
    """

    submission: Submission
    status: str


class Way(Protocol):
    """One way to the grid."""

    def command(self, archive: Archive, key: str, environment: Environment) -> str:
        """Return what runs on the worker node."""

    def submit(self, spec: TaskSpec, known: Submission | None = None) -> Submission:
        """Submit a task once, however often it is called; one that is known is there already."""


class Directly:
    """To PanDA.

    :param hook: the PanDA connection's hook.
    :param connection: its fields.
    """

    def __init__(self, hook: PandaHook, connection: PandaConnection) -> None:
        self._hook, self._connection = hook, connection

    def command(self, archive: Archive, key: str, environment: Environment) -> str:
        """Return the line that fetches the archive and runs it."""
        connection = self._connection
        instance = configuration.instance(connection.instance_secret, conn_id=connection.conn_id)
        return job_command(
            archive=archive,
            cache_url=connection.endpoint.cache_url or connection.endpoint.url,
            task_key=key,
            environment=environment,
            secret_name=secret_name(instance) if connection.signing == "secret" else None,
            result_store=connection.result_store,
        )

    def submit(self, spec: TaskSpec, known: Submission | None = None) -> Submission:
        """Submit a task to PanDA."""
        if known is not None:
            return known
        return Submission(task_name=spec.name, task_id=self._hook.grid().submit(spec))


class ThroughIdds:
    """As a work of the DAG run's request at iDDS.

    :param hook: the PanDA connection's hook.
    :param connection: its fields.
    :param context: of the task instance.
    """

    def __init__(self, hook: PandaHook, connection: PandaConnection, context: Context) -> None:
        self._hook, self._connection, self._context = hook, connection, context

    def command(self, archive: Archive, key: str, environment: Environment) -> str:
        """Return what iDDS's wrapper puts before its own script."""
        return wrapped_command(
            archive=archive, task_key=key, environment=environment, result_store=self._connection.result_store
        )

    def submit(self, spec: TaskSpec, known: Submission | None = None) -> Submission:
        """Find or make the run's request, and add the task to it."""
        connection, ti = self._connection, self._context["ti"]
        grid, run = self._hook.idds_grid(), dag_run(connection, self._context)
        request_id = known.request_id if known is not None else None
        if request_id is None:
            request_id = grid.request_for(run, spec.key)
        # Before anything is in it: whatever happens to this worker, the end of the run finds and closes it.
        ti.xcom_push(REQUEST_ID_KEY, request_id)
        ti.xcom_push(CONNECTION_KEY, connection.conn_id)
        if known is not None:
            return known
        submitted = grid.submit(spec, run, request_id)
        return Submission(
            task_name=submitted.task_name, request_id=submitted.request_id, transform_id=submitted.transform_id
        )


def dag_run(connection: PandaConnection, context: Context) -> DagRun:
    """Return the DAG run of a task instance as iDDS is told of it."""
    from airflow_provider_panda.grid.idds.runs import DagRun, generation_of

    ti = context["ti"]
    return DagRun(
        instance=configuration.instance(connection.instance_secret, conn_id=connection.conn_id),
        dag_id=ti.dag_id,
        run_id=ti.run_id,
        generation=generation_of(context["dag_run"].start_date),
    )


def way_of(hook: PandaHook, connection: PandaConnection, context: Context) -> Way:
    """Return the way that a connection's tasks go."""
    if connection.service == "idds":
        return ThroughIdds(hook, connection, context)
    return Directly(hook, connection)


def find_directly(hook: PandaHook, name: str, kind: str | None) -> Found | None:
    """Return the task of that name at PanDA, if it lists one.

    :param name: PanDA task name.
    :param kind: its processingType.
    :raises GridError: PanDA cannot be asked.
    """
    task = hook.grid().sole(name, processing_type=kind)
    if task is None:
        return None
    return Found(submission=Submission(task_name=name, task_id=task.task_id), status=task.status)


def find_through_idds(hook: PandaHook, context: Context, name: str) -> Found | None:
    """Return the task that was added by that name to a request of the DAG run, if there is one.

    :param name: name of the work, with which its PanDA task's begins.
    :raises GridError: iDDS or PanDA cannot be asked.
    """
    from airflow_provider_panda.grid.idds.runs import panda_task_name

    grid = hook.idds_grid()
    found = grid.find(dag_run(hook.get_conn(), context), name)
    if found is None:
        return None
    request_id, transform = found
    submission = Submission(
        task_name=panda_task_name(name, request_id, transform.transform_id),
        task_id=transform.task_id,
        request_id=request_id,
        transform_id=transform.transform_id,
    )
    if transform.task_id is None:
        # One that ended without a task has failed, whatever iDDS calls it.
        return Found(submission=submission, status="failed" if transform.ended else "")
    try:
        status = grid.panda.status(transform.task_id).status
    except TaskNotFoundError:  # not registered yet
        status = ""
    return Found(submission=submission, status=status)


def kill(hook: PandaHook, submission: Submission) -> bool:
    """Kill a task at PanDA, waiting for iDDS to submit it where it has not; return whether there was one to kill.

    :raises GridError: it cannot be killed.
    """
    from airflow_provider_panda.grid.answers import KillOutcome

    if submission.task_id is not None:
        return hook.grid().kill(submission.task_id) is KillOutcome.REGISTERED
    if submission.request_id is None or submission.transform_id is None:
        return False
    return hook.idds_grid().kill(submission.request_id, submission.transform_id) is KillOutcome.REGISTERED
