"""Values that came home, decoded in the worker: from the trigger's event, or from PanDA's own record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_provider_panda.exceptions import MissingResultsError
from airflow_provider_panda.grid.reports import verified_results
from airflow_provider_panda.payload import envelope, values
from airflow_provider_panda.payload.result import decode_value, read_envelope

if TYPE_CHECKING:
    from airflow_provider_panda.grid.panda import PandaGrid
    from airflow_provider_panda.triggers.event import FunctionEvent


def collect_values(came: FunctionEvent, *, grid: PandaGrid, key: bytes, allow_pickle: bool) -> dict[int, Any]:
    """Return the decoded values by job.

    :param came: what the trigger told.
    :param grid: where results are fetched that were too large for the event.
    :param key: signing key of the task.
    :param allow_pickle: whether the call asked for cloudpickle values.
    :raises MissingResultsError: a job that returned has no readable value in PanDA's record.
    :raises ValueDecodeError: a value cannot be rebuilt here.
    """
    if came.results is None:
        return _fetch(came, grid, key, allow_pickle)
    decoded: dict[int, Any] = {}
    for entry in came.results:
        if "payload" in entry:
            decoded[entry["job"]] = values.decode(entry["payload"])
        else:
            result = read_envelope(entry["envelope"], key=key, task_key=came.task_key)
            decoded[result.job] = decode_value(result, allow_pickle=allow_pickle)
    return decoded


def _fetch(came: FunctionEvent, grid: PandaGrid, key: bytes, allow_pickle: bool) -> dict[int, Any]:
    failed = {failure.job for failure in came.failures}
    decoded = {
        result.job: decode_value(result, allow_pickle=allow_pickle)
        for result in verified_results(grid.reports(came.task_id), key=key, task_key=came.task_key)
        if result.status == envelope.RETURNED and result.job not in failed
    }
    if missing := [job for job in range(came.n_jobs) if job not in decoded and job not in failed]:
        raise MissingResultsError(
            f"{came.task_key} (PanDA task {came.task_id}): PanDA's record lacks the values of {len(missing)} of "
            f"{came.n_jobs} job(s), which are together too large for a trigger event. Return smaller values, or set a "
            "result store on the PanDA connection",
            task_key=came.task_key,
            task_id=came.task_id,
            jobs=missing,
        )
    return decoded
