"""An iDDS in memory, with the calls of :class:`IddsClient`: what it does, and when others see it, a test says."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from types import SimpleNamespace
from typing import Any

from airflow_provider_panda.exceptions import GridRefusedError, GridUnreachableError
from airflow_provider_panda.grid.answers import KillOutcome
from airflow_provider_panda.grid.endpoint import PandaEndpoint
from airflow_provider_panda.grid.idds.answers import RequestStatus, TransformStatus


class MemoryIdds:
    """Requests and transforms by id. Ids are given in the order of the calls, and seen once committed."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.requests: dict[int, RequestStatus] = {}
        self.hidden: set[int] = set()
        """Requests that were given an id and are not seen yet, as in a transaction that is still open."""
        self.hide_next = False
        self.tokens: dict[int, str] = {}
        self.properties: list[Mapping[str, Any]] = []
        self.closed: list[int] = []
        self.calls: list[str] = []
        self.faults: list[tuple[str, bool, Exception]] = []
        """``(call, whether it is done first, error)``: each fails one call of that name."""
        self._next_request, self._next_transform = 1, 101

    def lose(self, call: str, *, executed: bool = True, error: Exception | None = None) -> None:
        """Let a call fail once, after or before it was done."""
        self.faults.append((call, executed, error or GridUnreachableError("the answer was lost")))

    def reveal(self) -> None:
        """Commit everything."""
        self.hidden.clear()

    def move(self, request_id: int, transform_id: int | None = None, **fields: Any) -> None:
        """Change a request, or one of its transforms."""
        request = self.requests[request_id]
        if transform_id is None:
            self.requests[request_id] = dataclasses.replace(request, **fields)
            return
        moved = tuple(
            dataclasses.replace(each, **fields) if each.transform_id == transform_id else each
            for each in request.transforms
        )
        self.requests[request_id] = dataclasses.replace(request, transforms=moved)

    def _do(self, call: str, action: Callable[[], Any]) -> Any:
        with self.lock:
            self.calls.append(call)
            fault = next((fault for fault in self.faults if fault[0] == call), None)
            if fault is None:
                return action()
            self.faults.remove(fault)
            if fault[1]:
                action()
            raise fault[2]

    def add_request(self, properties: Mapping[str, Any]) -> int:
        def add() -> int:
            request_id, self._next_request = self._next_request, self._next_request + 1
            self.properties.append(properties)
            workflow = properties["request_metadata"]["workflow"]["attributes"]
            self.tokens[request_id] = workflow["_context"]["attributes"]["_token"]
            self.requests[request_id] = RequestStatus(request_id=request_id, name=properties["name"], status="New")
            if self.hide_next:
                self.hide_next = False
                self.hidden.add(request_id)
            return request_id

        return self._do("add_request", add)  # type: ignore[no-any-return]

    def add_transform(self, request_id: int, properties: Mapping[str, Any]) -> int:
        def add() -> int:
            if properties["token"] != self.tokens[request_id]:
                raise GridRefusedError("iDDS refused: the token of the work is not the workflow's")
            transform_id, self._next_transform = self._next_transform, self._next_transform + 1
            self.properties.append(properties)
            made = TransformStatus(
                transform_id=transform_id,
                name=properties["name"],
                status="New",
                internal_id=properties["internal_id"],
            )
            request = self.requests[request_id]
            self.move(request_id, transforms=(*request.transforms, made))
            return transform_id

        return self._do("add_transform", add)  # type: ignore[no-any-return]

    def request(self, request_id: int) -> RequestStatus | None:
        return self._do("request", lambda: self.requests.get(request_id))  # type: ignore[no-any-return]

    def request_ids(self, pattern: str) -> dict[str, int]:
        def listed() -> dict[str, int]:
            glob = pattern.replace("[", "[[]").replace("_", "?")  # LIKE takes _ for any character
            return {
                each.name: key
                for key, each in self.requests.items()
                if key not in self.hidden and fnmatchcase(each.name, glob)
            }

        return self._do("request_ids", listed)  # type: ignore[no-any-return]

    def close_request(self, request_id: int) -> None:
        def close() -> None:
            self.closed.append(request_id)
            self.move(request_id, substatus="ToClose")

        self._do("close_request", close)


def panda(kills: list[int] | None = None, **fields: Any) -> Any:
    """The PanDA side of a grid."""

    def kill(task_id: int) -> KillOutcome:
        assert kills is not None
        kills.append(task_id)
        return KillOutcome.REGISTERED

    endpoint = PandaEndpoint(
        url="https://panda:25443/x", cache_url="https://cache:25444/", token="the id token", vo="wlcg.prod"
    )
    return SimpleNamespace(endpoint=endpoint, owner="Grid User", kill=kill, **fields)
