"""A task instance and a PanDA as an operator sees them, without Airflow's processes."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import pytest
from airflow.providers.common.compat.sdk import TaskDeferred

from airflow_provider_panda.operators.earlier import Left, read
from tests.stack.scripted_panda import ScriptedPanda, Seen, envelope

LIST, SUBMIT, KILL = "task/get_tasks_detailed_info_since", "task/submit", "task/kill"
SECRET = "secret of the operator tests"


class TaskInstance:
    """What operators use of a task instance: names, an id of its own, and XComs."""

    def __init__(self) -> None:
        self.id = str(uuid4())
        self.dag_id, self.task_id, self.run_id, self.map_index = "dag", "task", "manual__1", -1
        self.xcoms: dict[str, Any] = {}

    def xcom_push(self, key: str, value: Any) -> None:
        self.xcoms[key] = json.loads(json.dumps(value))

    def xcom_pull(self, task_ids: Any = None, key: str = "return_value", map_indexes: Any = None) -> Any:
        return self.xcoms.get(key)


class Store(dict[str, Any]):
    """The task state store."""

    def set(self, name: str, value: Any) -> None:
        self[name] = value

    def delete(self, name: str) -> None:
        self.pop(name, None)


class Scene:
    """One try of one task instance against a scripted PanDA."""

    def __init__(self, panda: ScriptedPanda, store: Store | None = None) -> None:
        self.panda, self.ti, self.store = panda, TaskInstance(), store if store is not None else Store()
        panda.on(LIST, envelope([]))
        panda.on(SUBMIT, envelope(7, message="succeeded. new jediTaskID=7"))
        panda.on("file_server/upload_cache_file", envelope(None))

    @property
    def context(self) -> dict[str, Any]:
        return {"ti": self.ti, "task_state_store": self.store}

    def left(self) -> Left:
        """Return what a later try is told."""
        found = read(self.context)  # type: ignore[arg-type]
        assert found is not None
        return found

    def deferred(self, operator: Any) -> TaskDeferred:
        """Execute an operator that has to defer, and return what it deferred with."""
        with pytest.raises(TaskDeferred) as deferred:
            operator.execute(self.context)
        return deferred.value

    def submitted(self) -> dict[str, Any]:
        """Return the parameters of the one submission."""
        (seen,) = self.panda.calls(SUBMIT)
        parameters: dict[str, Any] = seen.json["task_parameters"]
        return parameters

    def calls(self, path: str) -> list[Seen]:
        return self.panda.calls(path)


def panda_connection(url: str, **extra: Any) -> str:
    """Return a connection of type panda as the environment has it."""
    fields = {"auth": "none", "vo": "wlcg", "instance_secret": SECRET, "monitor_url": "https://monitor", **extra}
    return json.dumps({"conn_type": "panda", "host": url, "extra": fields})


def row(status: str, task_id: int = 7, **columns: Any) -> dict[str, Any]:
    """Return a task as PanDA lists it."""
    counts = {"nFiles": 2, "nFilesFinished": 2 if status == "done" else 1, "nFilesFailed": 0 if status == "done" else 1}
    return {"jediTaskID": task_id, "taskName": "some.task", "status": status, "errorDialog": None, **counts, **columns}
