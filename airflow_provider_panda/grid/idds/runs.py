"""Tasks through iDDS: one request per DAG run, one transform per task and try; uploads and kills go to PanDA."""

from __future__ import annotations

import hashlib
import hmac
import logging
import random
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from airflow_provider_panda.exceptions import GridError, GridRefusedError, TaskNotFoundError
from airflow_provider_panda.grid import names
from airflow_provider_panda.grid.answers import KillOutcome
from airflow_provider_panda.grid.idds.answers import RequestStatus, TransformStatus
from airflow_provider_panda.grid.idds.client import IddsClient
from airflow_provider_panda.grid.idds.work import RunRequest, Site, request_properties, transform_properties
from airflow_provider_panda.grid.panda import PandaGrid
from airflow_provider_panda.grid.retry import PATIENT, RetryPolicy, again
from airflow_provider_panda.grid.session import base_url
from airflow_provider_panda.grid.task import TaskSpec

log = logging.getLogger(__name__)

SETTLING: Final = 0.3
"""Least seconds after which a young request is looked for again: one with a lower id may have been on its way."""

SLOWNESS: Final = 3.0
"""Least number of looks, as long as they take of late, in these seconds: a busy iDDS has more on its way."""

STAGGER: Final = 0.3
"""Seconds by up to which a new request is held back, at random: of tasks that start together, few then make one."""

