"""Find and kill orphaned grid tasks from a worker, as ``airflow panda reap`` does where the database is."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException, BaseOperator

from airflow_provider_panda import configuration
from airflow_provider_panda.exceptions import ConfigurationError, PandaProviderError
from airflow_provider_panda.hooks.panda import PandaHook

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context


class PandaReapOperator(BaseOperator):
    """Kill grid tasks of this Airflow instance that no task instance waits for (docs/operations.md).

    A worker has no database, so Airflow's REST API is asked. The value is what ``airflow panda reap -o json`` prints.

    :param panda_conn_id: connection of type ``panda``.
    :param airflow_conn_id: connection of type ``http`` to this Airflow's API server: host, port, login and password of
        a user who may read all DAGs, or a token as password without a login.
    :param dry_run: tell what would be killed, and kill nothing.
    :param grace: time after its submission and after the end of its task instance in which a grid task is spared, in
        seconds or as a timedelta.
    :param unknown: kill as well what has a key of this instance and no task instance in this Airflow.
    """

    template_fields: Sequence[str] = ("panda_conn_id", "airflow_conn_id")
    ui_color = "#f3e3e0"

    def __init__(
        self,
        *,
        panda_conn_id: str = PandaHook.default_conn_name,
        airflow_conn_id: str = "airflow_api",
        dry_run: bool = False,
        grace: float | timedelta = 600.0,
        unknown: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.panda_conn_id = panda_conn_id
        self.airflow_conn_id = airflow_conn_id
        self.only_look = dry_run  # BaseOperator has a method dry_run
        self.grace = grace.total_seconds() if isinstance(grace, timedelta) else float(grace)
        self.unknown = unknown

    def execute(self, context: Context) -> dict[str, Any]:
        """Find, kill, log a line a task, and return what was found and done.

        :raises AirflowException: something could not be asked or killed.
        """
        from airflow_provider_panda.reaping.reaper import reaper_of
        from airflow_provider_panda.reaping.rest import rest_witness

        try:
            hook = PandaHook(self.panda_conn_id)
            instance = configuration.instance(hook.get_conn().instance_secret, conn_id=self.panda_conn_id)
            reaper = reaper_of(hook, instance, rest_witness(self.airflow_conn_id, instance), grace=self.grace)
            harvest = reaper.reap(dry_run=self.only_look, unknown=self.unknown)
        except ConfigurationError as error:
            raise AirflowFailException(str(error)) from error
        except PandaProviderError as error:
            raise AirflowException(str(error)) from error
        for line in harvest.lines():
            self.log.info("%s", line)
        if not harvest.good:
            problems = [*harvest.troubles, *(f"{task_id}: {why}" for task_id, why in harvest.failed.items())]
            raise AirflowException("; ".join(problems))
        return harvest.to_json()
