"""A no-op function through the real iDDS 2.6.21: by this provider, and by iDDS's own client, in turns.

One test stack (tests/stack) serves both: iDDS with its agents in fast mode, ActiveMQ, PostgreSQL and the embedded grid
with all delays zero. Nothing is configured for one of them only. A turn begins when the transform before has ended.

What is compared, each as the ratio of medians (theirs / ours):

* end to end: from the call that submits to the decoded value in the waiting process. The request is made before, once
  for all calls of each: iDDS's client makes a workflow (upload included), as its documentation has it; a DAG run makes
  its request. Ours still looks the request up and uploads its archive in each call, as each DAG task does. The set-up
  is a line of its own, and ``end_to_end_with_setup_ratio`` counts it into every call, as if each were the only one.
* before: from iDDS's wrapper on the worker node, the moment it hands over to the new command, to the function's first
  line.
* after: from the function's end to the decoded value in the waiting process.

Ours is the operator up to its deferral, the trigger, and the operator's resumption, all in this process: what Airflow
itself takes to defer and resume, and ``[panda] settle_time``, are not iDDS's and not in it. Theirs is a ``Work`` with
``submit`` and ``wait_results`` in a process of its own, imports done. All stamps are of one machine's clock: the
function returns its own, and the stack's copy of the wrapper has two lines more, which note when it began and when it
hands over. ``python3`` on the node is a plain interpreter for both.

The exit code is 0 if everything was measured, whether or not the targets were met.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

if __name__ == "__main__":
    sys.path.pop(0)  # this folder, where airflow.py would be taken for Airflow
sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.floors import bare_starts, broker_round_trips
from benchmarks.no_op import no_op
from benchmarks.report import Target, finish
from demo.processes import environment
from deploy.idds.wrapper import NAME as WRAPPER
from tests.stack.stack import Access, Stack, missing

HERE: Final = Path(__file__).parent
TARGETS: Final = {"end_to_end": 3.0, "before": 20.0, "after": 20.0}
"""How many times faster ours is to be."""

PATIENCE: Final = 300.0
"""Seconds after which a call is given up, and the benchmark with it: iDDS's client can wait for ever."""

FINISHED: Final = "3"
ENDED: Final = (FINISHED, "4", "5", "9", "17")
"""States of a transform that has ended (idds.common.constants, TransformStatus)."""

