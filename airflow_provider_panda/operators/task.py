"""Run a PanDA task that is no Python function: a task parameter map, or a shell command in the way of ``prun``."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from airflow.providers.common.compat.sdk import AirflowFailException, BaseOperator

from airflow_provider_panda import configuration
from airflow_provider_panda.exceptions import ConfigurationError
from airflow_provider_panda.grid.command import (
    CommandSpec,
    check_command,
    check_dataset,
    check_outputs,
    command_parameters,
    output_datasets,
)
from airflow_provider_panda.grid.completion import check_parameters, complete_parameters
from airflow_provider_panda.grid.names import processing_type, task_name
from airflow_provider_panda.grid.sandbox import Sandbox, build_sandbox
from airflow_provider_panda.grid.task import Resources, task_key
from airflow_provider_panda.hooks.panda import PandaConnection, PandaHook
from airflow_provider_panda.links import PandaTaskLink
from airflow_provider_panda.operators import parameters, submission
from airflow_provider_panda.operators.earlier import Left, digest_of
from airflow_provider_panda.operators.outcome import task_value, tasks_error
from airflow_provider_panda.operators.submission import Begun, Draft
from airflow_provider_panda.operators.underway import Underway
from airflow_provider_panda.operators.way import Submission
from airflow_provider_panda.triggers.event import Outcome
from airflow_provider_panda.triggers.task import PandaTaskTrigger, TasksEvent

if TYPE_CHECKING:
    from os import PathLike

    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_panda.grid.panda import PandaGrid

OUTPUTS_KEY = "panda_output_datasets"
"""XCom key of the output datasets as they were submitted."""

_COMMAND_ONLY = (
    "inputs", "n_files", "files_per_job", "outputs", "output_dataset", "destination", "container", "files", "n_jobs",
    "core_count", "memory_mb", "walltime", "priority", "max_attempt",
)  # fmt: skip


class PandaTaskOperator(BaseOperator):
    """Run a PanDA task and return what became of it: ids, state, file counts and output datasets.

    Give either ``task_parameters`` or ``command`` (docs/tasks.md).

    :param task_parameters: PanDA's task parameter map (templated); what JEDI needs and it lacks is added.
    :param command: shell lines that every job runs (templated). ``$IN`` holds the names of the job's input files,
        ``$PANDA_JOB`` the number of a job without inputs, from 0; ``$PANDA_ATTEMPT`` its attempt, from 1.
    :param inputs: name or names of input datasets (templated).
    :param n_files: input files used in all; default: all of them.
    :param files_per_job: input files of one job; default: PanDA's choice.
    :param outputs: names of files that every job makes in its working directory (templated); they are kept under
        names of their own on the grid. A name with ``*`` stands for many files, kept as one tar file.
    :param output_dataset: base name of the output datasets, such as ``user.nickname.study.{{ ds_nodash }}``
        (templated); default: after the task, not registered with data management.
    :param destination: storage to which registered outputs go.
    :param container: image that the jobs run in (templated).
    :param files: local files and directories that every job finds in its working directory (templated); relative
        paths start from the folder of the DAG file.
    :param n_jobs: number of jobs, without inputs.
    :param panda_conn_id: connection of type ``panda``.
    :param queue: PanDA queue; default: that of the connection. (The queue of Airflow's executor is ``airflow_queue``.)
    :param cloud: PanDA cloud; default: that of the connection.
    :param working_group: PanDA working group; default: that of the connection.
    :param core_count: cores of a job.
    :param memory_mb: memory of a job in MB.
    :param walltime: time limit of a job, in seconds or as a timedelta.
    :param priority: PanDA priority.
    :param max_attempt: attempts of a job.
    :param success_states: task states that are a success: "done" (every job succeeded), "finished" (some did).
    :param deadline: time from submission after which the task is killed and this one fails, in seconds or as a
        timedelta; default: ``execution_timeout``, which Airflow itself does not apply to a deferred task.
    :param airflow_queue: queue of Airflow's executor, where that matters.
    :raises ConfigurationError: an argument is wrong.
    """

    template_fields: Sequence[str] = (
        "task_parameters", "command", "inputs", "outputs", "output_dataset", "container", "files", "panda_conn_id",
        "panda_queue", "cloud", "working_group",
    )  # fmt: skip
    template_fields_renderers: ClassVar[dict[str, str]] = {"task_parameters": "json", "command": "bash"}
    operator_extra_links = (PandaTaskLink(),)
    ui_color = "#dcebf7"

    def __init__(
        self,
        *,
        task_parameters: Mapping[str, Any] | None = None,
        command: str | None = None,
        inputs: str | Sequence[str] | None = None,
        n_files: int | None = None,
        files_per_job: int | None = None,
        outputs: str | Sequence[str] | None = None,
        output_dataset: str | None = None,
        destination: str | None = None,
        container: str | None = None,
        files: Sequence[str | PathLike[str]] | None = None,
        n_jobs: int | None = None,
        panda_conn_id: str = PandaHook.default_conn_name,
        queue: str | None = None,
        cloud: str | None = None,
        working_group: str | None = None,
        core_count: int | None = None,
        memory_mb: int | None = None,
        walltime: float | timedelta | None = None,
        priority: int | None = None,
        max_attempt: int | None = None,
        success_states: Sequence[str] = ("done",),
        deadline: float | timedelta | None = None,
        panda_queue: str | None = None,
        airflow_queue: str | None = None,
        **kwargs: Any,
    ) -> None:
        if airflow_queue is not None:
            kwargs["queue"] = airflow_queue
        super().__init__(**kwargs)
        self.task_parameters = task_parameters
        self.command = command
        self.inputs = [inputs] if isinstance(inputs, str) else inputs
        self.n_files = _positive_or_none("n_files", n_files)
        self.files_per_job = _positive_or_none("files_per_job", files_per_job)
        self.outputs = [outputs] if isinstance(outputs, str) else outputs
        self.output_dataset = output_dataset
        self.destination = destination
        self.container = container
        self.files = files
        self.n_jobs = _positive_or_none("n_jobs", n_jobs)
        self.panda_conn_id = panda_conn_id
        self.panda_queue = queue or panda_queue
        self.cloud = cloud
        self.working_group = working_group
        self.core_count = _positive_or_none("core_count", core_count)
        self.memory_mb = _positive_or_none("memory_mb", memory_mb)
        self.walltime = parameters.duration("walltime", walltime)
        self.priority = priority
        self.max_attempt = _positive_or_none("max_attempt", max_attempt)
        self.success_states = parameters.task_states("success_states", success_states, terminal=True)
        self.deadline = parameters.duration("deadline", deadline)
        self._check()
        self._underway: Underway | None = None
        self._airflow_ended = False

    def _check(self) -> None:
        """Refuse what can be told to be wrong before templates are rendered."""
        if (self.task_parameters is None) == (self.command is None):
            raise ConfigurationError(
                "arguments task_parameters and command", "exactly one of them is needed", "Give one of them"
            )
        if self.command is None:
            given = [name for name in _COMMAND_ONLY if getattr(self, name) is not None]
            if given:
                raise ConfigurationError(
                    f"argument {given[0]}", "it goes with command=", "Write it into the task parameter map"
                )
            if isinstance(self.task_parameters, Mapping):
                check_parameters(self.task_parameters)
            return
        if isinstance(self.command, str):
            check_command(self.command)
        if self.inputs is not None and self.n_jobs is not None:
            raise ConfigurationError(
                "argument n_jobs", "inputs decide how many jobs there are", "Use files_per_job and n_files with inputs"
            )
        for name in ("n_files", "files_per_job"):
            if self.inputs is None and getattr(self, name) is not None:
                raise ConfigurationError(f"argument {name}", "there are no inputs", "Give inputs=, or use n_jobs")
        if self.destination is not None and self.output_dataset is None:
            raise ConfigurationError(
                "argument destination", "there is no output_dataset to send", "Give output_dataset= with it"
            )
        check_outputs(_plain(self.outputs))
        for argument in ("inputs", "output_dataset"):
            value = getattr(self, argument)
            for name in _plain([value] if isinstance(value, str) else value):
                check_dataset(argument, name)

    # --- way out ------------------------------------------------------------------------------------------------

    def execute(self, context: Context) -> Any:
        """Submit and defer."""
        hook = PandaHook(self.panda_conn_id)
        try:
            connection = hook.get_conn()
            instance = configuration.instance(connection.instance_secret, conn_id=self.panda_conn_id)
            kind = processing_type(instance)
            sandbox = self._sandbox() if self.files else None
            begun = submission.begin(
                context,
                own_key=task_key(instance, str(context["ti"].id)),
                draft=lambda key: self._draft(
                    context, connection, hook.grid(), key, processing_type(instance), sandbox
                ),
                reach=submission.reach_of_tasks(hook, context, self.success_states),
            )
        except ConfigurationError as error:
            # The same try would end the same way: no retries.
            raise AirflowFailException(str(error)) from error
        key, wanted = begun.note.key, begun.content
        task_id = self._submit(hook, begun, sandbox, context)
        submitted = Submission(task_name=begun.note.name, task_id=task_id)
        submission.tell_submission(context, connection, key=key, submission=submitted)
        context["ti"].xcom_push(OUTPUTS_KEY, output_datasets(wanted))
        submission.deferring(context, begun.note, submitted)
        self.log.info("%s: submitted as %s (%s); waiting without a worker", key, submitted, wanted["taskName"])
        self._stop_watching()
        return self._defer(key, task_id, kind if wanted["processingType"] == kind else None)

    def _draft(
        self,
        context: Context,
        connection: PandaConnection,
        grid: PandaGrid,
        key: str,
        kind: str,
        sandbox: Sandbox | None,
    ) -> Draft[dict[str, Any]]:
        """Return the task parameter map under a key."""
        wanted = self._parameters(context, connection, grid, key, kind, sandbox)
        note = Left(
            key=key,
            by=key,
            name=wanted["taskName"],
            kind=wanted["processingType"],
            server=connection.endpoint.url,
            through_idds=False,
            digest=digest_of(wanted),
        )
        return Draft(note=note, content=wanted)

    def _submit(self, hook: PandaHook, begun: Begun[dict[str, Any]], sandbox: Sandbox | None, context: Context) -> int:
        """Upload and submit what is not there yet; from here on :meth:`on_kill` has something to kill."""
        key, grid = begun.note.key, hook.grid()
        reach = submission.reach_of_tasks(hook, context, ())
        underway = self._underway = submission.watched(context, begun.note, reach)
        if self._airflow_ended:
            underway.give_up()
        task_id = None if begun.known is None else begun.known.task_id
        if task_id is None and sandbox is not None:
            self.log.info("%s: packed %d file(s) as %s", key, len(sandbox.members), sandbox.name)
            underway.go_on()
            grid.upload(sandbox.name, sandbox.content)
        underway.sending()
        if task_id is None:
            task_id = grid.submit_parameters(begun.content, key=key)
        underway.taken(Submission(task_name=begun.note.name, task_id=task_id))
        return task_id

    def _stop_watching(self) -> None:
        """Leave the grid task to whoever waits for it."""
        underway, self._underway = self._underway, None
        if underway is not None:
            underway.go_on()

    def _sandbox(self) -> Sandbox:
        folder = getattr(self.get_dag(), "folder", None)
        return build_sandbox(self.files or (), base=Path(folder) if folder else None)

    def _parameters(
        self,
        context: Context,
        connection: PandaConnection,
        grid: PandaGrid,
        key: str,
        kind: str,
        sandbox: Sandbox | None,
    ) -> dict[str, Any]:
        ti = context["ti"]
        name = task_name(ti.dag_id, ti.task_id, ti.run_id, key)
        resources = Resources(
            queue=self.panda_queue or connection.queue,
            cloud=self.cloud or connection.cloud,
            working_group=self.working_group or connection.working_group,
            core_count=self.core_count or 1,
            memory_mb=self.memory_mb,
            walltime=self.walltime,
            priority=900 if self.priority is None else self.priority,
            max_attempt=self.max_attempt or 3,
        )
        common: dict[str, Any] = {
            "vo": connection.endpoint.vo,
            "source_url": grid.cache_url,
            "defaults": connection.defaults,
            "user_name": grid.user_name,
        }
        if self.command is not None:
            spec = CommandSpec(
                key=key,
                name=name,
                command=self.command,
                n_jobs=self.n_jobs or 1,
                inputs=tuple(self.inputs or ()),
                files_per_job=self.files_per_job,
                n_files=self.n_files,
                outputs=tuple(self.outputs or ()),
                output_dataset=self.output_dataset or None,
                destination=self.destination,
                container=self.container or None,
                sandbox=sandbox,
                resources=resources,
                processing_type=kind,
            )
            return command_parameters(spec, **common)
        given = dict(check_parameters(self.task_parameters))
        named = {"site": self.panda_queue, "cloud": self.cloud, "workingGroup": self.working_group}
        given.update({field: value for field, value in named.items() if value})
        return complete_parameters(given, key=key, name=name, processing_type=kind, **common)

    def _defer(self, key: str, task_id: int, kind: str | None) -> NoReturn:
        limit = self.deadline if self.deadline is not None else self.execution_timeout
        self.defer(
            trigger=PandaTaskTrigger(
                panda_conn_id=self.panda_conn_id,
                task_ids=[task_id],
                states=self.success_states,
                task_key=key,
                processing_type=kind,
                deadline=None if limit is None else time.time() + limit.total_seconds(),
                not_before=time.time() + configuration.settle_time(),
            ),
            method_name="execute_complete",
        )

    def on_kill(self) -> None:
        """Kill the grid task if this worker is ended between submission and deferral."""
        self._airflow_ended = True
        if self._underway is not None:
            self._underway.end()

    # --- way back -----------------------------------------------------------------------------------------------

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """Return what became of the task, or raise why it is no success."""
        came = TasksEvent.from_json(event)
        key = came.task_key or self.task_id
        hook = PandaHook(self.panda_conn_id)
        grid = hook.grid()
        if came.outcome is Outcome.COMPLETE:
            (task,) = came.tasks
            value = task_value(task, grid, planned=self._planned(context))
            self.log.info("%s: PanDA task %d is %s: %s", key, task.task_id, task.status, value["files"])
            return value
        if came.outcome is Outcome.DEADLINE:
            for task_id in (*(task.task_id for task in came.tasks), *came.unknown):
                submission.end_quietly(hook, Submission(task_name="", task_id=task_id), key=key)
        raise tasks_error(came, accepted=self.success_states, grid=grid, key=key)

    def _planned(self, context: Context) -> list[str]:
        ti = context["ti"]
        planned = ti.xcom_pull(task_ids=ti.task_id, key=OUTPUTS_KEY, map_indexes=ti.map_index)
        return planned if isinstance(planned, list) else []

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Resume; where Airflow itself fails the task ("__fail__"), nobody waits for the grid task: kill it."""
        if next_method == "__fail__":
            submission.end_unwatched(context, PandaHook(self.panda_conn_id))
        return super().resume_execution(next_method, next_kwargs, context)


def _positive_or_none(name: str, value: int | None) -> int | None:
    return None if value is None else parameters.positive(name, value)


def _plain(names: Any) -> list[str]:
    """Return the names that are known when the DAG is parsed: neither templates nor other tasks' values."""
    if not isinstance(names, Sequence) or isinstance(names, str):
        return []
    return [name for name in names if not isinstance(name, str) or not ("{{" in name or "{%" in name)]
