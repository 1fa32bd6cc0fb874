"""An embedded grid that is brought into the situations in which the real server was listened to."""

from __future__ import annotations

import gzip
import json
import random
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import httpx

from tests.integration.local.conftest import RunningGrid

from .commands import eventually, states
from .listener import Listener
from .samples import Sample, exchanges

QUEUE, PILOT_QUEUE, EMPTY_QUEUE = "LOCAL_TEST", "PILOT_TEST", "EMPTY_TEST"
USER = "Test User"
OPTIONS = (
    *("--slots", "0", "--user", USER, "--report-delay", "0", "--finish-delay", "0.05"),
    *("--retry-delay", "0", "--command-delay", "0.05", "--vo", "wlcg"),
    *("--queue", QUEUE, "--queue", PILOT_QUEUE, "--queue", EMPTY_QUEUE),
)
REPORT = {"my": "jobReport", "executor": [{"exitCode": 0}], "user_job_metadata": {"result": 42}}
FAILURE = {
    "trans_exit_code": 3,
    "pilot_error_code": 1305,
    "pilot_error_diag": "Failed to execute payload:boom",
    "exe_error_code": 3,
    "exe_error_diag": "boom diag",
}


@dataclass(frozen=True, slots=True)
class Replay:
    """What a situation makes of a captured request.

    :param grid: the grid to send it to.
    :param ids: which id stands for a captured one.
    :param names: which name stands for a captured one.
    :param upload: content of the file to upload.
    """

    grid: RunningGrid
    ids: Mapping[int, int] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    upload: bytes = b""


def sandbox(seed: int) -> bytes:
    """Return a gzip file, the same for the same seed."""
    return gzip.compress(random.Random(seed).randbytes(2000), mtime=1)