STAGES: Final = {
    "submit": "submit: the call until iDDS has taken it",
    "services": "agents, PanDA and grid, until iDDS's wrapper begins",
    "wrapper": "iDDS's wrapper, until it hands over",
    "before": "BEFORE: hand-over to the function's first line",
    "after": "AFTER: the function's end to the value",
    "end_to_end": "END TO END",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamps:
    """When a call passed where, in Unix time.

    :param began: the call that submits.
    :param submitted: iDDS has it.
    :param started: iDDS's wrapper runs on the worker node.
    :param handed_over: the wrapper runs the new command.
    :param first_line: of the function.
    :param last_line: of the function.
    :param arrived: the decoded value is in the waiting process.
    """

    began: float
    submitted: float
    started: float
    handed_over: float
    first_line: float
    last_line: float
    arrived: float

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each stage."""
        return {
            "submit": self.submitted - self.began,
            # On a fast stack a wrapper may begin before the client has its answer.
            "services": self.started - self.submitted,
            "wrapper": self.handed_over - self.started,
            "before": self.first_line - self.handed_over,
            "after": self.arrived - self.last_line,
            "end_to_end": self.arrived - self.began,
        }


def stamped(wrapper: bytes, file: Path) -> bytes:
    """Return iDDS's wrapper, noting in a file when it begins and when it hands over.

    :raises ValueError: this is another wrapper.
    """
    shebang, hand_over = b"#!/bin/bash\n", b"\neval $new_command\n"
    if not wrapper.startswith(shebang) or wrapper.count(hand_over) != 1:
        raise ValueError("the wrapper has another text than that of iDDS 2.6.21")
    note = f'echo "%s $EPOCHREALTIME" >> {shlex.quote(str(file))}\n'
    wrapper = wrapper.replace(hand_over, b"\n" + (note % "handed_over").encode() + hand_over[1:])
    return shebang + (note % "started").encode() + wrapper.removeprefix(shebang)


class Turns:
    """What is common to all calls: the stack, and where its wrapper leaves its stamps.

    :param stack: the services.
    """

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._file = stack.folder / "stamps"
        installed = stack.grid.folder / "data" / "trf" / WRAPPER
        text = stamped(installed.read_bytes(), self._file)
        installed.unlink()  # a link to the one that all stacks share
        installed.write_bytes(text)
        installed.chmod(0o755)

    def begin(self) -> None:
        """Forget the stamps of the call before."""
        self._file.unlink(missing_ok=True)

    async def end(self, told: dict[str, Any]) -> Stamps:
        """Wait until the transform of a call has ended, and return its stamps.

        :param told: began, submitted, arrived, value (what the function returned) and transform_id.
        """
        async with asyncio.timeout(PATIENCE):
            while (state := await asyncio.to_thread(self._state, told["transform_id"])) not in ENDED:
                await asyncio.sleep(0.2)
        if state != FINISHED or not isinstance(told["value"], list):
            raise RuntimeError(f"a call went wrong: its transform is in state {state}, {told}")
        noted = [line.split() for line in self._file.read_text().splitlines()]
        if [name for name, _ in noted] != ["started", "handed_over"]:
            raise RuntimeError(f"the wrapper did not run once, but left {noted}")
        first_line, last_line = told["value"]
        return Stamps(
            began=told["began"], submitted=told["submitted"], started=float(noted[0][1]),
            handed_over=float(noted[1][1]), first_line=first_line, last_line=last_line, arrived=told["arrived"],
        )  # fmt: skip

    def _state(self, transform_id: int) -> str:
        ((state,),) = self._stack.postgres.query(
            f"select status from doma_idds.transforms where transform_id = {int(transform_id)}"
        )
        return state


class Ours:
    """Calls as DAG tasks make them."""

    def __init__(self) -> None:
        self._run_id = f"manual__{time.time():.6f}"
        self._request_id = -1

    def set_up(self) -> float:
        """Make the DAG run's request, and return the seconds that took."""
        call = self._new("first")
        began = time.time()
        self._request_id = call.grid.request_for(call.run, "first")
        return time.time() - began

    async def call(self, number: int) -> dict[str, Any]:
        """Run the function once."""
        began = time.time()
        call = self._new(f"call{number}")
        trigger = await asyncio.to_thread(call.submit)
        submitted = time.time()
        value = await call.value(trigger)
        arrived = time.time()
        assert call.event is not None
        if call.event.request_id != self._request_id:
            raise RuntimeError(f"the DAG run has two requests: {self._request_id} and {call.event.request_id}")
        return {
            "began": began, "submitted": submitted, "arrived": arrived, "value": value,
            "transform_id": call.event.transform_id,
        }  # fmt: skip

    def _new(self, task_id: str) -> Any:
        from tests.integration.through_idds.calls import Call

        return Call(no_op, run_id=self._run_id, task_id=task_id, environment={"python": "python3"})


class Theirs:
    """Calls by iDDS's own client, in a process of iDDS's virtualenv.

    :param process: that process, see ``idds_client_calls.py``.
    :param log: where the client says what it does.
    """

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process, self._log = process, log

    async def set_up(self) -> float:
        """Wait until the workflow is made, and return the seconds that took."""
        return float((await self._answer())["seconds"])

    async def call(self, number: int) -> dict[str, Any]:
        """Run the function once."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"%d\n" % number)
        await self._process.stdin.drain()
        return await self._answer()

    async def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = b""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"iDDS's client has no value:\n{self._log.read_text()[-4000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextlib.asynccontextmanager
async def their_client(stack: Stack, folder: Path) -> AsyncIterator[Theirs]:
    """Run iDDS's own client in a folder of its own.

    :param stack: the services.
    :param folder: for that folder, its settings and its log.
    """
    shipped = folder / "shipped"
    shipped.mkdir()
    shutil.copy(HERE / "no_op.py", shipped)
    proxy, log = folder / "proxy", folder / "client.log"
    proxy.write_text("not a certificate\n")
    panda = f"{stack.access.panda_url}/server/panda"
    settings = environment(
        IDDS_HOST=stack.access.idds_url, IDDS_CONFIG=os.devnull, IDDS_AUTH_TYPE="x509_proxy",
        X509_USER_PROXY=str(proxy),
        PANDA_URL=panda, PANDA_URL_SSL=panda, PANDACACHE_URL=panda, PANDA_AUTH="oidc", PANDA_AUTH_VO=stack.access.vo,
        PANDA_AUTH_ID_TOKEN=stack.access.token, PANDA_VERIFY_HOST="off", PANDA_BEHIND_REAL_LB="true",
        PANDA_CONFIG_ROOT=str(folder / "panda"), PYTHONPATH=str(shipped), PYTHONDONTWRITEBYTECODE="1",
    )  # fmt: skip
    with log.open("wb") as said:
        process = await asyncio.create_subprocess_exec(
            str(stack.idds.python), str(HERE / "idds_client_calls.py"),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, env=settings, cwd=shipped,
        )  # fmt: skip
    try:
        yield Theirs(process, log)
    finally:
        if process.returncode is None:
            process.kill()  # its threads would have it wait for up to a minute
        await process.wait()


@contextlib.contextmanager
def airflow_home(access: Access) -> Iterator[None]:
    """Have Airflow in a folder of its own, with the stack's connections; before anything imports it."""
    home = tempfile.mkdtemp(prefix="idds-overhead-airflow-")
    os.environ.update(AIRFLOW_HOME=home, AIRFLOW__LOGGING__LOGGING_LEVEL="ERROR")
    try:
        from tests.integration.through_idds.calls import connections

        for conn_id, fields in connections(access).items():
            os.environ[f"AIRFLOW_CONN_{conn_id.upper()}"] = json.dumps(fields)
        yield
    finally:
        shutil.rmtree(home, ignore_errors=True)


async def take_turns(stack: Stack, rounds: int) -> tuple[dict[str, float], dict[str, list[Stamps]]]:
    """Return the seconds of both set-ups, and the stamps of each call of both."""
    turns = Turns(stack)
    stamps: dict[str, list[Stamps]] = {"ours": [], "theirs": []}
    folder = Path(tempfile.mkdtemp(prefix="idds-overhead-"))
    try:
        async with their_client(stack, folder) as theirs:
            ours = Ours()
            set_up = {"theirs": await theirs.set_up(), "ours": await asyncio.to_thread(ours.set_up)}
            for number in range(rounds):
                turns.begin()
                stamps["ours"].append(await turns.end(await ours.call(number)))
                turns.begin()
                stamps["theirs"].append(await turns.end(await theirs.call(number)))
                walls = [stamps[who][-1].seconds()["end_to_end"] for who in ("ours", "theirs")]
                print(f"round {number + 1}: ours {walls[0]:.2f} s, theirs {walls[1]:.2f} s", file=sys.stderr)
        return set_up, stamps
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def described(seconds: Sequence[float]) -> str:
    """Return the median and the spread in milliseconds."""
    middle = f"{statistics.median(seconds) * 1000:.1f}"
    return f"{middle:>9} ({min(seconds) * 1000:.1f}-{max(seconds) * 1000:.1f})"


def table(
    set_up: dict[str, float], seconds: dict[str, dict[str, list[float]]], floors: dict[str, list[float]]
) -> Iterator[str]:
    """Return the lines of the table; times in ms."""
    width = max(map(len, (*STAGES.values(), *floors))) + 2
    yield f"{'median (min-max) in ms':{width}}{'ours':<28}{'theirs':<32}{'ratio':>7}  target"
    rows = {"once, before all calls: the request": {who: [set_up[who]] for who in ("ours", "theirs")}}
    rows |= {text: {who: seconds[who][stage] for who in ("ours", "theirs")} for stage, text in STAGES.items()}
    names = {text: stage for stage, text in STAGES.items()}
    for text, of in rows.items():
        target = TARGETS.get(names.get(text, ""))
        compared = f"{ratio(of):>7.1f}  >= {target:g}" if target else ""
        yield f"{text:{width}}{described(of['ours']):<28}{described(of['theirs']):<32}{compared}".rstrip()
    for text, floor in floors.items():
        yield f"{text:{width}}{described(floor)}"


def ratio(of: dict[str, list[float]], *, more: dict[str, float] | None = None) -> float:
    """Return how many times faster ours is, by medians.

    :param more: seconds to be added to each.
    """
    middle = {who: statistics.median(of[who]) + (more or {}).get(who, 0.0) for who in ("ours", "theirs")}
    return middle["theirs"] / middle["ours"]


def main() -> int:
    """Measure, print a table, and one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10, help="calls of each (default: %(default)s)")
    rounds = parser.parse_args().rounds
    if (reason := missing()) is not None:
        print(reason, file=sys.stderr)
        return 1
    # A worker node's python3 is an interpreter, not a virtualenv's or a version switch in front of one.
    node = Path(sys.base_prefix, "bin")
    if (node / "python3").exists():
        os.environ["PATH"] = f"{node}{os.pathsep}{os.environ['PATH']}"
    with Stack() as stack, airflow_home(stack.access):
        set_up, stamps = asyncio.run(take_turns(stack, rounds))
        login, count = stack.access.services_login, max(rounds, 5)
        trips = broker_round_trips(
            stack.access.broker_host, stack.access.broker_port, login.name, login.passcode, count
        )
        floors = {
            "floor of BEFORE: a bare start of the node's python3": bare_starts("python3", count),
            "floor of AFTER: one message to the broker and back": trips,
        }
    seconds = {
        who: {stage: [each.seconds()[stage] for each in stamps[who]] for stage in STAGES} for who in ("ours", "theirs")
    }
    print("\n".join(table(set_up, seconds, floors)))
    by_stage = {stage: {who: seconds[who][stage] for who in ("ours", "theirs")} for stage in STAGES}
    result = {
        **{f"{stage}_ratio": round(ratio(by_stage[stage]), 2) for stage in TARGETS},
        "end_to_end_with_setup_ratio": round(ratio(by_stage["end_to_end"], more=set_up), 2),
        "rounds": rounds,
        "medians_s": {
            who: {stage: round(statistics.median(of), 4) for stage, of in seconds[who].items()}
            for who in ("ours", "theirs")
        },
        "setup_s": {who: round(spent, 4) for who, spent in set_up.items()},
        "floors_s": {text: round(statistics.median(floor), 4) for text, floor in floors.items()},
    }
    finish(result, [Target(key=f"{stage}_ratio", limit=limit, at_least=True) for stage, limit in TARGETS.items()])
    return 0


if __name__ == "__main__":
    sys.exit(main())
