"""What a submission under a name that is taken comes to, and what of its parameters is taken over.

After insertTaskParamsPanda of panda-server 1.0 (facts/panda.md section 3). The words are the server's own: panda-client
prints them, and reads the task's id out of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

from airflow_provider_panda.local.state import TaskState

_T = TaskState

REEXECUTED_FROM: Final = frozenset({_T.FINISHED, _T.FAILED, _T.ABORTED, _T.DONE, _T.EXHAUSTED})
"""States of the old task in which it takes the new parameters and runs again."""
AMENDED_IN: Final = frozenset({_T.RUNNING, _T.PENDING})
"""States in which a retry with new parameters changes a user's task that still runs."""

TAKEN_OVER: Final = frozenset(
    """
    site cloud includedSite excludedSite cliParams nFiles nEvents fixedSandbox currentPriority priority ramCount
    loopingCheck forceStaged nFilesPerJob nEventsPerJob nGBPerJob nMaxFilesPerJob maxCoreCount avoidVP
    ignoreMissingInDS
    """.split()  # noqa: SIM905 - a list of literals reads worse
)
"""Parameters of a resubmission that count; all others stay those of the first submission."""


class Code(IntEnum):
    """What the server says in the answer's data."""

    QUEUED = 1
    ACTIVE = 2
    REEXECUTED = 3
    AMENDED = 5
    """Only inside the server: task/retry turns it into 3."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a resubmission."""

    code: Code
    message: str


def judge(state: TaskState, *, task_id: int, name: str, label: str | None, allow_active: bool) -> Verdict:
    """Decide what a submission under the name of a known task comes to.

    :param state: state of the task that has the name.
    :param label: its prodSourceLabel.
    :param allow_active: whether the submission is a retry with new parameters, which an active task takes as well.
    """
    if state is TaskState.WAITING:
        return Verdict(
            Code.QUEUED,
            f"jediTaskID={task_id} is already queued for outDS={name}. You cannot submit duplicated tasks. ",
        )
    if state in REEXECUTED_FROM:
        return Verdict(
            Code.REEXECUTED,
            f"reactivation accepted. jediTaskID={task_id} (currently in {state} state) will be re-executed"
            " with old and/or new input",
        )
    if allow_active and state in AMENDED_IN and label == "user":
        return Verdict(Code.AMENDED, f"{state}. new tasks params have been set to jediTaskID={task_id}. ")
    return Verdict(
        Code.ACTIVE,
        f"jediTaskID={task_id} is in the {state} state for outDS={name}. You can re-submit the task with new"
        " parameters for the same or another input once it goes into finished/failed/done. Or you can retry the task"
        " once it goes into running/finished/failed/done. Note that retry != resubmission according to"
        " https://twiki.cern.ch/twiki/bin/view/PanDA/PandaJEDI#Task_retry_and_resubmission ",
    )


def taken_over(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a task after a resubmission: the old ones, with what may change.

    A resubmitted command is not among it: the task runs what it ran, on old or new inputs.
    """
    changed = {key: value for key, value in new.items() if key in TAKEN_OVER or key.startswith("dsFor")}
    if "fixedSandbox" in changed and "sourceURL" in new:
        changed["sourceURL"] = new["sourceURL"]
    if "priority" in changed:
        changed["currentPriority"] = changed.pop("priority")
    if "loopingCheck" in changed:
        changed["noLoopingCheck"] = not changed.pop("loopingCheck")
    return {**old, **changed}
