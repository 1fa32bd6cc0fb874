"""The names under which operators and triggers leave a grid task's ids, and how a trigger leaves one late."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

from airflow.providers.common.compat.sdk import XCom

from airflow_provider_panda.hooks.panda import PandaConnection
from airflow_provider_panda.links import LINK_KEY, PandaTaskLink, task_url

TASK_ID_KEY: Final = "panda_task_id"
"""XCom and task state key of the jediTaskID."""
TASK_KEY_KEY: Final = "panda_task_key"
"""XCom and task state key of the task key."""
REQUEST_ID_KEY: Final = "idds_request_id"
"""XCom and task state key of the iDDS request."""
TRANSFORM_ID_KEY: Final = "idds_transform_id"
"""XCom and task state key of the iDDS transform."""
CONNECTION_KEY: Final = "panda_conn_id"
"""XCom key of the connection, for whoever closes the request of a DAG run that has ended."""

_telling: set[asyncio.Task[None]] = set()
"""Kept while they run: the loop holds only weak references to tasks."""


def tell_task_id(task_instance: Any, connection: PandaConnection, task_id: int, *, log: logging.Logger | Any) -> None:
    """Leave a jediTaskID that iDDS told late, and the link to its page, once per task and without waiting.

    :param task_instance: the trigger's task instance, or None (as in ``dag.test()``).
    :param connection: the PanDA connection.
    :param task_id: jediTaskID.
    :param log: the trigger's log.
    """
    if task_instance is None:
        return

    async def tell() -> None:
        from asgiref.sync import sync_to_async

        values: dict[str, Any] = {TASK_ID_KEY: task_id}
        if (url := task_url(connection.monitor_url, task_id)) is not None:
            values[LINK_KEY] = url
            # What a worker refreshes when it resumes the task, which may end without one.
            values[PandaTaskLink().xcom_key] = url
        ti = task_instance
        try:
            for key, value in values.items():
                # To the supervisor by a blocking socket: never on the loop.
                await sync_to_async(XCom.set)(
                    key=key, value=value, dag_id=ti.dag_id, task_id=ti.task_id, run_id=ti.run_id, map_index=ti.map_index
                )
        except Exception as error:
            log.warning("the id of PanDA task %d could not be left in XCom: %s", task_id, error)

    telling = asyncio.get_running_loop().create_task(tell(), name=f"tell PanDA task {task_id}")
    _telling.add(telling)
    telling.add_done_callback(_telling.discard)
