"""Two ways home without the broker: messages that iDDS stored, and job reports that PanDA keeps of finished jobs."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import Any

from airflow_provider_panda.exceptions import EnvelopeError
from airflow_provider_panda.grid.task import JobRecord
from airflow_provider_panda.payload.envelope import BODY_KEY
from airflow_provider_panda.payload.result import JobResult, read_body

log = logging.getLogger(__name__)


def verified_results(records: Iterable[JobRecord], *, key: bytes, task_key: str) -> Iterator[JobResult]:
    """Yield the verified results among the job reports that PanDA kept (facts/panda.md section 10).

    :param records: records of attempts.
    :param key: signing key of the task.
    :param task_key: key of the task.
    """
    for record in records:
        if record.report is None or BODY_KEY not in record.report:
            continue
        try:
            yield read_body(record.report, key=key, task_key=task_key)
        except EnvelopeError as error:
            log.warning("%s: job report of PandaID %d ignored: %s", task_key, record.panda_id, error)


def verified_messages(bodies: Iterable[Any], *, key: bytes, task_key: str) -> Iterator[JobResult]:
    """Yield the verified results among the message bodies that iDDS stored.

    :param bodies: bodies of messages, of any task.
    :param key: signing key of the task.
    :param task_key: key of the task.
    """
    for body in bodies:
        try:
            yield read_body(body, key=key, task_key=task_key)
        except EnvelopeError as error:
            log.warning("%s: message that iDDS stored ignored: %s", task_key, error)