APPEARANCE: Final = RetryPolicy(attempts=12, first=2.0, longest=15.0)
"""How long a task to be killed is waited for: iDDS hands it to PanDA up to 18 s later (facts/idds.md section 6)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DagRun:
    """One DAG run as iDDS is told of it.

    :param instance: id of the Airflow instance.
    :param dag_id: DAG.
    :param run_id: its run.
    :param generation: which start of it, see :func:`generation_of`.
    """

    instance: str
    dag_id: str
    run_id: str
    generation: int = 0

    @property
    def mark(self) -> str:
        """What its requests are found by."""
        return names.run_mark(self.instance, self.dag_id, self.run_id)

    def request(self, secret: str, nonce: str = "") -> RunRequest:
        """Return its request: the token is the same for all tasks of the run, and known to this Airflow alone.

        :param secret: instance secret.
        :param nonce: key of the task that makes the request.
        """
        text = f"airflow-panda request v1:{self.mark}:{self.generation}"
        return RunRequest(
            name=names.request_name(self.dag_id, self.run_id, self.mark, self.generation, nonce),
            token=hmac.new(secret.encode(), text.encode(), hashlib.sha256).hexdigest()[:32],
        )


def generation_of(started: datetime | None) -> int:
    """Return the generation of a DAG run: when it was last started, as Unix time in seconds.

    Clearing tasks of a run that has ended starts it anew; of a running one it does not, and these tasks go to the
    request that is open.
    """
    return 0 if started is None else int(started.timestamp())


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """A task that iDDS took.

    :param request_id: request of the DAG run.
    :param transform_id: transform of the task.
    :param task_name: name that its PanDA task will have.
    """

    request_id: int
    transform_id: int
    task_name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunClosing:
    """What became of the requests of a DAG run that has ended.

    :param closed: requests that iDDS was asked now to close.
    :param waiting: requests whose works have not all ended: to be closed later.
    """

    closed: tuple[int, ...] = ()
    waiting: tuple[int, ...] = ()

    @property
    def over(self) -> bool:
        """Whether no request was open.

        To ask is not enough: iDDS keeps a command locked for good if its clerk holds the request at that moment
        (idds 2.6.21, clerk.get_operation_requests).
        """
        return not self.closed and not self.waiting


def panda_task_name(name: str, request_id: int, transform_id: int) -> str:
    """Return the name that iDDS gives to the PanDA task of a work (idds 2.6.21, carrier/plugins/base.py)."""
    return f"{name}_{request_id}_{transform_id}"


class IddsGrid:
    """The tasks of one identity that iDDS coordinates. Safe to use from many threads at once.

    :param client: iDDS.
    :param panda: the PanDA server that iDDS submits to.
    :param secret: instance secret, of which the requests' tokens are made.
    :param policy: how often a call is made that failed for a reason that may pass.
    :param pause: waits for the seconds given.
    :param draw: random numbers in [0, 1).
    """

    def __init__(
        self,
        client: IddsClient,
        panda: PandaGrid,
        *,
        secret: str,
        policy: RetryPolicy | None = None,
        pause: Callable[[float], object] = time.sleep,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.client = client
        self.panda = panda
        self._secret = secret
        self._policy = policy or PATIENT
        self._pause = pause
        self._draw = draw
        self._latency = 0.0
        """Seconds that a look takes of late."""

    # --- the request of a DAG run ---

    def request_for(self, run: DagRun, nonce: str) -> int:
        """Return the open request of a DAG run, made if there is none.

        Tasks that start together may each make one: one that has works already wins, else the lowest id, and who lost
        closes its own at once, empty.

        :param nonce: key of the task that asks, the end of the name of a request that it makes.
        :raises GridError: iDDS cannot be asked, or refuses.
        """
        request = run.request(self._secret, nonce)

        def settled() -> int | None:
            return again(self._policy, f"request of {run.run_id}", lambda: self._settled(run), pause=self._pause)

        found = settled()
        if found is None:
            self._pause(max(STAGGER, SLOWNESS * self._latency) * self._draw())
            found = settled()
        if found is not None:
            return found

        def make() -> int:
            mine = self.requests_of(run).get(request.name)  # after a lost reply
            if mine is None:
                mine = self.client.add_request(request_properties(request, self._site()))
                log.info("%s: made iDDS request %d for run %s", nonce, mine, run.run_id)
            return mine

        mine = again(self._policy, f"new request of {run.run_id}", make, pause=self._pause)
        winner = settled()
        if winner is None:
            raise GridRefusedError(
                f"iDDS made request {mine} for run {run.run_id} and does not list it as open. Ask its operators"
            )
        if winner != mine:
            log.info("%s: iDDS request %d was there first; %d is not used", nonce, winner, mine)
            self._close_unused(mine)
        return winner

    def _close_unused(self, request_id: int) -> None:
        """Close a request that lost, unless somebody has settled on it: iDDS would abort its works.

        The task goes on whatever becomes of it; what stays open is closed at the end of the run.
        """
        try:
            status = self.client.request(request_id)
            if status is None or not status.transforms:
                self.client.close_request(request_id)
        except GridError as error:
            log.info("iDDS request %d, which is not used, is not closed yet: %s", request_id, error)

    def requests_of(self, run: DagRun) -> dict[str, int]:
        """Return the ids of a DAG run's requests by name, of its generation and those before."""
        listed = self.client.request_ids(names.request_pattern(run.mark))
        return {
            name: request_id
            for name, request_id in listed.items()
            if (generation := names.generation_of(name, run.mark)) is not None and generation <= run.generation
        }

    def _open(self, run: DagRun) -> Iterator[RequestStatus]:
        """Yield the open requests of a run's generation, lowest id first; each costs a call."""
        of_now = {
            request_id
            for name, request_id in self.requests_of(run).items()
            if names.generation_of(name, run.mark) == run.generation
        }
        for request_id in sorted(of_now):
            status = self.client.request(request_id)
            if status is not None and status.takes_works:
                yield status

    def _settled(self, run: DagRun) -> int | None:
        """Return the run's open request: one that has works already, or the lowest one if it is so in two looks."""
        before: int | None = None
        while True:
            began = time.monotonic()
            found = self._open(run)
            lowest = next(found, None)
            self._latency = max(time.monotonic() - began, self._latency / 2)
            if lowest is None:
                return None
            if lowest.transforms:
                return lowest.request_id
            if lowest.request_id == before:
                # Somebody may have settled on another one before this one was there to see.
                return next((other.request_id for other in found if other.transforms), before)
            before = lowest.request_id
            self._pause(max(SETTLING, SLOWNESS * self._latency))

    def close_run(self, run: DagRun) -> RunClosing:
        """Close the open requests of a DAG run, of its generation and those before, as far as their works have ended.

        Airflow is done with a task before PanDA and iDDS are. iDDS, asked to close a request whose works still run,
        would abort them and leave the request open for ever (idds 2.6.21, clerk).

        :raises GridError: iDDS cannot be asked, or refuses.
        """
        return self.close_ended(sorted(self.requests_of(run).values()))

    def requests_of_instance(self, instance: str) -> dict[str, int]:
        """Return the ids of the requests of all DAG runs of an Airflow instance, by name.

        :raises GridError: iDDS cannot be asked.
        """
        return self.client.request_ids(names.instance_pattern(instance))

    def close_ended(self, request_ids: Iterable[int]) -> RunClosing:
        """Close those of some requests that are open and whose works have ended; each look is a call.

        :raises GridError: iDDS cannot be asked, or refuses.
        """
        closed, waiting = [], []
        for request_id in request_ids:
            status = self.client.request(request_id)
            if status is None or not status.takes_works:
                continue
            if all(transform.ended for transform in status.transforms):
                self.client.close_request(request_id)
                closed.append(request_id)
            else:
                waiting.append(request_id)
        return RunClosing(closed=tuple(closed), waiting=tuple(waiting))

    # --- a task ---

    def submit(self, spec: TaskSpec, run: DagRun, request_id: int) -> Submitted:
        """Submit a task once; made again, or after a lost reply, it finds what was submitted.

        :param spec: the task; its command is what runs in place of iDDS's own runner.
        :param run: the DAG run.
        :param request_id: its request (:meth:`request_for`).
        :raises GridRefusedError: iDDS does not take it.
        :raises GridError: no usable answer, also after further attempts.
        """
        request = run.request(self._secret)
        unsure = False

        def attempt() -> int:
            nonlocal unsure
            known = self._ids_of(request_id, spec.name)
            if not known:
                properties = transform_properties(spec, request, request_id, self._site())
                was_unsure, unsure = unsure, True
                made = self.client.add_transform(request_id, properties)
                # A call whose answer was late and not lost may have been acted on after it was looked for.
                known = (was_unsure and self._ids_of(request_id, spec.name)) or [made]
            else:
                log.info("%s: iDDS has the task already: transform %d", spec.key, known[0])
            for surplus in known[1:]:
                self._end_surplus(spec.key, request_id, surplus)
            return known[0]

        transform_id = again(self._policy, f"submit of {spec.key}", attempt, pause=self._pause)
        return Submitted(
            request_id=request_id,
            transform_id=transform_id,
            task_name=panda_task_name(spec.name, request_id, transform_id),
        )

    def _ids_of(self, request_id: int, name: str) -> list[int]:
        return [transform.transform_id for transform in self._transforms(request_id, name)]

    def _transforms(self, request_id: int, name: str) -> list[TransformStatus]:
        """Return the transforms of a name, the lowest id first: that one counts."""
        status = self.client.request(request_id)
        transforms = status.transforms if status is not None else ()
        named = (transform for transform in transforms if transform.name == name)
        return sorted(named, key=lambda transform: transform.transform_id)

    def _end_surplus(self, key: str, request_id: int, transform_id: int) -> None:
        """Kill what a submission made twice; iDDS has no uniqueness of its own for transforms."""
        try:
            self.kill(request_id, transform_id)
        except GridError as error:
            log.warning(
                "%s: iDDS made its task twice, and that of transform %d could not be killed: %s",
                key, transform_id, error,
            )  # fmt: skip
        else:
            log.warning("%s: iDDS made its task twice; that of transform %d was killed", key, transform_id)

    def find(self, run: DagRun, name: str) -> tuple[int, TransformStatus] | None:
        """Return the request and the transform of a task by its name, in whichever request of the run it is.

        :param run: the DAG run.
        :param name: name of the task's specification.
        :raises GridError: iDDS cannot be asked.
        """

        def look() -> tuple[int, TransformStatus] | None:
            for request_id in sorted(self.requests_of(run).values(), reverse=True):  # the present one first
                for transform in self._transforms(request_id, name):
                    return request_id, transform
            return None

        return again(self._policy, f"look for {name}", look, pause=self._pause)

    def task_id(self, request_id: int, transform_id: int) -> int | None:
        """Return the jediTaskID of a transform, or None while iDDS has not submitted it.

        :raises TaskNotFoundError: the transform ended without one, or is not there.
        """
        status = again(
            self._policy,
            f"iDDS request {request_id}",
            lambda: self.client.request(request_id),
            pause=self._pause,
        )
        return task_of(status, request_id, transform_id)

    def kill(self, request_id: int, transform_id: int) -> KillOutcome | None:
        """Kill the PanDA task of a transform, waiting for it to appear; None if it ended before it had one.

        iDDS's own abort does nothing for the tasks of functions (facts/idds.md section 4).
        """
        for pause in (*APPEARANCE.pauses(), None):
            try:
                task_id = self.task_id(request_id, transform_id)
            except TaskNotFoundError:
                return None
            if task_id is not None:
                return self.panda.kill(task_id)
            if pause is not None:
                self._pause(pause)
        raise GridRefusedError(
            f"iDDS transform {transform_id} of request {request_id} has no PanDA task yet that could be killed"
        )

    def _site(self) -> Site:
        endpoint = self.panda.endpoint
        return Site(
            panda_url=base_url(endpoint.url),
            cache_url=base_url(endpoint.cache_url or endpoint.url),
            vo=endpoint.vo,
            user_name=self.panda.owner,
        )


def task_of(request: RequestStatus | None, request_id: int, transform_id: int) -> int | None:
    """Return the jediTaskID of a transform in a listing, or None while iDDS has not submitted it.

    :raises TaskNotFoundError: the transform ended without one, or is not there.
    """
    for transform in request.transforms if request is not None else ():
        if transform.transform_id == transform_id:
            if transform.task_id is None and transform.ended:
                raise TaskNotFoundError(f"iDDS transform {transform_id} is {transform.status} without a PanDA task")
            return transform.task_id
    raise TaskNotFoundError(f"iDDS has no transform {transform_id} in request {request_id}")


def without_reason(transform: TransformStatus, request: RequestStatus | None) -> str:
    """Return what can be said of a transform that ended without a PanDA task; iDDS keeps the reason to itself."""
    told = transform.errors or (request.errors if request is not None else None)
    where = f"iDDS transform {transform.transform_id}"
    if told:
        return f"{where} is {transform.status}: {told}"
    return (
        f"{where} is {transform.status}, and iDDS tells no reason. Most often PanDA refused its submission: iDDS's own "
        "credentials, an unknown queue or working group, or too many tasks of the user. The log of iDDS's submitter "
        "names it: ask its operators for this transform"
    )
