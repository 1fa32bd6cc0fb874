"""Waits for tasks by iDDS's own AsyncResult, and stays. The companion of ``hub.py``.

``idds_waiters.py HOST PORT LOGIN PASSCODE DESTINATION COUNT``, for iDDS's virtualenv. Prints the seconds that it took
to subscribe as JSON. Neither a server nor a task is needed: what AsyncResult asks of a work's context is here.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from types import SimpleNamespace

answers = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)  # before the client is imported, which may log to stdout

from idds.common.constants import WorkflowType  # noqa: E402
from idds.iworkflow.asyncresult import AsyncResult  # noqa: E402


def main(host: str, port: str, login: str, passcode: str, destination: str, count: str) -> None:
    """Subscribe, one after the other, and wait to be ended."""
    logging.disable(logging.INFO)
    context = SimpleNamespace(
        init_brokers=lambda: True, brokers=f"{host}:{port}", broker_timeout=180,
        broker_username=login, broker_password=passcode, broker_destination=destination,
        workflow_type=WorkflowType.iWork, request_id=1, transform_id=1, service="idds",
    )  # fmt: skip
    began = time.time()
    results = [AsyncResult(context, name="f", internal_id=f"idds{number:04d}") for number in range(int(count))]
    for result in results:
        result.subscribe()
    answers.write(json.dumps({"seconds": time.time() - began}) + "\n")
    threading.Event().wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
