"""Run an existing iDDS workflow as a request of its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from os import PathLike
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.providers.common.compat.sdk import AirflowFailException, BaseOperator

from airflow_provider_panda import configuration
from airflow_provider_panda.exceptions import ConfigurationError, GridError
from airflow_provider_panda.grid.idds.answers import OPEN
from airflow_provider_panda.grid.idds.end import end_request
from airflow_provider_panda.grid.idds.workflow import read_workflow, request_of
from airflow_provider_panda.grid.retry import RetryPolicy, again
from airflow_provider_panda.grid.task import task_key
from airflow_provider_panda.hooks.panda import PandaConnection, PandaHook
from airflow_provider_panda.operators import parameters, submission
from airflow_provider_panda.operators.earlier import Left, Standing, digest_of
from airflow_provider_panda.operators.request_outcome import current_requests, request_value, requests_error
from airflow_provider_panda.operators.submission import Draft
from airflow_provider_panda.operators.underway import Underway
from airflow_provider_panda.operators.way import Found, Submission
from airflow_provider_panda.triggers.event import Outcome
from airflow_provider_panda.triggers.ids import TASK_KEY_KEY
from airflow_provider_panda.triggers.request import WORKFLOW_REQUEST_KEY, IddsRequestTrigger, RequestsEvent

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_panda.grid.idds.client import IddsClient


class IddsWorkflowOperator(BaseOperator):
    """Submit an existing iDDS workflow, wait for its request, and return the request's transforms.

    The value is ``{"request_id", "status", "transforms": [{"id", "name", "status", "task_id"}]}``.

    :param workflow: a workflow object of idds-workflow (``idds.workflowv2.workflow.Workflow``), its JSON as text or
        dictionary (templated), the path of a JSON file (templated), or a function without arguments that returns one
        of these and is called on the worker.
    :param panda_conn_id: connection of type ``panda``, which says where iDDS is.
    :param success_states: request states that are a success; "SubFinished" means that some of its work failed.
    :param deadline: time from submission after which the request is aborted, its PanDA tasks are killed and this task
        fails, in seconds or as a timedelta; default: ``execution_timeout``.
    :raises ConfigurationError: an argument is wrong.
    """

    template_fields: Sequence[str] = ("workflow", "panda_conn_id")
    shallow_copy_attrs: Sequence[str] = ("_made",)
    ui_color = "#e8e4f3"

    def __init__(
        self,
        *,
        workflow: Any,
        panda_conn_id: str = PandaHook.default_conn_name,
        success_states: Sequence[str] = ("Finished",),
        deadline: float | timedelta | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        # An object is no template, and its text, other in each parsed copy, would make a new DAG version every time.
        templated = isinstance(workflow, str | Mapping) or hasattr(workflow, "resolve")
        self.workflow = workflow if templated else None
        self._made = None if templated else workflow
        self.panda_conn_id = panda_conn_id
        self.success_states = parameters.request_states("success_states", success_states, terminal=True)
        self.deadline = parameters.duration("deadline", deadline)
        if workflow is None:
            raise ConfigurationError("argument workflow", "there is none", "Give an iDDS workflow")
        if isinstance(workflow, Mapping):
            read_workflow(workflow)
        self._underway: Underway | None = None
        self._airflow_ended = False

    def execute(self, context: Context) -> Any:
        """Submit and defer."""
        hook = PandaHook(self.panda_conn_id)
        try:
            connection = hook.get_conn()
            instance = configuration.instance(connection.instance_secret, conn_id=self.panda_conn_id)
            workflow = read_workflow(self._given())
            begun = submission.begin(
                context,
                own_key=task_key(instance, str(context["ti"].id)),
                draft=lambda key: _draft(workflow, connection, key),
                reach=self._reach(hook),
            )
        except ConfigurationError as error:
            # The same try would end the same way: no retries.
            raise AirflowFailException(str(error)) from error
        key = begun.note.key
        underway = self._underway = submission.watched(context, begun.note, self._reach(hook))
        if self._airflow_ended:
            underway.give_up()
        underway.sending()
        request_id = begun.known.request_id if begun.known is not None else None
        if request_id is None:
            request_id = submit_once(hook.idds(), begun.content, key=key)
        submitted = Submission(task_name="", request_id=request_id)
        underway.taken(submitted)
        ti = context["ti"]
        ti.xcom_push(TASK_KEY_KEY, key)
        ti.xcom_push(WORKFLOW_REQUEST_KEY, request_id)
        submission.deferring(context, begun.note, submitted)
        self.log.info("%s: submitted as iDDS request %d (%s)", key, request_id, begun.note.name)
        self._underway = None
        underway.go_on()
        return self._defer(key, request_id)

    def _reach(self, hook: PandaHook) -> submission.Reach:
        """Return how requests of earlier tries are reached."""

        def find(left: Left) -> Found | None:
            client = hook.idds()
            request_id = client.request_ids(left.name).get(left.name)
            request = None if request_id is None else client.request(request_id)
            if request is None:
                return None
            return Found(submission=Submission(task_name="", request_id=request.request_id), status=request.status)

        def standing(status: str) -> Standing:
            if status in self.success_states:
                return Standing.DONE
            return Standing.ALIVE if status in OPEN else Standing.OVER

        def end(ended: Submission) -> bool:
            if ended.request_id is None:
                return False
            end_now(hook.get_conn(), ended.request_id)
            return True

        return submission.Reach(find=find, standing=standing, end=end)

    def _given(self) -> Any:
        if self._made is None:
            return self.workflow
        if callable(self._made) and not isinstance(self._made, PathLike):
            return self._made()
        return self._made

    def _defer(self, key: str, request_id: int) -> NoReturn:
        limit = self.deadline if self.deadline is not None else self.execution_timeout
        self.defer(
            trigger=IddsRequestTrigger(
                panda_conn_id=self.panda_conn_id,
                request_ids=[request_id],
                states=self.success_states,
                task_key=key,
                deadline=None if limit is None else time.time() + limit.total_seconds(),
                not_before=time.time() + configuration.settle_time(),
            ),
            method_name="execute_complete",
        )

    def _end(self, connection: PandaConnection, request_id: int) -> None:
        """Abort a request and kill its tasks; an unreachable service does not hide the outcome that led here."""
        try:
            end_now(connection, request_id)
        except GridError as error:
            self.log.warning("iDDS request %d could not be ended: %s. End it by hand", request_id, error)

    def on_kill(self) -> None:
        """End the request if this worker is ended between submission and deferral."""
        self._airflow_ended = True
        if self._underway is not None:
            self._underway.end()

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """Return what became of the request, or raise why it is no success."""
        came = RequestsEvent.from_json(event)
        key = came.task_key or self.task_id
        hook = PandaHook(self.panda_conn_id)
        (request, *_) = (*current_requests(came, hook.idds), None)
        if came.outcome is Outcome.COMPLETE and request is not None:
            value = request_value(request)
            self.log.info("%s: iDDS request %d is %s", key, request.request_id, request.status)
            return value
        if came.outcome is not Outcome.FAILED:
            for request_id in (*(each.request_id for each in came.requests), *came.unknown):
                # Of a request that failed in part, other tasks may still run.
                self._end(hook.get_conn(), request_id)
        raise requests_error(came, accepted=self.success_states, hook=hook, key=key)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Resume; where Airflow itself fails the task ("__fail__"), nobody waits for the request: end it."""
        if next_method == "__fail__":
            ti = context["ti"]
            request_id = ti.xcom_pull(task_ids=ti.task_id, key=WORKFLOW_REQUEST_KEY, map_indexes=ti.map_index)
            if request_id is not None:
                self._end(PandaHook(self.panda_conn_id).get_conn(), int(request_id))
        return super().resume_execution(next_method, next_kwargs, context)


