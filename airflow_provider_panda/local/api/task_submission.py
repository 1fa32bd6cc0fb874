"""Submission of tasks: PanDA's ``task/submit``, and what a second submission under one name comes to."""

from __future__ import annotations

import json
import time
from typing import Any

from airflow_provider_panda.local.api.registry import Answer, Call, Module
from airflow_provider_panda.local.resubmission import Code, Verdict, judge, taken_over
from airflow_provider_panda.local.state import TaskState
from airflow_provider_panda.local.store import TaskRow, as_json

_module = Module("task")
CALLS = _module.calls

NEEDED_TO_SUBMIT = ("taskName", "vo", "prodSourceLabel")
NOT_REGISTERED = Answer(False, "failed to register task", 4)


@_module.call("POST")
def submit(call: Call, task_parameters: dict[str, Any], parent_tid: int | None = None) -> Answer:
    """Take a task; it is known to other calls only after a while (the registration gap).

    Whether the parent exists is looked at later, when the task is refined; only a parent given by name is looked up.
    """
    params = dict(task_parameters)
    if not call.user.production or "userName" not in params:
        params["userName"] = call.user.name
    store, engine, now = call.grid.store, call.grid.engine, time.time()
    if "parentTaskName" in params:
        parent = store.tasks.by_name(str(params["parentTaskName"]), str(params["userName"]))
        if parent is None:
            text = f'failed to find parent with user="{params["userName"]}" name={params["parentTaskName"]}'
            return Answer(False, text, 11)
        parent_tid = parent.task_id
    if not call.user.production or "taskType" not in params:
        params.update(taskType="anal", taskPriority=1000)
    if any(key not in params for key in NEEDED_TO_SUBMIT) or not isinstance(params["taskName"], str):
        return NOT_REGISTERED
    if params["taskType"] == "anal" and params.get("uniqueTaskName") is True:
        old = store.tasks.by_name(params["taskName"], str(params["userName"]))
        if old is not None and (old.vo, old.label) == (params["vo"], params["prodSourceLabel"]):
            verdict = resubmit(call, old, params, now, allow_active=False)
            if verdict.code is Code.REEXECUTED:
                return Answer(True, verdict.message, old.task_id)
            return Answer(False, verdict.message, int(verdict.code))
    columns = {
        "name": params["taskName"],
        "owner": params["userName"],
        "nickname": call.user.nickname,
        "vo": params["vo"],
        "label": params["prodSourceLabel"],
        "processing_type": params.get("processingType"),
        "working_group": params.get("workingGroup"),
        "cloud": params.get("cloud") or params.get("workingGroup"),
        "site": params.get("site"),
        "task_type": params["taskType"],
    }
    integers = {"req_id": params.get("reqID"), "priority": params.get("taskPriority")}
    if any(v is not None and not isinstance(v, str) for v in columns.values()) or any(
        v is not None and (not isinstance(v, int) or abs(v) >= 2**63) for v in integers.values()
    ):
        return NOT_REGISTERED
    task_id = store.tasks.insert(
        **columns,
        req_id=integers["req_id"],
        priority=1000 if integers["priority"] is None else integers["priority"],
        parent_id=parent_tid,
        state=TaskState.WAITING,
        params=as_json(params),
        created=now,
        modified=now,
        state_changed=now,
        due=now + call.grid.options.register_delay,
    )
    store.commit()
    engine.wake()
    return Answer(True, f"succeeded. new jediTaskID={task_id}", task_id)


def resubmit(call: Call, old: TaskRow, params: dict[str, Any], now: float, *, allow_active: bool) -> Verdict:
    """Submit parameters under the name of a task that exists, and return what came of it.

    :param allow_active: whether a running task of a user takes them as well, as for a retry with new parameters.
    """
    verdict = judge(old.state, task_id=old.task_id, name=old.name, label=old.label, allow_active=allow_active)
    engine, store = call.grid.engine, call.grid.store
    if verdict.code in (Code.REEXECUTED, Code.AMENDED):
        kept = taken_over(json.loads(old.params), params)
        store.tasks.update(old.task_id, params=as_json(kept), site=kept.get("site"))
        engine.parameters.forget(old.task_id)
    if verdict.code is Code.REEXECUTED:
        engine.commands.reexecute(old, by=call.user.name, now=now)
    engine.ledger.flush()
    return verdict
