"""What the metadata database says: Airflow's own models in an SQLite database of their own."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from airflow_provider_panda.exceptions import AirflowUnreadableError
from airflow_provider_panda.grid.task import task_key
from airflow_provider_panda.reaping.database import DatabaseWitness
from airflow_provider_panda.reaping.orphans import GridTask
from airflow_provider_panda.triggers.looks import Place

NOW = datetime.now(UTC)
OURS = "abcd"


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    from airflow.models import import_all_models
    from airflow.models.base import Base
    from airflow.utils import session as of_airflow
    from sqlalchemy import create_engine
    from sqlalchemy.orm import Session
    from sqlalchemy.pool import StaticPool

    import_all_models()
    engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    Base.metadata.create_all(engine)
    with Session(engine) as made:

        @contextmanager
        def create_session() -> Iterator[Any]:
            yield made

        monkeypatch.setattr(of_airflow, "create_session", create_session)
        yield made


def insert(session: Any, model: Any, **values: Any) -> None:
    """Insert a row; what must be there and is not given is filled in by its type."""
    from sqlalchemy import insert as insertion

    for column in model.__table__.columns:
        missing = column.name not in values and not column.nullable and not column.primary_key
        if missing and column.default is None and column.server_default is None:
            python_type = column.type.python_type
            values[column.name] = NOW if python_type is datetime else python_type()
    session.execute(insertion(model.__table__).values(**values))


def run(session: Any, run_id: str, state: str, *, ended: datetime | None = None) -> None:
    from airflow.models.dagrun import DagRun

    insert(session, DagRun, dag_id="d", run_id=run_id, state=state, end_date=ended, run_type="manual", run_after=NOW)


def instance(session: Any, run_id: str, state: str | None, *, map_index: int = -1, **more: Any) -> uuid.UUID:
    from airflow.models.taskinstance import TaskInstance

    made = uuid.uuid4()
    insert(
        session, TaskInstance, id=made, dag_id="d", run_id=run_id, task_id="t", map_index=map_index, state=state,
        try_number=1, max_tries=0, pool="default_pool", pool_slots=1, **{"updated_at": NOW, **more},
    )  # fmt: skip
    return made


def earlier_try(session: Any, run_id: str, ended: datetime) -> uuid.UUID:
    from airflow.models.taskinstancehistory import TaskInstanceHistory

    made = uuid.uuid4()
    insert(
        session, TaskInstanceHistory, task_instance_id=made, dag_id="d", run_id=run_id, task_id="t", map_index=-1,
        try_number=1, state="failed", end_date=ended, updated_at=ended, pool="default_pool", pool_slots=1,
    )  # fmt: skip
    return made


def xcom(session: Any, run_id: str, key: str, value: Any) -> None:
    from airflow.models.dagrun import DagRun
    from airflow.models.xcom import XComModel
    from sqlalchemy import select

    number = session.scalar(select(DagRun.id).where(DagRun.run_id == run_id))
    insert(
        session,
        XComModel,
        dag_run_id=number,
        dag_id="d",
        run_id=run_id,
        task_id="t",
        map_index=-1,
        key=key,
        value=value,
    )


def listed(*ids: uuid.UUID, created: datetime = NOW - timedelta(hours=2)) -> list[GridTask]:
    return [
        GridTask(task_id=number, name="n", key=task_key(OURS, str(made)), status="running", created=created.timestamp())
        for number, made in enumerate(ids)
    ]


def test_keys_are_found_by_the_ids_of_present_and_earlier_tries(session: Any) -> None:
    ended = NOW - timedelta(hours=1)
    run(session, "r", "running")
    present, mapped = instance(session, "r", "deferred"), instance(session, "r", "deferred", map_index=4)
    earlier = earlier_try(session, "r", ended)
    old = instance(session, "r", "failed", map_index=5, updated_at=NOW - timedelta(days=9))
    stranger = uuid.uuid4()
    tasks = listed(present, mapped, earlier, old, stranger)
    found = DatabaseWitness(OURS).attempts(tasks)
    assert {key: attempt.place for key, attempt in found.items()} == {
        tasks[0].key: Place("d", "r", "t"),
        tasks[1].key: Place("d", "r", "t", 4),
        tasks[2].key: Place("d", "r", "t"),
    }
    assert found[tasks[2].key].ended == pytest.approx(ended.timestamp())
    assert DatabaseWitness("abce").attempts(tasks) == {}
    assert DatabaseWitness(OURS).attempts([]) == {}


def test_what_a_task_instance_is_now(session: Any) -> None:
    run(session, "r", "running")
    run(session, "over", "failed", ended=NOW)
    waiting, over = instance(session, "r", "deferred"), instance(session, "over", None, end_date=NOW)
    key = task_key(OURS, str(waiting))
    xcom(session, "r", "panda_task_key", key)
    xcom(session, "r", "panda_task_id", 77)
    xcom(session, "r", "return_value", "other")
    places = [Place("d", "r", "t"), Place("d", "over", "t"), Place("d", "gone", "t")]
    found = DatabaseWitness(OURS).present(places)
    assert set(found) == set(places[:2])
    here, there = found[places[0]], found[places[1]]
    assert (here.key, here.state, here.task_key, here.task_id, here.unfinished) == (key, "deferred", key, 77, True)
    assert (there.key, there.state, there.unfinished) == (task_key(OURS, str(over)), None, False)
    assert there.ended == pytest.approx(NOW.timestamp())


def test_an_xcom_that_is_kept_elsewhere_is_no_key(session: Any) -> None:
    run(session, "r", "running")
    instance(session, "r", "deferred")
    xcom(session, "r", "panda_task_key", "s3://bucket/xcoms/17")
    xcom(session, "r", "panda_task_id", "s3://bucket/xcoms/18")
    (here,) = DatabaseWitness(OURS).present([Place("d", "r", "t")]).values()
    assert (here.task_key, here.task_id) == (None, None)


def test_runs_that_have_ended(session: Any) -> None:
    run(session, "running", "running")
    run(session, "ended", "success", ended=NOW - timedelta(hours=1))
    run(session, "long ago", "failed", ended=NOW - timedelta(days=9))
    assert DatabaseWitness(OURS).ended_runs((NOW - timedelta(days=1)).timestamp()) == [("d", "ended")]


def test_a_database_that_fails_is_told_without_its_text(monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.utils import session as of_airflow
    from sqlalchemy.exc import OperationalError

    @contextmanager
    def create_session() -> Iterator[Any]:
        raise OperationalError("select", {}, Exception("cannot connect to postgres://airflow:passcode@db"))
        yield

    monkeypatch.setattr(of_airflow, "create_session", create_session)
    with pytest.raises(AirflowUnreadableError, match="OperationalError") as caught:
        DatabaseWitness(OURS).present([Place("d", "r", "t")])
    assert "passcode" not in str(caught.value)
