"""What Airflow waits for, by its REST API: for workers, which have no database."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from airflow_provider_panda.exceptions import AirflowUnreadableError, ConfigurationError
from airflow_provider_panda.grid.names import task_name
from airflow_provider_panda.grid.task import task_key
from airflow_provider_panda.operators.earlier import STORE_KEY, keys_in
from airflow_provider_panda.reaping.database import MARGIN
from airflow_provider_panda.reaping.orphans import Attempt, GridTask, Present, id_or_none, key_or_none
from airflow_provider_panda.triggers.ids import TASK_ID_KEY, TASK_KEY_KEY
from airflow_provider_panda.triggers.looks import Place

if TYPE_CHECKING:
    import httpx

TIMEOUT: Final = 60.0
"""Seconds that one answer may take."""

PAGE: Final = 100
"""Rows of one answer; Airflow gives no more unless ``[api] maximum_page_limit`` is raised."""

_GOES_ON: Final = ("queued", "running")


class RestWitness:
    """Airflow's REST API v2, as a user who may read all DAGs.

    Of earlier tries the API tells no ids. One is recognised if its task instance's note in the task state store names
    its key; the tasks of others have no task instance as far as this witness can tell.

    :param instance: four characters of this Airflow instance.
    :param url: base URL of Airflow.
    :param login: user name, or None.
    :param password: its password; without a login, a token; with neither, Airflow is asked for a token as it is in
        the all-admins mode.
    :param verify: whether the server's certificate is verified, or a file of CA certificates.
    """

    def __init__(
        self, instance: str, url: str, *, login: str | None, password: str | None, verify: bool | str = True
    ) -> None:
        self._instance = instance
        self.url = url.rstrip("/")
        self._login, self._password, self._verify = login, password, verify
        self._client: httpx.Client | None = None

    def attempts(self, tasks: Collection[GridTask]) -> dict[str, Attempt]:
        """Return the tries that these keys were made for, of task instances that changed since the oldest task."""
        created = [task.created for task in tasks if task.created is not None]
        if not created:
            return {}
        wanted = {task.key: task for task in tasks}
        found: dict[str, Attempt] = {}
        candidates: dict[Place, str] = {}
        query = {"updated_at_gte": _text(min(created) - MARGIN)}
        for row in self._rows("/dags/~/dagRuns/~/taskInstances", "task_instances", query):
            place = _place(row)
            key = task_key(self._instance, str(row["id"]))
            if key in wanted:
                found[key] = Attempt(place=place, ended=_unix_time(row["end_date"]))
            for task in wanted.values():
                if task.key not in found and task.name.startswith(
                    task_name(place.dag_id, place.task_id, place.run_id, task.key)
                ):
                    candidates[place] = task.key
        for place in candidates:
            left = self._get(f"{_path(place)}/state-store/{STORE_KEY}", {"map_index": place.map_index})
            for key in () if left is None else keys_in(left.get("value")):
                if key in wanted and key not in found:
                    found[key] = Attempt(place=place)
        return found

    def present(self, places: Collection[Place]) -> dict[Place, Present]:
        """Return what these task instances are now."""
        runs: dict[tuple[str, str], bool] = {}
        found: dict[Place, Present] = {}
        for place in places:
            path = _path(place)
            row = self._get(path if place.map_index < 0 else f"{path}/{place.map_index}", {})
            if row is None:
                continue
            run = (place.dag_id, place.run_id)
            if run not in runs:
                told = self._get(f"/dags/{_quoted(place.dag_id)}/dagRuns/{_quoted(place.run_id)}", {})
                runs[run] = told is not None and told.get("state") in _GOES_ON
            found[place] = Present(
                key=task_key(self._instance, str(row["id"])),
                state=row["state"],
                run_goes_on=runs[run],
                ended=_unix_time(row["end_date"]),
                task_key=key_or_none(self._xcom(place, TASK_KEY_KEY)),
                task_id=id_or_none(self._xcom(place, TASK_ID_KEY)),
            )
        return found

    def ended_runs(self, since: float) -> list[tuple[str, str]]:
        """Return the DAG runs that have ended."""
        query = {"state": ["success", "failed"], "end_date_gte": _text(since)}
        rows = self._rows("/dags/~/dagRuns", "dag_runs", query)
        return [(row["dag_id"], row["dag_run_id"]) for row in rows]

    def _xcom(self, place: Place, key: str) -> Any:
        entry = self._get(f"{_path(place)}/xcomEntries/{key}", {"map_index": place.map_index})
        return None if entry is None else entry.get("value")

    def _rows(self, path: str, name: str, query: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield the rows of all pages; one that moves between two pages comes twice or, if it is deleted, hides one."""
        offset = 0
        while True:
            page = self._get(path, {**query, "limit": PAGE, "offset": offset, "order_by": "id"})
            rows = [] if page is None else page[name]
            yield from rows
            offset += len(rows)
            if page is None or not rows or offset >= page["total_entries"]:
                return

    def _get(self, path: str, query: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return a resource, or None if there is none."""
        import httpx

        try:
            if self._client is None:
                self._client = self._signed_in()
            answer = self._client.get(f"{self.url}/api/v2{path}", params=dict(query))
        except httpx.HTTPError as error:
            raise AirflowUnreadableError(f"Airflow's API at {self.url} does not answer: {error}") from error
        if answer.status_code == 404:
            return None
        return _read(answer, self.url)

    def _signed_in(self) -> httpx.Client:
        import httpx

        client = httpx.Client(timeout=TIMEOUT, verify=self._verify)
        token = self._password
        if self._login or not token:
            if self._login:
                body = {"username": self._login, "password": self._password or ""}
                answer = client.post(f"{self.url}/auth/token", json=body)
            else:
                answer = client.get(f"{self.url}/auth/token")
            token = str(_read(answer, self.url).get("access_token") or "")
        client.headers["Authorization"] = f"Bearer {token}"
        return client


def _read(answer: httpx.Response, url: str) -> dict[str, Any]:
    """Return a JSON object; what is refused is told without its body, which may repeat what was sent."""
    if answer.status_code in (401, 403):
        raise AirflowUnreadableError(
            f"Airflow's API at {url} refuses the login (HTTP {answer.status_code}). It needs a user who may read all "
            "DAGs: check login and password of the connection"
        )
    try:
        told = answer.json() if answer.is_success else None
    except ValueError:
        told = None
    if not isinstance(told, dict):
        raise AirflowUnreadableError(
            f"Airflow's API at {url} answers {answer.request.url.path} with HTTP {answer.status_code} and no object. "
            "Check host and port of the connection"
        )
    return told


def rest_witness(airflow_conn_id: str, instance: str) -> RestWitness:
    """Return the witness that an Airflow connection leads to: host, port, login and password (or a token alone).

    :raises ConfigurationError: it has no host.
    """
    from airflow_provider_panda.hooks.lookup import extras_of, look_up

    connection = look_up(airflow_conn_id)
    host = (connection.host or "").rstrip("/")
    if not host:
        raise ConfigurationError(
            f"connection {airflow_conn_id}, field host", "it is empty", "Give the address of this Airflow's API server"
        )
    url = host if "://" in host else f"{connection.schema or 'http'}://{host}"
    if connection.port:
        url = f"{url}:{connection.port}"
    verify = extras_of(connection).get("verify", True)
    return RestWitness(
        instance, url, login=connection.login or None, password=connection.password or None, verify=verify
    )


def _place(row: Mapping[str, Any]) -> Place:
    return Place(row["dag_id"], row["dag_run_id"], row["task_id"], row["map_index"])


def _quoted(name: str) -> str:
    return quote(name, safe="")


def _path(place: Place) -> str:
    return f"/dags/{_quoted(place.dag_id)}/dagRuns/{_quoted(place.run_id)}/taskInstances/{_quoted(place.task_id)}"


def _text(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat()


def _unix_time(text: str | None) -> float | None:
    return None if text is None else datetime.fromisoformat(text).timestamp()
