"""The refined parameters of the tasks that were needed last."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from airflow_provider_panda.local.refine import Refined, refine
from airflow_provider_panda.local.store import TaskRow

KEPT: Final = 64
"""Tasks whose refined parameters are kept."""


class Parameters:
    """Refines the parameters of tasks, each once while it is in use.

    :param vos: virtual organisations that the grid knows.
    """

    def __init__(self, vos: Sequence[str]) -> None:
        self._vos = vos
        self._refined: OrderedDict[int, Refined] = OrderedDict()

    def refined(self, task: TaskRow) -> Refined:
        """Return a task's parameters as refined.

        :raises BrokenTaskError: nothing can be made of them.
        """
        known = self._refined.get(task.task_id)
        if known is None:
            known = refine(json.loads(task.params), task_id=task.task_id, vos=self._vos)
            self._refined[task.task_id] = known
            while len(self._refined) > KEPT:
                self._refined.popitem(last=False)
        else:
            self._refined.move_to_end(task.task_id)
        return known

    def forget(self, task_id: int) -> None:
        """Drop what was derived from a task's parameters, since they changed."""
        self._refined.pop(task_id, None)
