"""Links from the Airflow UI to the PanDA monitor."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from airflow.providers.common.compat.sdk import BaseOperatorLink, XCom

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey

LINK_KEY = "panda_task_url"
"""XCom key under which an operator leaves the address of its task's page."""


def task_url(monitor_url: str | None, task_id: int) -> str | None:
    """Return the address of a task's page on the PanDA monitor, or None without a monitor."""
    return None if monitor_url is None else f"{monitor_url.rstrip('/')}/task/{task_id}/"


class PandaTaskLink(BaseOperatorLink):
    """The page of a task instance's PanDA task."""

    name: ClassVar[str] = "PanDA task"

    @property
    def xcom_key(self) -> str:
        """Key under which the worker keeps the rendered link."""
        return "panda_task_link"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """Return the address that the operator left in XCom, or an empty text before submission.

        Read from XCom and not from the operator, since attributes do not survive deferral.
        """
        url = XCom.get_value(key=LINK_KEY, ti_key=ti_key)
        return str(url) if url else ""