def _draft(workflow: Mapping[str, Any], connection: PandaConnection, key: str) -> Draft[dict[str, Any]]:
    """Return the attributes of a request under a key."""
    properties = request_of(workflow, key=key)
    note = Left(
        key=key,
        by=key,
        name=properties["name"],
        kind="",
        server=connection.idds.name,
        through_idds=True,
        digest=digest_of(properties),
    )
    return Draft(note=note, content=properties)


def submit_once(
    client: IddsClient,
    properties: Mapping[str, Any],
    *,
    key: str,
    policy: RetryPolicy | None = None,
    pause: Callable[[float], object] = time.sleep,
) -> int:
    """Add a request once, however often it is called, and return its id.

    :param client: iDDS.
    :param properties: attributes of the request; its name ends with the key.
    :param key: task key, for the log.
    :param policy: how often a call is made that failed for a reason that may pass.
    :param pause: waits for the seconds given.
    :raises GridError: iDDS refuses it, or gave no usable answer.
    """

    def attempt() -> int:
        name = properties["name"]
        known = client.request_ids(name).get(name)
        return client.add_request(properties) if known is None else known

    return again(policy or RetryPolicy(), f"iDDS request of {key}", attempt, pause=pause)


def end_now(connection: PandaConnection, request_id: int) -> list[int]:
    """Abort a request and kill its PanDA tasks, from a worker.

    :raises GridError: iDDS cannot be asked which tasks there are.
    """
    from airflow_provider_panda.grid.idds.client import AsyncIddsClient
    from airflow_provider_panda.grid.watch import AsyncPandaClient

    async def end() -> list[int]:
        idds, panda = AsyncIddsClient(connection.idds), AsyncPandaClient(connection.endpoint)
        try:
            return await end_request(idds, panda, request_id)
        finally:
            await idds.aclose()
            await panda.aclose()

    return asyncio.run(end())
