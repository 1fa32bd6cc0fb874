"""What Airflow waits for, by its metadata database: for the command line, which runs where that is."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final

from airflow_provider_panda.exceptions import AirflowUnreadableError
from airflow_provider_panda.grid.task import task_key
from airflow_provider_panda.reaping.orphans import Attempt, GridTask, Present, id_or_none, key_or_none
from airflow_provider_panda.triggers.ids import TASK_ID_KEY, TASK_KEY_KEY
from airflow_provider_panda.triggers.looks import Place

MARGIN: Final = 3600.0
"""Seconds by which clocks of PanDA and Airflow may differ."""

ROWS_AT_ONCE: Final = 5000

_GOES_ON: Final = ("queued", "running")


class DatabaseWitness:
    """Airflow's metadata database.

    :param instance: four characters of this Airflow instance.
    """

    def __init__(self, instance: str) -> None:
        self._instance = instance

    def attempts(self, tasks: Collection[GridTask]) -> dict[str, Attempt]:
        """Return the tries that these keys were made for: a key is a hash of the id of its try, so ids are hashed.

        Only of tries that were there when the oldest task was submitted or later, and only their ids are read.
        """
        from airflow.models.taskinstance import TaskInstance
        from airflow.models.taskinstancehistory import TaskInstanceHistory
        from sqlalchemy import or_, select

        wanted = {task.key for task in tasks}
        created = [task.created for task in tasks if task.created is not None]
        if not created:
            return {}
        since = datetime.fromtimestamp(min(created) - MARGIN, UTC)
        found: dict[str, Attempt] = {}
        with _session() as session:
            for model, id_column in (
                (TaskInstanceHistory, TaskInstanceHistory.task_instance_id),
                (TaskInstance, TaskInstance.id),
            ):
                query = select(
                    id_column, model.dag_id, model.run_id, model.task_id, model.map_index, model.end_date
                ).where(or_(model.updated_at >= since, model.updated_at.is_(None)))
                for row in session.execute(query.execution_options(yield_per=ROWS_AT_ONCE)):
                    key = task_key(self._instance, str(row[0]))
                    if key in wanted:
                        place = Place(row.dag_id, row.run_id, row.task_id, row.map_index)
                        found[key] = Attempt(place=place, ended=_unix_time(row.end_date))
        return found

    def present(self, places: Collection[Place]) -> dict[Place, Present]:
        """Return what these task instances are now."""
        from airflow.models.dagrun import DagRun
        from airflow.models.taskinstance import TaskInstance
        from sqlalchemy import and_, select

        found: dict[Place, Present] = {}
        with _session() as session:
            for place in places:
                query = (
                    select(TaskInstance.id, TaskInstance.state, TaskInstance.end_date, DagRun.state.label("run_state"))
                    .join(DagRun, and_(DagRun.dag_id == TaskInstance.dag_id, DagRun.run_id == TaskInstance.run_id))
                    .where(
                        TaskInstance.dag_id == place.dag_id,
                        TaskInstance.run_id == place.run_id,
                        TaskInstance.task_id == place.task_id,
                        TaskInstance.map_index == place.map_index,
                    )
                )
                row = session.execute(query).one_or_none()
                if row is None:
                    continue
                left = dict(_xcoms(session, place))
                found[place] = Present(
                    key=task_key(self._instance, str(row.id)),
                    state=None if row.state is None else str(getattr(row.state, "value", row.state)),
                    run_goes_on=str(getattr(row.run_state, "value", row.run_state)) in _GOES_ON,
                    ended=_unix_time(row.end_date),
                    task_key=key_or_none(left.get(TASK_KEY_KEY)),
                    task_id=id_or_none(left.get(TASK_ID_KEY)),
                )
        return found

    def ended_runs(self, since: float) -> list[tuple[str, str]]:
        """Return the DAG runs that have ended."""
        from airflow.models.dagrun import DagRun
        from sqlalchemy import select

        query = select(DagRun.dag_id, DagRun.run_id).where(
            DagRun.state.not_in(_GOES_ON), DagRun.end_date >= datetime.fromtimestamp(since, UTC)
        )
        with _session() as session:
            return [(row.dag_id, row.run_id) for row in session.execute(query)]


@contextmanager
def _session() -> Iterator[Any]:
    """Give a session of Airflow's database.

    :raises AirflowUnreadableError: the database fails; told by the kind of error, for its text may hold a login.
    """
    from airflow.utils.session import create_session
    from sqlalchemy.exc import SQLAlchemyError

    try:
        with create_session() as session:
            yield session
    except SQLAlchemyError as error:
        raise AirflowUnreadableError(
            f"Airflow's database cannot be read ({type(error).__name__}). Run this where `airflow db check` works"
        ) from error


def _xcoms(session: Any, place: Place) -> Iterator[tuple[str, Any]]:
    from airflow.models.xcom import XComModel
    from sqlalchemy import select

    rows = session.scalars(
        select(XComModel).where(
            XComModel.dag_id == place.dag_id,
            XComModel.run_id == place.run_id,
            XComModel.task_id == place.task_id,
            XComModel.map_index == place.map_index,
            XComModel.key.in_((TASK_KEY_KEY, TASK_ID_KEY)),
        )
    )
    for row in rows:
        yield row.key, XComModel.deserialize_value(row)


def _unix_time(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()
