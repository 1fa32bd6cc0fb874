"""Whether a worker is needed once a task's value is there, or its trigger may end it where it waits.

A worker slot costs a process that starts, imports Airflow and reads the DAG file. Where all that it would do is hand a
plain value on, the trigger does it. Airflow gives a task that ends so no outlet events, no mapped lengths, and none of
what its worker does around ``execute`` (facts/airflow.md section 2), so whoever asks for any of that gets the worker.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseOperator, conf

if TYPE_CHECKING:
    from airflow_provider_panda.operators.function import PandaFunctionOperator


def left_for_worker(operator: PandaFunctionOperator, *, resumed_by: type[PandaFunctionOperator]) -> str | None:
    """Return what a worker has to do after a success, in words, or None if nothing is left.

    :param operator: the operator of a task instance, in its worker.
    :param resumed_by: the class whose ``execute_complete`` the trigger stands in for; a subclass with one of its own
        wants it called.
    """
    return next(_reasons(operator, resumed_by), None)


def _reasons(operator: PandaFunctionOperator, resumed_by: type[PandaFunctionOperator]) -> Iterator[str]:
    given: Any = operator
    if operator.value_format != "json":
        yield "its value is unpickled"
    if operator.retry != "all":
        yield "what its retry would have kept is forgotten"
    if type(operator).execute_complete is not resumed_by.execute_complete:
        yield "execute_complete is its own"
    if not operator.do_xcom_push or given.multiple_outputs or given.returns_dag_result:
        yield "its value is not one plain XCom"
    if operator.outlets:
        yield "it has outlets"
    if given.map_index_template:
        yield "its map index is rendered"
    if operator.on_execute_callback or operator.on_success_callback:
        yield "it has callbacks"
    if _has_hooks(operator):
        yield "it has execution hooks"
    if given.has_dag() and next(given.iter_mapped_dependants(), None) is not None:
        yield "tasks are mapped over its value"
    yield from _reasons_of_airflow()


def _has_hooks(operator: BaseOperator) -> bool:
    kind = type(operator)
    overridden = kind.pre_execute is not BaseOperator.pre_execute or kind.post_execute is not BaseOperator.post_execute
    return overridden or operator._pre_execute_hook is not None or operator._post_execute_hook is not None


def _reasons_of_airflow() -> Iterator[str]:
    from airflow.sdk.bases.xcom import BaseXCom
    from airflow.sdk.execution_time.xcom import XCom
    from airflow.sdk.listener import get_listener_manager

    if XCom is not BaseXCom:
        yield "XComs have a backend of their own"
    if conf.getboolean("state_store", "clear_on_success", fallback=False):
        yield "its state store is cleared"
    if get_listener_manager().hook.on_task_instance_success.get_hookimpls():
        yield "a listener hears of successes"
