"""Runs a function by iDDS's own client, once for each line of stdin. The companion of ``idds_overhead.py``.

For iDDS's virtualenv, in a folder that holds ``no_op.py`` and nothing else, for the client ships the whole folder.
Configured by environment variables, as the client is. As iDDS's own ``@work`` does it: one workflow, made once, and for
each call a ``Work`` of it, ``submit`` and ``wait_results``. Each answer is one line of JSON on stdout; whatever the
client says is on stderr.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

answers = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)  # before the client is imported, which may log to stdout

from idds.iworkflow.work import Work  # noqa: E402
from idds.iworkflow.workflow import Workflow  # noqa: E402
from no_op import no_op  # type: ignore[import-not-found]  # noqa: E402


def set_up() -> tuple[Workflow, dict[str, Any]]:
    """Upload the folder, and make the request that all calls share."""
    began = time.time()
    workflow = Workflow(func=no_op, service="idds", local=True, init_env=None)
    workflow.prepare()
    request_id = workflow.submit()
    return workflow, {"seconds": time.time() - began, "request_id": request_id}


def call(workflow: Workflow) -> dict[str, Any]:
    """Run the function once."""
    began = time.time()
    work = Work(func=no_op, workflow_context=workflow._context)
    transform_id = work.submit()
    submitted = time.time()
    value = work.wait_results()
    arrived = time.time()
    return {
        "began": began, "submitted": submitted, "arrived": arrived, "transform_id": transform_id,
        "value": value if isinstance(value, list) else repr(value),
    }  # fmt: skip


def main() -> None:
    """Answer once when ready, then once for each line."""
    workflow, told = set_up()
    answers.write(json.dumps(told) + "\n")
    for _ in sys.stdin:
        answers.write(json.dumps(call(workflow)) + "\n")


if __name__ == "__main__":
    main()
