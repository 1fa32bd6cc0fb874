"""What asks for a worker after a success, and what does not."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import TaskDeferred
from airflow.sdk import DAG, Asset, task
from airflow.sdk.execution_time import xcom

from airflow_provider_panda import configuration
from airflow_provider_panda.grid.task import TaskSpec
from airflow_provider_panda.operators.ending import left_for_worker
from airflow_provider_panda.operators.function import PandaFunctionOperator
from airflow_provider_panda.operators.way import Submission


@pytest.fixture(autouse=True)
def unheard() -> None:
    """Nobody listens: Airflow's examples bring a listener along."""
    from airflow.sdk.listener import get_listener_manager

    manager = get_listener_manager()
    for each in manager.hook.on_task_instance_success.get_hookimpls():
        manager.pm.unregister(each.plugin)


def double(x: int) -> int:
    return 2 * x


def reason(kind: type[PandaFunctionOperator] = PandaFunctionOperator, **arguments: Any) -> str | None:
    with DAG("d", schedule=None, start_date=datetime.datetime(2026, 1, 1)):
        operator = kind(task_id="t", python_callable=double, op_kwargs={"x": 1}, **arguments)
    return left_for_worker(operator, resumed_by=PandaFunctionOperator)


def test_a_plain_call_leaves_nothing() -> None:
    assert reason() is None
    assert reason(retries=3, on_failure_callback=print, trigger_rule="all_done", map_over="x") is None


def test_an_operator_without_a_dag_has_nothing_mapped_over_it() -> None:
    alone = PandaFunctionOperator(task_id="t", python_callable=double, op_kwargs={"x": 1})
    assert left_for_worker(alone, resumed_by=PandaFunctionOperator) is None


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"value_format": "cloudpickle"}, "unpickled"),
        ({"map_over": "x", "retry": "failed_jobs"}, "is forgotten"),
        ({"do_xcom_push": False}, "not one plain XCom"),
        ({"multiple_outputs": True}, "not one plain XCom"),
        ({"outlets": [Asset("a")]}, "outlets"),
        ({"map_index_template": "{{ x }}"}, "map index"),
        ({"on_success_callback": print}, "callbacks"),
        ({"on_execute_callback": print}, "callbacks"),
        ({"pre_execute": print}, "hooks"),
        ({"post_execute": print}, "hooks"),
    ],
)
def test_who_asks_for_more_than_the_value_gets_a_worker(arguments: dict[str, Any], told: str) -> None:
    assert told in (reason(**arguments) or "")


class OwnEnd(PandaFunctionOperator):
    def execute_complete(self, context: Any, event: dict[str, Any]) -> Any:
        return super().execute_complete(context, event)


class OwnHook(PandaFunctionOperator):
    def post_execute(self, context: Any, result: Any = None) -> None: ...


@pytest.mark.parametrize(("kind", "told"), [(OwnEnd, "its own"), (OwnHook, "hooks")])
def test_a_subclass_with_an_end_of_its_own_gets_a_worker(kind: type[PandaFunctionOperator], told: str) -> None:
    assert told in (reason(kind) or "")


def test_the_decorators_operator_leaves_nothing_unless_tasks_are_mapped_over_it() -> None:
    with DAG("d", schedule=None, start_date=datetime.datetime(2026, 1, 1)) as dag:

        @task
        def use(value: int) -> None: ...

        plain = task.panda(double)(1)
        use(plain)
        listed = task.panda(map_over="x")(double).override(task_id="listed")([1, 2])
        use.override(task_id="each").expand(value=listed)

    def left(task_id: str) -> str | None:
        return left_for_worker(dag.get_task(task_id), resumed_by=PandaFunctionOperator)  # type: ignore[arg-type]

    assert left(plain.operator.task_id) is None
    assert "mapped over" in (left("listed") or "")


def test_a_backend_of_xcoms_gets_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xcom, "XCom", type("Own", (xcom.BaseXCom,), {}))
    assert "backend" in (reason() or "")


def test_a_listener_of_successes_gets_a_worker() -> None:
    from airflow.listeners import hookimpl
    from airflow.sdk.listener import get_listener_manager

    class Listener:
        @hookimpl
        def on_task_instance_success(self, previous_state: Any, task_instance: Any) -> None: ...

    manager, listener = get_listener_manager(), Listener()
    manager.pm.register(listener)
    try:
        assert "listener" in (reason() or "")
    finally:
        manager.pm.unregister(listener)
    assert reason() is None


@pytest.mark.parametrize(
    ("arguments", "allowed", "returns"),
    [
        ({}, True, "value"),
        ({"map_over": "x"}, True, "list"),
        ({"outlets": [Asset("a")]}, True, None),
        ({}, False, None),
    ],
)
def test_the_trigger_is_told_what_it_may_do(
    monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any], allowed: bool, returns: str | None
) -> None:
    monkeypatch.setattr(configuration, "end_in_triggerer", lambda: allowed)
    with DAG("d", schedule=None, start_date=datetime.datetime(2026, 1, 1)):
        operator = PandaFunctionOperator(task_id="t", python_callable=double, op_kwargs={"x": [1]}, **arguments)
    spec = TaskSpec(key="afabcd", name="n", n_jobs=1, command="c", archive_name="a", processing_type="p")
    with pytest.raises(TaskDeferred) as deferred:
        operator._defer(spec, Submission(task_name="n", task_id=1))
    assert deferred.value.trigger.returns == returns


def test_ending_in_the_triggerer_is_an_option_of_airflow(monkeypatch: pytest.MonkeyPatch) -> None:
    assert configuration.end_in_triggerer() is True
    monkeypatch.setenv("AIRFLOW__PANDA__END_IN_TRIGGERER", "False")
    assert configuration.end_in_triggerer() is False
