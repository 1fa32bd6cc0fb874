"""The operator in the DAG file: what it takes, what it refuses, and what it makes of its parameters."""

from __future__ import annotations

import datetime
from datetime import timedelta
from typing import Any

import pytest
from airflow.sdk import DAG, task

from airflow_provider_panda.decorators import panda_task
from airflow_provider_panda.exceptions import ConfigurationError, PackagingError
from airflow_provider_panda.operators.function import PandaFunctionOperator
from airflow_provider_panda.payload.command import Environment


def plain(point, events=1000):
    return point, events


def operator(**arguments: Any) -> PandaFunctionOperator:
    return PandaFunctionOperator(task_id="t", python_callable=plain, op_kwargs={"point": 1}, **arguments)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"map_over": "nope"}, "'nope' is no argument of plain"),
        ({"core_count": 0}, "core_count: 0 is not a positive whole number"),
        ({"memory_mb": "2GB"}, "memory_mb: '2GB' is not a positive whole number"),
        ({"walltime": "1h"}, "walltime: '1h' is no duration"),
        ({"deadline": -1}, "deadline: -1 is not positive"),
        ({"on_job_error": "ignore"}, "Use one of fail, collect"),
        ({"wait_for": "ever"}, "Use one of results, task"),
        ({"serializer": "dill"}, "Use one of auto, source, cloudpickle"),
        ({"value_format": "xml"}, "Use one of json, cloudpickle"),
        ({"min_success": 1}, 'Set on_job_error="collect"'),
        ({"retry": "failed_jobs"}, '"failed_jobs" goes with map_over='),
        ({"retry": "failed"}, "Use one of all, failed_jobs"),
        ({"on_job_error": "collect", "min_success": 1.5}, "over 1.0"),
        ({"environment": {"pyton": "python3"}}, "unknown field pyton"),
        ({"environment": {"container_runtime": "docker"}}, "panda"),
    ],
)
def test_wrong_parameters_are_refused_when_the_dag_is_parsed(arguments: Any, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        operator(**arguments)


def test_unknown_parameter_is_refused() -> None:
    with pytest.raises(TypeError, match="memory_gb"):
        operator(memory_gb=2)


def test_units_and_forms() -> None:
    made = operator(
        walltime=3600, deadline=timedelta(hours=2), environment={"setup": "source view.sh", "python": "python3.9"}
    )
    assert made.walltime == timedelta(hours=1)
    assert made.deadline == timedelta(hours=2)
    assert made.environment == Environment(setup=("source view.sh",), python="python3.9")


def test_queue_is_pandas_and_airflows_stays_its_own() -> None:
    assert operator(queue="CERN_T2").panda_queue == "CERN_T2"
    assert operator(queue="CERN_T2").queue == "default"
    assert operator(airflow_queue="heavy").queue == "heavy"
    assert operator(airflow_queue="heavy").panda_queue is None


async def coroutine(x):
    return x


def generator(x):
    yield x


def wants_context(ds):
    return ds


@pytest.mark.parametrize("function", [coroutine, generator, wants_context])
def test_functions_that_cannot_run_on_the_grid_are_refused_when_the_dag_is_parsed(function: Any) -> None:
    with DAG("refused"):
        decorated = panda_task(function)
        with pytest.raises((PackagingError, TypeError)):
            decorated(1) if function is not wants_context else decorated()


def test_lambda_needs_a_pickle() -> None:
    with pytest.raises(PackagingError, match="lambda"):
        PandaFunctionOperator(task_id="t", python_callable=lambda: 1, serializer="source")
    PandaFunctionOperator(task_id="t", python_callable=lambda: 1)


def test_decorator_is_found_by_airflow_and_makes_tasks() -> None:
    with DAG("decorated", schedule=None, start_date=datetime.datetime(2026, 1, 1)) as dag:

        @task.panda(queue="CERN_T2", retries=2)
        def evaluate(point, events=10) -> float:
            return point * events

        one = evaluate(1.0)
        other = evaluate.override(task_id="other", queue="BNL")(2.0)
        mapped = evaluate.partial(events=3).expand(point=[1, 2])
    assert one.operator.panda_queue == "CERN_T2"
    assert one.operator.retries == 2
    assert other.operator.panda_queue == "BNL"
    assert mapped.operator.task_id == "evaluate__1"
    # Airflow's executor must not be sent to a queue of PanDA's.
    assert mapped.operator.partial_kwargs["panda_queue"] == "CERN_T2"
    assert "queue" not in mapped.operator.partial_kwargs
    assert set(dag.task_ids) == {"evaluate", "other", "evaluate__1"}


def test_retry_is_ours_and_retries_are_airflows() -> None:
    with DAG("retried", schedule=None, start_date=datetime.datetime(2026, 1, 1)):

        @task.panda(map_over="point", retry="failed_jobs", retries=2)
        def evaluate(point, events=10) -> float:
            return point * events

        one = evaluate([1.0])
        other = evaluate.override(task_id="other", retry="all")([2.0])
        mapped = evaluate.override(task_id="mapped").partial(events=3).expand(point=[[1, 2], [3]])
        with pytest.raises(ConfigurationError, match="map_over"):
            evaluate.override(task_id="single", map_over=None)(1.0)
    assert (one.operator.retry, one.operator.retries) == ("failed_jobs", 2)
    assert (other.operator.retry, other.operator.retries) == ("all", 2)
    assert mapped.operator.partial_kwargs["retry"] == "failed_jobs"
    assert operator().retry == "all"


def test_dag_with_grid_tasks_serialises_for_the_scheduler() -> None:
    from airflow.serialization.serialized_objects import DagSerialization

    with DAG("serialised", schedule=None, start_date=datetime.datetime(2026, 1, 1)) as dag:

        @task.panda(map_over="point", environment=Environment(python="python3.9"), walltime=60)
        def evaluate(point) -> float:
            return point

        evaluate([1.0, 2.0])
    data = DagSerialization.to_dict(dag)
    (serialised,) = data["dag"]["tasks"]
    assert serialised["__var"]["task_type"] == "_PandaDecoratedOperator"
