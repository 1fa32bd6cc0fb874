"""Puts deferred task instances straight into a private metadata database, for ``triggerer.py``.

Deferring a task costs 0.7 s and more of workers (facts/airflow.md section 2), and it is the waiting that is measured.
Run in the environment of that Airflow. The task instances are those of one mapped task in one DAG run; the lines it
prints are their task keys.
"""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

DAG_ID, TASK_ID, BUNDLE = "waiting", "wait", "dags-folder"

DAG_FILE = """
from airflow.sdk import dag, task

@dag(schedule=None, is_paused_upon_creation=False)
def waiting():
    @task
    def wait():
        pass
    wait()

waiting()
"""


def trigger_of(kind: str, key: str, number: int) -> Any:
    """Return what one task instance waits for.

    :param kind: "ours", or "bare": a timer that ends far in the future.
    """
    if kind == "bare":
        from airflow.providers.standard.triggers.temporal import DateTimeTrigger

        return DateTimeTrigger(moment=datetime.now(UTC) + timedelta(days=30))
    from airflow_provider_panda.grid.outcome import CallPolicy
    from airflow_provider_panda.triggers.function import PandaFunctionTrigger

    return PandaFunctionTrigger(
        panda_conn_id="panda_bench", task_key=key, task_name=f"bench-{key}", task_id=number,
        processing_type=f"airflow-{key[2:6]}", policy=CallPolicy(n_jobs=1), returns="value",
    )  # fmt: skip


def insert(kind: str, first: int, count: int, folder: Path, instance: str) -> list[str]:
    """Insert deferred task instances, and return their task keys.

    :param kind: "ours" or "bare".
    :param first: number of the first one; its map index, and its jediTaskID.
    :param count: how many.
    :param folder: folder of the DAG file.
    :param instance: characters of the Airflow instance.
    """
    from airflow.models.dagbag import DBDagBag
    from airflow.models.dagrun import DagRun
    from airflow.models.taskinstance import TaskInstance
    from airflow.models.trigger import Trigger
    from airflow.utils.session import create_session
    from airflow.utils.state import DagRunState, TaskInstanceState
    from airflow.utils.types import DagRunTriggeredByType, DagRunType
    from sqlalchemy import select

    from airflow_provider_panda.grid.task import task_key

    keys = []
    with create_session() as session:
        dag = DBDagBag().get_latest_version_of_dag(DAG_ID, session=session)
        if dag is None:
            publish(folder)
            dag = DBDagBag().get_latest_version_of_dag(DAG_ID, session=session)
        assert dag is not None
        run = session.scalar(select(DagRun).where(DagRun.dag_id == DAG_ID))
        if run is None:
            run = dag.create_dagrun(
                run_id="run", run_after=datetime.now(UTC), run_type=DagRunType.MANUAL, state=DagRunState.RUNNING,
                triggered_by=DagRunTriggeredByType.TEST, session=session,
            )  # fmt: skip
            session.flush()
        (one,) = session.scalars(select(TaskInstance).where(TaskInstance.map_index == -1)).all()
        rows, triggers = [], []
        for number in range(first, first + count):
            ti = TaskInstance(
                task=dag.get_task(TASK_ID), dag_version_id=one.dag_version_id, run_id=run.run_id, map_index=number
            )
            key = task_key(instance, str(ti.id))
            keys.append(key)
            triggers.append(Trigger.from_object(trigger_of(kind, key, number)))
            ti.state, ti.try_number, ti.start_date = TaskInstanceState.DEFERRED, 1, datetime.now(UTC)
            ti.next_method, ti.next_kwargs = "execute_complete", {}
            rows.append(ti)
        session.add_all(triggers)
        session.flush()
        for ti, trigger in zip(rows, triggers, strict=True):
            ti.trigger_id = trigger.id
        session.add_all(rows)
    return keys


def publish(folder: Path) -> None:
    """Put the DAG into the database, as the DAG processor would."""
    from airflow.dag_processing.bundles.manager import DagBundlesManager
    from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db

    folder.mkdir(exist_ok=True)
    (folder / "waiting.py").write_text(DAG_FILE)
    DagBundlesManager().sync_bundles_to_db()
    bag = DagBag(str(folder), bundle_path=folder, bundle_name=BUNDLE)
    if bag.import_errors:
        raise RuntimeError(str(bag.import_errors))
    sync_bag_to_db(bag, BUNDLE, None)


def main() -> None:
    """Insert rows and print their task keys."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=("ours", "bare"))
    parser.add_argument("--first", type=int, required=True, help="number of the first row")
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="folder of the DAG file")
    parser.add_argument("--instance", required=True, help="characters of the Airflow instance")
    given = parser.parse_args()
    for key in insert(given.kind, given.first, given.count, given.folder, given.instance):
        print(f"key {key}")


if __name__ == "__main__":
    sys.path.pop(0)  # this folder, where airflow.py would be taken for Airflow
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main()
