"""Wait for iDDS requests that were made elsewhere."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException, BaseSensorOperator
from airflow.sdk.exceptions import AirflowSensorTimeout

from airflow_provider_panda.exceptions import ConfigurationError, DeadlineExceededError, GridError
from airflow_provider_panda.hooks.panda import PandaHook
from airflow_provider_panda.operators import parameters
from airflow_provider_panda.operators.request_outcome import current_requests, request_value, requests_error
from airflow_provider_panda.sensors.task import read_ids
from airflow_provider_panda.triggers.event import Outcome
from airflow_provider_panda.triggers.request import IddsRequestTrigger, RequestsEvent, judge

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context


class IddsRequestSensor(BaseSensorOperator):
    """Wait until iDDS requests are in one of a set of states, without holding a worker.

    It fails when a request ends in another state, and leaves the requests alone when it is ended itself. It always
    waits in the triggerer: ``mode`` and ``poke_interval`` have no effect. After ``timeout`` seconds it fails for good;
    ``soft_fail`` skips it instead. The value is that of :class:`IddsWorkflowOperator`, or a list of them.

    :param request_id: id or several, or what an :class:`IddsWorkflowOperator` returned (templated).
    :param states: iDDS request states to wait for. A state that passes may be missed: name what follows it as well.
    :param panda_conn_id: connection of type ``panda``, which says where iDDS is.
    :raises ConfigurationError: an argument is wrong.
    """

    template_fields: Sequence[str] = ("request_id", "panda_conn_id")
    ui_color = "#efecf7"

    def __init__(
        self,
        *,
        request_id: Any,
        states: Collection[str] = ("Finished", "SubFinished"),
        panda_conn_id: str = PandaHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.request_id = request_id
        self.states = parameters.request_states("states", states)
        self.panda_conn_id = panda_conn_id

    def execute(self, context: Context) -> Any:
        """Look once, and defer unless that was enough."""
        hook = PandaHook(self.panda_conn_id)
        try:
            request_ids = list(dict.fromkeys(read_ids(self.request_id, argument="request_id", field="request_id")))
            hook.get_conn()
        except ConfigurationError as error:
            raise AirflowFailException(str(error)) from error
        came = self._look(hook, request_ids)
        if came is not None:
            return self.execute_complete(context, came.to_json())
        return self.defer(
            trigger=IddsRequestTrigger(
                panda_conn_id=self.panda_conn_id,
                request_ids=request_ids,
                states=self.states,
                deadline=time.time() + self.timeout,
            ),
            method_name="execute_complete",
        )

    def _look(self, hook: PandaHook, request_ids: Sequence[int]) -> RequestsEvent | None:
        """Return what became of requests that need no more waiting; a deferral takes longer than this look."""
        client = hook.idds()
        try:
            requests = {request_id: client.request(request_id) for request_id in request_ids}
        except GridError as error:
            self.log.info("waiting for the triggerer to ask again: %s", error)
            return None
        outcome = judge(requests, self.states)
        if outcome is None:
            return None
        return RequestsEvent(outcome=outcome, requests=tuple(each for each in requests.values() if each is not None))

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Return what became of the request or requests, or raise why the wait is over without."""
        came = RequestsEvent.from_json(event)
        hook = PandaHook(self.panda_conn_id)
        if came.outcome is Outcome.COMPLETE:
            values = [request_value(request) for request in current_requests(came, hook.idds)]
            self.log.info("%s", ", ".join(f"iDDS request {each['request_id']} is {each['status']}" for each in values))
            return values[0] if len(values) == 1 else values
        error = requests_error(came, accepted=self.states, hook=hook, key=self.task_id)
        if isinstance(error, DeadlineExceededError):
            raise AirflowSensorTimeout(str(error)) from error
        # One of Airflow's own, which soft_fail and never_fail look for.
        raise AirflowException(str(error)) from error
