"""What the jobs of a made up task publish, and the process that publishes it. A companion of ``fanout_trigger.py``.

As a program it takes its order, one line of JSON, and then a line to begin, on stdin.
"""

from __future__ import annotations

import json
import random
import socket
import sys
from pathlib import Path
from typing import Any, Final

if __name__ == "__main__":
    sys.path.pop(0)  # this folder, where airflow.py would be taken for Airflow
sys.path.insert(0, str(Path(__file__).parents[1]))

from airflow_provider_panda.payload import envelope
from airflow_provider_panda.payload.publish import encode_frame

TRACEBACK: Final = "".join(
    f'  File "analysis.py", line {n}, in step_{n}\n    return step_{n + 1}(é)\n' for n in range(20)
)

CASES: Final = {
    "returned": "every job returns a small value",
    "failed": "every job raises",
    "mixed": "every second job, at random, raises",
    "missing": "nothing comes home of a killed task",
    "given up": "nothing comes home of a done task",
}
"""What the jobs of a call come to; the call collects failures."""


def raises(job: int, case: str) -> bool:
    """Whether a job raises in a case."""
    return case == "failed" or (case == "mixed" and random.Random(job).random() < 0.5)


def message_of(job: int, case: str, *, key: str, signing_key: bytes) -> tuple[dict[str, str], str]:
    """Return headers and body of the message that a job publishes, as the runner makes them."""
    failed = raises(job, case)
    exception = {"type": "OddError", "message": f"{job} is odd", "traceback": TRACEBACK} if failed else None
    report = {
        "task_key": key, "job": job, "attempt": 1, "status": envelope.RAISED if failed else envelope.RETURNED,
        "encoding": "json", "payload": None if failed else job * job, "exception": exception,
        "start": 1.5, "end": 2.5, "host": f"node{job % 100}.example.org", "site": "SITE", "panda_id": 5_000_000 + job,
        "python": "3.11.7",
    }  # fmt: skip
    return envelope.message(report, envelope.sign(report, signing_key), name="square")


def publish_all(order: dict[str, Any]) -> None:
    """Sign every message, wait for a line on stdin, and publish them over one connection: the publisher's process."""
    broker, signing_key = order["broker"], bytes.fromhex(order["signing_key"])
    frames = []
    for job in range(order["jobs"]):
        headers, body = message_of(job, order["case"], key=order["key"], signing_key=signing_key)
        last = {"receipt": "last"} if job == order["jobs"] - 1 else {}
        frames.append(encode_frame("SEND", {**headers, "destination": broker["destination"], **last}, body.encode()))
    with socket.create_connection(tuple(broker["addresses"][0])) as connection:
        login = {"login": broker["login"], "passcode": broker["passcode"]}
        connection.sendall(
            encode_frame("CONNECT", {"accept-version": "1.2", "host": "h", "heart-beat": "0,0", **login})
        )
        connection.recv(4096)
        print("ready", flush=True)
        sys.stdin.readline()
        for frame in frames:
            connection.sendall(frame)
        print(connection.recv(4096).split(b"\n")[0].decode(), flush=True)


if __name__ == "__main__":
    publish_all(json.loads(sys.stdin.readline()))
