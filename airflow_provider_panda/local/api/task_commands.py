"""Commands of PanDA's module ``task``: what owners and operators ask of tasks that exist."""

from __future__ import annotations

import json
import time
from typing import Any

from airflow_provider_panda.local import machine
from airflow_provider_panda.local.api.job import kill_jobs
from airflow_provider_panda.local.api.registry import Answer, Call, Module
from airflow_provider_panda.local.api.task_submission import resubmit
from airflow_provider_panda.local.resubmission import Code
from airflow_provider_panda.local.state import Command
from airflow_provider_panda.local.store import TaskRow

_module = Module("task")
CALLS = _module.calls

NOT_OWNER = "not the task owner or no production role"
STILL_RUNNING = "retry has been triggered for failed jobs while the task is still"


def _owned(call: Call, task_id: int) -> TaskRow | Answer:
    task = call.grid.store.tasks.get(task_id)
    if task is None or not task.known:
        if call.user.production:
            return Answer(False, f"jediTaskID={task_id} not found", 2)
        return Answer(False, NOT_OWNER)
    if not call.user.production and task.owner != call.user.name:
        return Answer(False, NOT_OWNER)
    return task


def _command(call: Call, task_id: int, command: Command, *, soft: bool = False) -> Answer:
    task = _owned(call, task_id)
    if isinstance(task, Answer):
        return task
    if not machine.accepts(command, task.state):
        return Answer(False, machine.rejection(command, task.state), 4)
    call.grid.engine.commands.take(task, command, by=call.user.name, now=time.time(), soft=soft)
    call.grid.engine.ledger.flush()
    return Answer(True, machine.registration(command, task_id), 0)


@_module.call("POST")
def kill(call: Call, task_id: int, broadcast: bool = False) -> Answer:
    """Kill a task and its jobs."""
    return _command(call, task_id, Command.KILL)


@_module.call("POST")
def finish(call: Call, task_id: int, soft: bool = False, broadcast: bool = False) -> Answer:
    """End a task with what it has; soft waits for running jobs."""
    return _command(call, task_id, Command.FINISH, soft=soft)


@_module.call("POST", role="production")
def pause(call: Call, task_id: int) -> Answer:
    """Hold a task."""
    return _command(call, task_id, Command.PAUSE)


@_module.call("POST", role="production")
def resume(call: Call, task_id: int) -> Answer:
    """Let a held task go on."""
    return _command(call, task_id, Command.RESUME)


@_module.call("POST", role="production")
def release(call: Call, task_id: int) -> Answer:
    """Let a task skip the staging of its inputs; here nothing is staged, so it changes nothing."""
    return _command(call, task_id, Command.RELEASE)


@_module.call("POST")
def reload_input(call: Call, task_id: int, ignore_hard_exhausted: bool = False) -> Answer:
    """Run a task again that had ended, on the inputs that it has now."""
    return _command(call, task_id, Command.INCEXEC)


@_module.call("POST")
def retry(
    call: Call,
    task_id: int,
    new_parameters: dict[str, Any] | str | None = None,
    no_child_retry: bool = False,
    discard_events: bool = False,
    disable_staging_mode: bool = False,
    keep_gshare_priority: bool = False,
    ignore_hard_exhausted: bool = False,
) -> Answer:
    """Try what failed in a task again. Of a known task, success is always true: the data says how it went."""
    task = _owned(call, task_id)
    if isinstance(task, Answer):
        return task
    engine, now = call.grid.engine, time.time()
    if new_parameters:
        return _retry_with(call, task, new_parameters, now)
    if machine.retries_while_running(task.state, task.label):
        engine.commands.retry_running(task, now)
        engine.ledger.flush()
        return Answer(True, f"{STILL_RUNNING} {task.state}", 0)
    if not machine.accepts(Command.RETRY, task.state):
        return Answer(True, machine.rejection(Command.RETRY, task.state), 4)
    engine.commands.take(task, Command.RETRY, by=call.user.name, now=now)
    engine.ledger.flush()
    return Answer(True, machine.registration(Command.RETRY, task_id), 0)


def _retry_with(call: Call, task: TaskRow, new_parameters: dict[str, Any] | str, now: float) -> Answer:
    """Retry with new parameters: to the server that is a resubmission, so the data is 3 where it is taken."""
    try:
        changes = json.loads(new_parameters) if isinstance(new_parameters, str) else new_parameters
        params = {**json.loads(task.params), **changes}
    except (ValueError, TypeError) as error:
        return Answer(True, f"new parameter conversion failed with {error}", 1)
    verdict = resubmit(call, task, params, now, allow_active=True)
    if verdict.code is not Code.AMENDED:
        return Answer(True, verdict.message, int(verdict.code))
    call.grid.engine.commands.retry_running(task, now)
    call.grid.engine.ledger.flush()
    return Answer(True, f"{STILL_RUNNING} {verdict.message}", int(Code.REEXECUTED))


@_module.call("POST", role="production")
def reactivate(call: Call, task_id: int, keep_attempt_nr: bool = False, trigger_job_generation: bool = False) -> Answer:
    """Process all inputs of an ended task again, also those that had succeeded."""
    task = call.grid.store.tasks.get(task_id)
    count = 0
    if task is not None and machine.accepts(Command.REACTIVATE, task.state):
        count = call.grid.engine.commands.reactivate(task, time.time(), keep_attempts=keep_attempt_nr)
        call.grid.engine.ledger.flush()
    return Answer(True, f"updated {count} inputs and task {task_id} was reactivated ", 0)


@_module.call("POST", role="production")
def increase_attempts(call: Call, task_id: int, increase: int) -> Answer:
    """Give the unfinished inputs of a task more attempts; those that had failed for good are tried again."""
    if increase < 0:
        return Answer(False, f"increase must be a positive integer, got {increase}")
    task = call.grid.store.tasks.get(task_id)
    if task is None or not task.known:
        return Answer(False, f"jediTaskID={task_id} not found", 1)
    allowed = [state.value for state in machine.ATTEMPTS_INCREASED_IN]
    if task.state.value not in allowed and task.old_state not in allowed:
        text = f"command rejected since status={task.state} or oldStatus={task.old_state} not in {allowed}"
        return Answer(False, text, 2)
    engine, store = call.grid.engine, call.grid.store
    increased = store.inputs.add_attempts(task_id, increase)
    reset = engine.commands.retry_running(task, time.time(), more_attempts=0)
    engine.ledger.flush()
    return Answer(True, f"increased attemptNr for {increased} inputs ({reset} reactivated)", 0)


@_module.call("POST")
def kill_unfinished_jobs(call: Call, task_id: int, code: int | None = None, use_email_as_id: bool = False) -> Answer:
    """Kill the jobs of a task that have not ended; their inputs may be tried again."""
    return Answer(True, "", kill_jobs(call, call.grid.store.jobs.ids_of(task_id)))
