"""``@task.panda``: a decorated function becomes a task that runs on the grid."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, ParamSpec, TypeVar, overload

from airflow.providers.common.compat.sdk import DecoratedOperator, task_decorator_factory
from airflow.sdk.serde import allow_class

from airflow_provider_panda.operators.function import PandaFunctionOperator
from airflow_provider_panda.payload.result import JobFailure
from airflow_provider_panda.payload.xcom import GridValue

if TYPE_CHECKING:
    from datetime import timedelta
    from os import PathLike
    from types import ModuleType

    from airflow.sdk.bases.decorator import Task

    from airflow_provider_panda.grid.outcome import OnJobError, WaitFor
    from airflow_provider_panda.operators.missing import Retry
    from airflow_provider_panda.payload.command import Environment

# A DAG file that uses this decorator is parsed by every worker that reads such a task's XCom.
allow_class(GridValue)
allow_class(JobFailure)

P = ParamSpec("P")
R = TypeVar("R")


class _PandaDecoratedOperator(DecoratedOperator, PandaFunctionOperator):  # type: ignore[misc] # op_args: list and Collection
    """The operator behind ``@task.panda``."""

    template_fields: Sequence[str] = PandaFunctionOperator.template_fields
    template_fields_renderers: ClassVar[dict[str, str]] = PandaFunctionOperator.template_fields_renderers
    custom_operator_name: str = "@task.panda"

    def __init__(
        self,
        *,
        python_callable: Callable[..., Any],
        op_args: Sequence[Any] = (),
        op_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            python_callable=python_callable,
            op_args=op_args,
            op_kwargs=op_kwargs,
            kwargs_to_upstream={"python_callable": python_callable, "op_args": op_args, "op_kwargs": op_kwargs},
            **kwargs,
        )


@overload
def panda_task(python_callable: Callable[P, R]) -> Task[P, R]: ...


@overload
def panda_task(
    *,
    multiple_outputs: bool | None = None,
    map_over: str | Sequence[str] | None = None,
    panda_conn_id: str = ...,
    queue: str | None = None,
    cloud: str | None = None,
    working_group: str | None = None,
    core_count: int = 1,
    memory_mb: int | None = None,
    walltime: float | timedelta | None = None,
    priority: int = 900,
    max_attempt: int = 3,
    retry_on_exception: bool = False,
    environment: Environment | Mapping[str, Any] | None = None,
    serializer: Literal["auto", "source", "cloudpickle"] = "auto",
    value_format: Literal["json", "cloudpickle"] = "json",
    include: Sequence[str | ModuleType | PathLike[str]] = (),
    on_job_error: OnJobError = "fail",
    min_success: int | float | None = None,
    retry: Retry = "all",
    wait_for: WaitFor = "results",
    deadline: float | timedelta | None = None,
    airflow_queue: str | None = None,
    **kwargs: Any,
) -> Callable[[Callable[P, R]], Task[P, R]]: ...


def panda_task(python_callable: Callable[..., Any] | None = None, **kwargs: Any) -> Any:
    """Turn a function into a task that runs on the grid; the typed form of ``@task.panda``.

    Parameters are those of :class:`~airflow_provider_panda.operators.function.PandaFunctionOperator` and of every
    Airflow operator.
    """
    if "queue" in kwargs:
        # Airflow routes a mapped task by "queue"; ours is PanDA's.
        kwargs["panda_queue"] = kwargs.pop("queue")
    return task_decorator_factory(
        python_callable=python_callable,
        decorated_operator_class=_PandaDecoratedOperator,
        **kwargs,
    )
