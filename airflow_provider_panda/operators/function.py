"""Run a Python function as one PanDA task, one job or N, and return its value or values.

One way through: bind the arguments, pack, upload, submit, defer; and on resume: read what came home, decode, return.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NoReturn

from airflow.providers.common.compat.sdk import AirflowFailException, BaseOperator

from airflow_provider_panda import configuration
from airflow_provider_panda.exceptions import ConfigurationError, PackagingError
from airflow_provider_panda.grid.names import processing_type, task_name
from airflow_provider_panda.hooks.panda import PandaConnection, PandaHook
from airflow_provider_panda.links import PandaTaskLink
from airflow_provider_panda.operators import parameters, submission
from airflow_provider_panda.operators.call import Call, bind_call, check_context_free, map_over_names, rest_of
from airflow_provider_panda.operators.earlier import Left, digest_of
from airflow_provider_panda.operators.ending import left_for_worker
from airflow_provider_panda.operators.submission import Begun, Draft
from airflow_provider_panda.operators.underway import Underway
from airflow_provider_panda.operators.way import Submission, Way, way_of
from airflow_provider_panda.payload.command import Environment
from airflow_provider_panda.payload.package import Archive, Delivery, build_archive, check_function
from airflow_provider_panda.payload.xcom import to_xcom

if TYPE_CHECKING:
    from os import PathLike
    from types import ModuleType

    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_panda.grid.outcome import CallPolicy, OnJobError, WaitFor
    from airflow_provider_panda.grid.task import TaskSpec
    from airflow_provider_panda.operators.kept import Keeping
    from airflow_provider_panda.operators.missing import Rest, Retry
    from airflow_provider_panda.triggers.event import FunctionEvent


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """A call that is ready to be submitted: what is uploaded, and the task that runs it."""

    archive: Archive
    spec: TaskSpec


class PandaFunctionOperator(BaseOperator):
    """Run a Python function on the grid as one PanDA task and return its value.

    :param python_callable: the function; it is shipped with what it uses (docs/functions.md).
    :param op_args: positional arguments (templated).
    :param op_kwargs: keyword arguments (templated).
    :param map_over: name or names of arguments given as lists of equal length: one job per element, all in one
        PanDA task; the value is then the list of results in input order.
    :param panda_conn_id: connection of type ``panda``.
    :param queue: PanDA queue; default: that of the connection. (The queue of Airflow's executor is ``airflow_queue``.)
    :param cloud: PanDA cloud; default: that of the connection.
    :param working_group: PanDA working group; default: that of the connection.
    :param core_count: cores of a job.
    :param memory_mb: memory of a job in MB.
    :param walltime: time limit of a job, in seconds or as a timedelta.
    :param priority: PanDA priority.
    :param max_attempt: attempts of a job in case of infrastructure faults.
    :param retry_on_exception: whether an exception of the function is tried again, up to ``max_attempt``; by default
        it is final at once.
    :param environment: setup lines, container and python of the worker node: an ``Environment`` or its fields.
    :param serializer: "source", "cloudpickle", or "auto" (source wherever it can be made).
    :param value_format: "json", or "cloudpickle" for values that only a pickle carries.
    :param include: further modules to ship, by name, module object or path.
    :param on_job_error: "fail": the first final failure of a job fails this task and kills the rest; "collect":
        failed elements become ``JobFailure`` values.
    :param min_success: with "collect", how many jobs (int) or which share of them (float up to 1.0) must succeed.
    :param retry: what a further try of this task sends of a mapped call: "all" jobs, or with "failed_jobs" only those
        of which no value is in PanDA's record. A failed job then does not end the others.
    :param wait_for: "results" ends this task when its results are in; "task" when PanDA ended its task as well.
    :param deadline: time from submission after which the grid task is killed and this task fails, in seconds or as a
        timedelta; default: ``execution_timeout``, which Airflow itself does not apply to a deferred task.
    :param airflow_queue: queue of Airflow's executor, where that matters.
    :param multiple_outputs: push each key of a returned dictionary as an XCom of its own.
    :raises ConfigurationError: an argument is wrong.
    :raises PackagingError: the function cannot be shipped; raised when the DAG is parsed where that can be told.
    """

    template_fields: Sequence[str] = ("op_args", "op_kwargs", "panda_conn_id", "panda_queue", "cloud", "working_group")
    template_fields_renderers: ClassVar[dict[str, str]] = {"op_args": "py", "op_kwargs": "py"}
    operator_extra_links = (PandaTaskLink(),)
    shallow_copy_attrs: Sequence[str] = ("python_callable",)
    ui_color = "#e5f0fa"

    def __init__(
        self,
        *,
        python_callable: Callable[..., Any],
        op_args: Collection[Any] | None = None,
        op_kwargs: Mapping[str, Any] | None = None,
        map_over: str | Sequence[str] | None = None,
        panda_conn_id: str = PandaHook.default_conn_name,
        queue: str | None = None,
        cloud: str | None = None,
        working_group: str | None = None,
        core_count: int = 1,
        memory_mb: int | None = None,
        walltime: float | timedelta | None = None,
        priority: int = 900,
        max_attempt: int = 3,
        retry_on_exception: bool = False,
        environment: Environment | Mapping[str, Any] | None = None,
        serializer: Literal["auto", "source", "cloudpickle"] = "auto",
        value_format: Literal["json", "cloudpickle"] = "json",
        include: Sequence[str | ModuleType | PathLike[str]] = (),
        on_job_error: OnJobError = "fail",
        min_success: int | float | None = None,
        retry: Retry = "all",
        wait_for: WaitFor = "results",
        deadline: float | timedelta | None = None,
        panda_queue: str | None = None,
        airflow_queue: str | None = None,
        **kwargs: Any,
    ) -> None:
        if airflow_queue is not None:
            kwargs["queue"] = airflow_queue
        super().__init__(**kwargs)
        self.python_callable = python_callable
        self.op_args = list(op_args or ())
        self.op_kwargs = dict(op_kwargs or {})
        self.panda_conn_id = panda_conn_id
        # The decorator renames "queue", for of a mapped task Airflow would take it for its own; .override() does not.
        self.panda_queue = queue or panda_queue
        self.cloud = cloud
        self.working_group = working_group
        self.core_count = parameters.positive("core_count", core_count)
        self.memory_mb = None if memory_mb is None else parameters.positive("memory_mb", memory_mb)
        self.walltime = parameters.duration("walltime", walltime)
        self.priority = priority
        self.max_attempt = parameters.positive("max_attempt", max_attempt)
        self.retry_on_exception = retry_on_exception
        self.environment = parameters.environment(environment)
        self.serializer = parameters.one_of("serializer", serializer, ("auto", "source", "cloudpickle"))
        self.value_format = parameters.one_of("value_format", value_format, ("json", "cloudpickle"))
        self.include = (include,) if isinstance(include, str) else tuple(include)
        self.on_job_error = parameters.one_of("on_job_error", on_job_error, ("fail", "collect"))
        self.min_success = parameters.min_success(min_success, on_job_error)
        self.wait_for = parameters.one_of("wait_for", wait_for, ("results", "task"))
        self.deadline = parameters.duration("deadline", deadline)
        self.map_over = map_over_names(python_callable, map_over)
        self.retry = parameters.retry(retry, mapped=bool(self.map_over))
        check_context_free(python_callable, given=self._given_names())
        check_function(python_callable, serializer=self.serializer, map_over=self.map_over, include=self.include)
        self._underway: Underway | None = None
        self._airflow_ended = False

    def _given_names(self) -> frozenset[str]:
        """Names of the function's arguments that the DAG file passes."""
        names = list(inspect.signature(self.python_callable).parameters)
        return frozenset(names[: len(self.op_args)]) | frozenset(self.op_kwargs)

    # --- way out ------------------------------------------------------------------------------------------------

    def execute(self, context: Context) -> Any:
        """Pack, submit and defer; returns at once only for a mapped call of no elements."""
        from airflow_provider_panda.grid.task import task_key

        try:
            call = bind_call(self.python_callable, self.op_args, self.op_kwargs, self.map_over)
            if call.per_job is not None and not call.per_job:
                self.log.info("%s() is mapped over an empty list: no grid task, the value is []", call.name)
                return []
            hook = PandaHook(self.panda_conn_id)
            connection = hook.get_conn()
            instance = configuration.instance(connection.signing_secret, conn_id=self.panda_conn_id)
            own_key = task_key(instance, str(context["ti"].id))
            keeping = self._keeping(context, hook, connection, own_key)
            rest = self._rest(call, keeping)
            if rest is not None and not rest.jobs:
                return to_xcom(keeping.all_values(rest))
            sent = call if rest is None else rest_of(call, rest.jobs)
            way = way_of(hook, connection, context)
            begun = submission.begin(
                context,
                own_key=own_key,
                draft=lambda key: self._draft(sent, connection, key, instance, context, way),
                reach=submission.reach_of_tasks(hook, context, self._accepted_states()),
            )
        except (ConfigurationError, PackagingError) as error:
            # The same try would end the same way: no retries.
            raise AirflowFailException(str(error)) from error
        spec = begun.content.spec
        submitted = self._submit(hook, way, begun, context)
        submission.tell_submission(context, connection, key=spec.key, submission=submitted)
        carried = "" if rest is None else keeping.leave(rest, spec.key, submitted)
        submission.deferring(context, begun.note, submitted)
        self.log.info("%s: submitted as %s (%s); waiting without a worker", spec.key, submitted, submitted.task_name)
        self._stop_watching()
        return self._defer(spec, submitted, rest, carried, connection.key_mark(spec.key))

    def _accepted_states(self) -> tuple[str, ...]:
        """Return the states of an ended task whose results another try may still take."""
        takes_some = self.on_job_error == "collect" or self.retry == "failed_jobs"
        return ("done", "finished") if takes_some else ("done",)

    def _draft(
        self, call: Call, connection: PandaConnection, key: str, instance: str, context: Context, way: Way
    ) -> Draft[Packed]:
        """Return what is submitted under a key."""
        archive = self._pack(call, connection, key)
        spec = self._spec(connection, archive, key, instance, context, way)
        self.log.info(
            "%s: packed %s() as %s, %d job(s), %d bytes, by %s",
            key, archive.function, archive.name, archive.n_jobs, len(archive.content), archive.form,
        )  # fmt: skip
        note = Left(
            key=key,
            by=key,
            name=spec.name,
            kind=spec.processing_type,
            server=connection.idds.name if connection.service == "idds" else connection.endpoint.url,
            through_idds=connection.service == "idds",
            digest=digest_of(asdict(spec)),
        )
        return Draft(note=note, content=Packed(archive=archive, spec=spec))

    def _submit(self, hook: PandaHook, way: Way, begun: Begun[Packed], context: Context) -> Submission:
        """Upload and submit what is not there yet; from here on :meth:`on_kill` has something to kill."""
        archive, spec = begun.content.archive, begun.content.spec
        reach = submission.reach_of_tasks(hook, context, ())
        underway = self._underway = submission.watched(context, begun.note, reach)
        if self._airflow_ended:
            underway.give_up()
        if begun.known is None:
            underway.go_on()
            hook.grid().upload(archive.name, archive.content)
        underway.sending()
        submitted = way.submit(spec, begun.known)
        underway.taken(submitted)
        return submitted

    def _stop_watching(self) -> None:
        """Leave the grid task to whoever waits for it."""
        underway, self._underway = self._underway, None
        if underway is not None:
            underway.go_on()

    def _keeping(self, context: Context, hook: PandaHook, connection: PandaConnection, key: str) -> Keeping:
        from airflow_provider_panda.operators.kept import Keeping

        return Keeping(context, hook, connection, key=key, allow_pickle=self.value_format == "cloudpickle")

    def _rest(self, call: Call, keeping: Keeping) -> Rest | None:
        """Return which jobs are to be sent where values of earlier tries are kept."""
        if self.retry == "all" or call.per_job is None:
            return None
        # Keys and logins that an archive may carry are not of the call: each try has others.
        return keeping.rest_of(call=self._packed(call, None).manifest_sha256, n_jobs=len(call.per_job))

    def _pack(self, call: Call, connection: PandaConnection, key: str) -> Archive:
        return self._packed(call, self._delivery(connection, key))

    def _packed(self, call: Call, delivery: Delivery | None) -> Archive:
        return build_archive(
            call.function,
            args=call.args,
            kwargs=call.kwargs,
            per_job=call.per_job,
            serializer=self.serializer,
            include=self.include,
            value_format=self.value_format,
            delivery=delivery,
        )

    def _delivery(self, connection: PandaConnection, key: str) -> Delivery | None:
        if connection.signing != "archive":
            return None
        from airflow_provider_panda.hooks.delivery import archive_delivery

        return archive_delivery(connection, key)

    def _spec(
        self,
        connection: PandaConnection,
        archive: Archive,
        key: str,
        instance: str,
        context: Context,
        way: Way,
    ) -> TaskSpec:
        from airflow_provider_panda.grid.task import Resources, TaskSpec

        ti = context["ti"]
        return TaskSpec(
            key=key,
            name=task_name(ti.dag_id, ti.task_id, ti.run_id, key),
            n_jobs=archive.n_jobs,
            command=way.command(archive, key, self.environment),
            archive_name=archive.name,
            resources=Resources(
                queue=self.panda_queue or connection.queue,
                cloud=self.cloud or connection.cloud,
                working_group=self.working_group or connection.working_group,
                core_count=self.core_count,
                memory_mb=self.memory_mb,
                walltime=self.walltime,
                priority=self.priority,
                max_attempt=self.max_attempt,
            ),
            container=self.environment.container if self.environment.container_runtime == "panda" else None,
            use_secrets=connection.signing == "secret",
            processing_type=processing_type(instance),
        )

    def _defer(
        self,
        spec: TaskSpec,
        submitted: Submission,
        rest: Rest | None = None,
        carried: str = "",
        key_mark: str | None = None,
    ) -> NoReturn:
        from airflow_provider_panda.triggers.function import PandaFunctionTrigger  # with the hub, and only here

        limit = self.deadline if self.deadline is not None else self.execution_timeout
        left = "the option end_in_triggerer is off"
        if configuration.end_in_triggerer():
            left = left_for_worker(self, resumed_by=PandaFunctionOperator) or ""
        if left:
            self.log.debug("%s: a worker resumes it in any case: %s", spec.key, left)
        self.defer(
            trigger=PandaFunctionTrigger(
                panda_conn_id=self.panda_conn_id,
                task_key=spec.key,
                task_name=submitted.task_name,
                task_id=submitted.task_id,
                request_id=submitted.request_id,
                transform_id=submitted.transform_id,
                processing_type=spec.processing_type,
                policy=self._policy(spec.n_jobs, rest),
                deadline=None if limit is None else time.time() + limit.total_seconds(),
                not_before=time.time() + configuration.settle_time(),
                returns=None if left else ("list" if self.map_over else "value"),
                carried=carried,
                key_mark=key_mark,
            ),
            method_name="execute_complete",
        )

    def _policy(self, n_jobs: int, rest: Rest | None) -> CallPolicy:
        from airflow_provider_panda.grid.outcome import CallPolicy
        from airflow_provider_panda.operators.homecoming import successes_needed

        keep_below = 0
        if rest is not None:
            needed = rest.n_jobs if self.on_job_error == "fail" else successes_needed(rest.n_jobs, self.min_success)
            keep_below = max(0, needed - rest.n_kept)
        return CallPolicy(
            n_jobs=n_jobs,
            # What the others bring is kept, so all of them are waited for.
            on_job_error=self.on_job_error if rest is None else "collect",
            retry_on_exception=self.retry_on_exception,
            max_attempt=self.max_attempt,
            wait_for=self.wait_for,
            keep_below=keep_below,
        )

    def on_kill(self) -> None:
        """Kill the grid task if this worker is ended between submission and deferral."""
        self._airflow_ended = True
        if self._underway is not None:
            self._underway.end()

    # --- way back -----------------------------------------------------------------------------------------------

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Return the value that came home, or raise what became of the grid task."""
        # A DAG file is read far more often than a task is resumed.
        from airflow_provider_panda.operators.homecoming import check_min_success, error_of, told_of_call
        from airflow_provider_panda.operators.missing import Note
        from airflow_provider_panda.triggers.event import FunctionEvent, Outcome

        came = FunctionEvent.from_json(event)
        note = Note.from_text(came.carried) if came.carried else Note.of_whole(came.task_key, came.task_id, came.n_jobs)
        told = told_of_call(came, note.tries[-1].jobs, note.n_jobs)
        self._log_failures(told)
        if came.outcome is Outcome.COMPLETE and (self.on_job_error == "collect" or not came.n_failures):
            hook = PandaHook(self.panda_conn_id)
            connection = hook.get_conn()
            keeping = self._keeping(context, hook, connection, came.task_key)
            try:
                check_min_success(told, self.min_success)
                result = keeping.bring_home(came, note)
                submission.tell_late_id(context, hook, connection, submission_of(came))
            finally:
                if came.n_failures:
                    self._kill(came)  # ends what PanDA would still try again of jobs that are settled for us
            self.log.info("%s: %d of %d job(s) returned", came.task_key, told.n_jobs - told.n_failures, told.n_jobs)
            if self.retry == "failed_jobs":
                keeping.forget()
            return to_xcom(result if self.map_over else result[0])
        if self.retry == "failed_jobs":
            n_values = told.n_jobs - told.n_failures - told.n_missing
            self.log.info(
                "%s: %d of %d job(s) returned; a retry sends the others", came.task_key, n_values, told.n_jobs
            )
        self._kill(came)
        raise error_of(told)

    def _log_failures(self, told: FunctionEvent) -> None:
        for failure in told.failures[:10]:
            self.log.error(
                "%s: job %d, attempt %d failed on host %s (site %s, PandaID %s): %s: %s\n%s",
                told.task_key, failure.job, failure.attempt, failure.host, failure.site, failure.panda_id,
                failure.type, failure.message, failure.traceback,
            )  # fmt: skip
        if told.n_failures > 10:
            self.log.error("%s: and %d more failed jobs", told.task_key, told.n_failures - 10)

    def _kill(self, came: FunctionEvent) -> None:
        """End what is left of the grid task; an unreachable PanDA does not hide the outcome."""
        if not came.ended:
            submission.end_quietly(PandaHook(self.panda_conn_id), submission_of(came), key=came.task_key)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Resume; where Airflow itself fails the task ("__fail__"), nobody waits for the grid task: kill it."""
        if next_method == "__fail__":
            submission.end_unwatched(context, PandaHook(self.panda_conn_id))
        return super().resume_execution(next_method, next_kwargs, context)


def submission_of(came: FunctionEvent) -> Submission:
    """Return what was submitted, as the trigger knows it."""
    return Submission(
        task_name=came.task_name,
        task_id=came.task_id,
        request_id=came.request_id,
        transform_id=came.transform_id,
    )
