"""Print an iDDS workflow of two PanDA works, the second of which follows the first, as its users write one.

``doma_workflow.py NAME QUEUE FIRST SECOND``: runs in iDDS's virtualenv; FIRST and SECOND are the works' shell lines.
"""

from __future__ import annotations

import sys

from idds.common.utils import json_dumps
from idds.doma.workflowv2.domapandawork import DomaPanDAWork
from idds.workflowv2.workflow import Workflow


def work(name: str, queue: str, line: str, dependencies: list[dict[str, object]]) -> DomaPanDAWork:
    """Return a work of one job."""
    return DomaPanDAWork(
        executable=line,
        primary_input_collection={"scope": "pseudo", "name": f"{name}_in"},
        output_collections=[{"scope": "pseudo", "name": f"{name}_out"}],
        log_collections=[],
        dependency_map=[{"name": f"{name}_0", "dependencies": dependencies, "submitted": False}],
        task_name=name,
        task_queue=queue,
        encode_command_line=True,
        prodSourceLabel="managed",
        working_group=None,
        maxattempt=1,
        task_log={
            "destination": "local",
            "value": "log.tgz",
            "dataset": "PandaJob_#{pandaid}/",
            "token": "local",
            "param_type": "log",
            "type": "template",
        },
    )


def main(name: str, queue: str, first: str, second: str) -> None:
    """Print the workflow."""
    one, two = f"{name}_first", f"{name}_second"
    workflow = Workflow(name=name)
    workflow.add_work(work(one, queue, first, []))
    after = [{"task": one, "inputname": f"{one}_0", "available": False}]
    workflow.add_work(work(two, queue, second, after))
    print(f"TOLD {json_dumps(workflow)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
