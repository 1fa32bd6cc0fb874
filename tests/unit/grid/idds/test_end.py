"""The end of a request: every task of it is killed, whatever refuses, and tasks that come late as well."""

from __future__ import annotations

from airflow_provider_panda.exceptions import GridRefusedError, TaskNotFoundError
from airflow_provider_panda.grid.answers import KillOutcome
from airflow_provider_panda.grid.idds.answers import RequestStatus, TransformStatus
from airflow_provider_panda.grid.idds.end import end_request


class Idds:
    """An iDDS that shows one listing after another."""

    def __init__(self, *listings: RequestStatus | None, abort: Exception | None = None) -> None:
        self.listings, self.aborted, self._abort = list(listings), 0, abort

    async def abort_request(self, request_id: int) -> None:
        self.aborted += 1
        if self._abort is not None:
            raise self._abort

    async def request(self, request_id: int) -> RequestStatus | None:
        return self.listings.pop(0) if len(self.listings) > 1 else self.listings[0]


class Panda:
    def __init__(self, **outcomes: KillOutcome | Exception) -> None:
        self.outcomes, self.asked = outcomes, []  # type: tuple[dict[str, KillOutcome | Exception], list[int]]

    async def kill(self, task_id: int) -> KillOutcome:
        self.asked.append(task_id)
        outcome = self.outcomes.get(f"t{task_id}", KillOutcome.REGISTERED)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


def listing(status: str, *transforms: tuple[int | None, str]) -> RequestStatus:
    made = tuple(
        TransformStatus(transform_id=number, name="t", status=state, task_id=task_id)
        for number, (task_id, state) in enumerate(transforms)
    )
    return RequestStatus(request_id=1, name="r", status=status, transforms=made)


async def ended(idds: Idds, panda: Panda, pauses: tuple[float, ...] = (1, 2, 3)) -> tuple[list[int], list[float]]:
    waited: list[float] = []

    async def pause(seconds: float) -> None:
        waited.append(seconds)

    return await end_request(idds, panda, 1, pauses=pauses, pause=pause), waited


async def test_tasks_are_killed_once_each_also_those_that_come_late() -> None:
    idds = Idds(
        listing("Transforming", (7, "Transforming"), (None, "New")),
        listing("Cancelling", (7, "Cancelling"), (8, "Transforming")),
        listing("Cancelled", (7, "Cancelled"), (8, "Cancelled"), (9, "Cancelled")),
    )
    panda = Panda()
    assert await ended(idds, panda) == ([7, 8, 9], [1, 2])
    assert panda.asked == [7, 8, 9]
    assert idds.aborted == 1


async def test_what_succeeded_is_left_alone_and_what_ended_is_no_kill() -> None:
    idds = Idds(listing("Failed", (7, "Finished"), (8, "SubFinished"), (9, "Failed")))
    panda = Panda(t9=KillOutcome.ENDED)
    assert await ended(idds, panda) == ([], [])
    assert panda.asked == [9]


async def test_one_refusal_does_not_save_the_others() -> None:
    idds = Idds(listing("Cancelled", (7, "Transforming"), (8, "Transforming")), abort=GridRefusedError("not yours"))
    assert await ended(idds, Panda(t7=TaskNotFoundError("another user's"))) == ([8], [])


async def test_it_ends_though_the_request_does_not() -> None:
    assert await ended(Idds(listing("Transforming", (7, "Transforming"))), Panda()) == ([7], [1, 2, 3])


async def test_an_abort_that_idds_dropped_is_repeated() -> None:
    idds = Idds(*[listing("Transforming")] * 4, listing("ToCancel"), listing("Cancelling"))
    assert await ended(idds, Panda(), (1, 2, 3, 4, 5, 6)) == ([], [1, 2, 3, 4, 5, 6])
    assert idds.aborted == 2  # once more after six seconds, and no more once iDDS acts on it


async def test_a_request_that_is_gone() -> None:
    assert await ended(Idds(None), Panda()) == ([], [])
