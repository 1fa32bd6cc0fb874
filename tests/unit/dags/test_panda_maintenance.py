"""The maintenance DAG: optional, so it must do nothing until somebody switches it on."""

from __future__ import annotations

import panda_maintenance

from airflow_provider_panda.operators.reap import PandaReapOperator


def test_it_is_paused_and_kills_no_unknown_tasks() -> None:
    dag = panda_maintenance.panda_maintenance()
    assert dag.is_paused_upon_creation is True
    assert dag.max_active_runs == 1
    assert dag.catchup is False
    (reap,) = dag.tasks
    assert isinstance(reap, PandaReapOperator)
    assert (reap.unknown, reap.only_look, reap.grace) == (False, False, 600.0)
