"""A run by iDDS's own client, as its users write it. Runs in iDDS's virtualenv, in a folder that is shipped.

``own_client.py INIT_ENV FUNCTION ARGUMENT``: submits one work and prints the request's and the transform's id as JSON;
with an empty INIT_ENV, also waits for the value that iDDS's own runner sends home. The module
``funcs`` in the working directory holds the function. Configured by environment variables, as iDDS's client is.
"""

from __future__ import annotations

import json
import sys

import funcs
from idds.iworkflow.work import Work
from idds.iworkflow.workflow import Workflow


def main(init_env: str, function: str, argument: int) -> None:
    """Submit, and say what became of it."""
    workflow = Workflow(func=funcs.steer, service="idds", local=True, init_env=None)
    workflow.prepare()
    request_id = workflow.submit()
    work = Work(
        func=getattr(funcs, function),
        workflow_context=workflow._context,
        args=[argument],
        init_env=init_env or None,
    )
    transform_id = work.submit()
    told = {"request_id": request_id, "transform_id": transform_id, "value": None}
    if not init_env:
        work.init_async_result()
        told["value"] = work.wait_results()
    print(f"TOLD {json.dumps(told)}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