class World:
    """Tasks in the situations of the samples, each made when it is first needed.

    :param grid: a grid with outside pilots only: the world drives the jobs itself.
    :param unregistered: a grid on which a submitted task stays unregistered, and that has an iDDS.
    :param listener: hears the first grid's status messages.
    """

    def __init__(self, grid: RunningGrid, unregistered: RunningGrid, listener: Listener) -> None:
        self.grid, self.unregistered, self.listener = grid, unregistered, listener
        self._samples = exchanges()
        self.done  # noqa: B018 - the first task of the grid, as it was on the real server

    # --- tasks -----------------------------------------------------------------------------------------------

    def parameters(self, **changes: Any) -> dict[str, Any]:
        """Return the task parameters of the first captured submission, under a new name."""
        text = json.dumps(self._samples["task.submit#0"].body["task_parameters"])
        name = f"user.tuser.{uuid.uuid4()}"
        params = json.loads(re.sub(r"user\.tuser\.[0-9a-f-]{36}", name, text))
        return {**params, **changes}

    def parameters_of_two(self, **changes: Any) -> dict[str, Any]:
        """Return parameters of a task with two inputs, as the second captured task had them."""
        params = self.parameters(nFiles=2, pfnList=["in0", "in1"], maxAttempt=1, maxFailure=1)
        params["jobParameters"].append({"type": "constant", "value": '-i "${IN/T}"'})
        return {**params, **changes}

    def submit(self, params: dict[str, Any]) -> int:
        answer = self.grid.post("task/submit", task_parameters=params, parent_tid=None)
        assert answer["success"], answer
        return int(answer["data"])

    def running(self, params: dict[str, Any] | None = None) -> int:
        """Return a new task that is running, its jobs activated."""
        task_id = self.submit(params or self.parameters())
        self.grid.wait(task_id, "running")
        self.jobs(task_id, "activated")
        return task_id

    def jobs(self, task_id: int, state: str) -> list[dict[str, Any]]:
        """Return the jobs of a task once all of them are in a state."""
        eventually(lambda: set(states(self.grid, task_id)) == {state})
        return self.grid.jobs(task_id)

    def take(self, task_id: int, count: int = 1) -> list[dict[str, Any]]:
        """Hand the waiting jobs of a task to a pilot, and return them."""
        answer = self.grid.post(
            "pilot/acquire_jobs",
            origin="wlcg.pilot",
            site_name=QUEUE,
            prod_source_label="user",
            node="worker.local",
            n_jobs=count,
            task_id=task_id,
        )
        assert answer["success"], answer
        jobs = answer["data"]["jobs"]
        for job in jobs:
            self.update(job["PandaID"], "starting")
            self.update(job["PandaID"], "running")
        return list(jobs)

    def update(self, panda_id: int, status: str, **more: Any) -> dict[str, Any]:
        return self.grid.post(
            "pilot/update_job",
            origin="wlcg.pilot",
            job_id=panda_id,
            job_status=status,
            node="worker.local",
            **more,
        )

    def finish(self, job: dict[str, Any]) -> None:
        """Have a pilot report success."""
        files = {job["logFile"]: {"guid": job["logGUID"], "fsize": 1234, "adler32": "0cc737eb"}}
        self.update(
            job["PandaID"],
            "finished",
            trans_exit_code=0,
            job_output_report=json.dumps(files),
            meta_data=json.dumps(REPORT),
            cpu_consumption_time=1,
            pilot_id="http://x/log|GENERIC|1",
        )

    def fail(self, job: dict[str, Any]) -> None:
        """Have a pilot report failure."""
        self.update(job["PandaID"], "failed", cpu_consumption_time=1, pilot_id="http://x/log|GENERIC|1", **FAILURE)

    def half_failed(self, *, waiting: bool = False) -> int:
        """Return a new task with one input processed and one failed; with ``waiting``, a third one still to do."""
        params = self.parameters_of_two()
        if waiting:
            params.update(nFiles=3, pfnList=["in0", "in1", "in2"])
        task_id = self.running(params)
        good, bad = self.take(task_id, 2)
        self.finish(good)
        self.fail(bad)
        if waiting:
            eventually(lambda: self.grid.get("task/get_detailed_info", task_id=task_id)["data"]["nFilesFailed"] == 1)
        else:
            self.grid.wait(task_id, "finished")
        return task_id

    @cached_property
    def done(self) -> int:
        """A task that is done; it had one job."""
        task_id = self.running(self.parameters())
        self.finish(self.take(task_id)[0])
        self.grid.wait(task_id, "done")
        return task_id

    @cached_property
    def finished(self) -> int:
        """A task that is finished: one input processed, one failed."""
        return self.half_failed()

    @cached_property
    def active(self) -> int:
        """A task with one waiting job that nobody takes."""
        return self.running()

    @cached_property
    def with_running_job(self) -> int:
        """A task with one job that a pilot runs."""
        task_id = self.running()
        self.take(task_id)
        return task_id

    @cached_property
    def pending(self) -> int:
        """A task for which there is no queue."""
        task_id = self.submit(self.parameters(site="NO_SUCH_SITE"))
        self.grid.wait(task_id, "pending")
        return task_id

    @cached_property
    def ended_in_every_way(self) -> tuple[int, ...]:
        """Tasks that went through all the states that were seen on the broker."""
        unplaced = self.submit(self.parameters(site="NO_SUCH_SITE"))
        self.grid.wait(unplaced, "pending")
        self.grid.post("task/finish", task_id=unplaced)
        self.grid.wait(unplaced, "failed")
        killed = self.running()
        self.grid.post("task/kill", task_id=killed)
        self.grid.wait(killed, "aborted")
        return self.done, self.finished, unplaced, killed

    def job_of(self, task_id: int, status: str | None = None) -> int:
        """Return the PandaID of a task's first job, or of its first in a state."""
        return int(next(j["PandaID"] for j in self.grid.jobs(task_id) if status in (None, j["jobStatus"])))

    # --- requests --------------------------------------------------------------------------------------------

    def send(self, sample: Sample, replay: Replay) -> httpx.Response:
        """Send a captured request again, to this grid, with the ids and names of this situation."""
        url = replay.grid.url + re.sub(
            r"(?<==)\d+(?=&|$)", lambda m: str(replay.ids.get(int(m.group()), m.group())), sample.path
        )
        headers = {
            name: value.replace("<token>", replay.grid.token)
            for name, value in sample.headers.items()
            if not value.startswith("multipart/")
        }
        body = self._replaced(sample.body, replay)
        with httpx.Client(timeout=60, verify=False) as client:
            if isinstance(body, str) and body.startswith("(multipart)"):
                upload = {"file": (body.rsplit("=", 1)[1], replay.upload, "application/octet-stream")}
                return client.request(sample.method, url, headers=headers, files=upload)
            if body in ("", None):
                return client.request(sample.method, url, headers=headers)
            if isinstance(body, str):
                plain = body.removeprefix("[gzip]")
                content = gzip.compress(plain.encode()) if plain != body else body.encode()
                return client.request(sample.method, url, headers=headers, content=content)
            return client.request(sample.method, url, headers=headers, content=json.dumps(body).encode())

    def _replaced(self, value: Any, replay: Replay) -> Any:
        if isinstance(value, dict):
            return {k: self._replaced(v, replay) for k, v in value.items()}
        if isinstance(value, list):
            return [self._replaced(v, replay) for v in value]
        if isinstance(value, str):
            for old, new in replay.names.items():
                value = value.replace(old, new)
            return value
        return replay.ids.get(value, value) if type(value) is int else value
