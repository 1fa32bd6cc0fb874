"""Wait for PanDA tasks that were made elsewhere: by another DAG, by ``prun``, by hand."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException, BaseSensorOperator
from airflow.sdk.exceptions import AirflowSensorTimeout

from airflow_provider_panda.exceptions import ConfigurationError, DeadlineExceededError, GridError
from airflow_provider_panda.grid.retry import BRIEF
from airflow_provider_panda.hooks.panda import PandaHook
from airflow_provider_panda.links import PandaTaskLink
from airflow_provider_panda.operators import parameters, submission
from airflow_provider_panda.operators.outcome import task_value, tasks_error
from airflow_provider_panda.triggers.event import Outcome
from airflow_provider_panda.triggers.task import PandaTaskTrigger, TasksEvent, judge

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_panda.grid.panda import PandaGrid


class PandaTaskSensor(BaseSensorOperator):
    """Wait until PanDA tasks are in one of a set of states, without holding a worker.

    It fails when a task ends in another state, and leaves the tasks alone when it is ended itself. It always waits in
    the triggerer: ``mode`` and ``poke_interval`` have no effect, PanDA is asked at ``[panda] poll_interval``. After
    ``timeout`` seconds it fails for good; ``soft_fail`` skips it instead.

    :param panda_task_id: jediTaskID or several, or what a :class:`PandaTaskOperator` returned (templated).
    :param states: PanDA task states to wait for. A state that passes may be missed: name what follows it as well.
    :param panda_conn_id: connection of type ``panda``.
    :raises ConfigurationError: an argument is wrong.
    """

    template_fields: Sequence[str] = ("panda_task_id", "panda_conn_id")
    operator_extra_links = (PandaTaskLink(),)
    ui_color = "#e6f1f2"

    def __init__(
        self,
        *,
        panda_task_id: Any,
        states: Collection[str] = ("done", "finished"),
        panda_conn_id: str = PandaHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.panda_task_id = panda_task_id
        self.states = parameters.task_states("states", states)
        self.panda_conn_id = panda_conn_id

    def execute(self, context: Context) -> Any:
        """Look once, and defer unless that was enough."""
        hook = PandaHook(self.panda_conn_id)
        try:
            task_ids = read_task_ids(self.panda_task_id)
            connection = hook.get_conn()
        except ConfigurationError as error:
            raise AirflowFailException(str(error)) from error
        if len(task_ids) == 1:
            submission.tell_link(context, connection, task_ids[0])
        came = self._look(hook.grid(policy=BRIEF), task_ids)
        if came is not None:
            return self.execute_complete(context, came.to_json())
        return self.defer(
            trigger=PandaTaskTrigger(
                panda_conn_id=self.panda_conn_id,
                task_ids=task_ids,
                states=self.states,
                deadline=time.time() + self.timeout,
            ),
            method_name="execute_complete",
        )

    def _look(self, grid: PandaGrid, task_ids: Sequence[int]) -> TasksEvent | None:
        """Return what became of tasks that need no more waiting; a deferral takes longer than this look."""
        try:
            tasks = {task_id: grid.status(task_id) for task_id in task_ids}
        except GridError as error:
            self.log.info("waiting for the triggerer to ask again: %s", error)
            return None
        outcome = judge(tasks, self.states)
        return None if outcome is None else TasksEvent(outcome=outcome, tasks=tuple(tasks.values()))

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Return what became of the task or tasks, or raise why the wait is over without."""
        came = TasksEvent.from_json(event)
        grid = PandaHook(self.panda_conn_id).grid()
        if came.outcome is Outcome.COMPLETE:
            self.log.info("%s", ", ".join(f"PanDA task {task.task_id} is {task.status}" for task in came.tasks))
            values = [task_value(task, grid) for task in came.tasks]
            return values[0] if len(values) == 1 else values
        error = tasks_error(came, accepted=self.states, grid=grid, key=self.task_id)
        if isinstance(error, DeadlineExceededError):
            raise AirflowSensorTimeout(str(error)) from error
        # One of Airflow's own, which soft_fail and never_fail look for.
        raise AirflowException(str(error)) from error


def read_task_ids(given: Any) -> list[int]:
    """Return jediTaskIDs from what a template, another task's value or a DAG file gave, each once.

    :raises ConfigurationError: something in it is no such id.
    """
    return list(dict.fromkeys(read_ids(given, argument="panda_task_id", field="task_id")))


def read_ids(given: Any, *, argument: str, field: str) -> list[int]:
    """Return the ids in a number, text, a list of them, or values of operators that hold one.

    :param argument: the argument's name.
    :param field: where such a value holds its id.
    :raises ConfigurationError: something in it is none, or there are none.
    """
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except ValueError:
            given = [part.strip() for part in given.split(",")]
    if isinstance(given, Mapping):
        given = given.get(field)
    found: list[int] = []
    for entry in given if isinstance(given, list | tuple | set | frozenset) else [given]:
        value = entry.get(field) if isinstance(entry, Mapping) else entry
        if isinstance(value, str) and value.isascii() and value.isdigit():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigurationError(f"argument {argument}", f"{value!r} is no id", "Give a number, or a list of them")
        found.append(value)
    if not found:
        raise ConfigurationError(f"argument {argument}", "there is none", "Give a number, or a list of them")
    return found
