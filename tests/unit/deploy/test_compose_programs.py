"""The programs of deploy/compose: the health check, and what airflow-init decides."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from deploy.compose.airflow_init import connections, merged, write_password
from deploy.compose.healthy import main, problem

HEALTH = {"scheduler": {"status": "healthy"}, "triggerer": {"status": "unhealthy"}, "dag_processor": {"status": None}}
ENVIRON = {
    "BROKER_ADDRESS": "activemq:61613",
    "BROKER_AIRFLOW_PASSCODE": "passcode-a",
    "BROKER_WORKER_PASSCODE": "passcode-w",
    "PANDA_URL": "http://grid:25080",
    "PANDA_TOKEN_FILE": "/run/panda/token",
    "PANDA_VO": "wlcg",
    "PANDA_MONITOR_URL": "http://localhost:25080",
    "IDDS_URL": "http://idds-rest:8880",
}


class Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        status = 401 if self.path == "/ping" else 200
        body = b"Service Unavailable" if self.path == "/text" else json.dumps(HEALTH).encode()
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("path", "status", "component", "told"),
    [
        ("/", 200, None, None),
        ("/", 200, "scheduler", None),
        ("/", 200, "triggerer", "triggerer is unhealthy"),
        ("/", 200, "dag_processor", "dag_processor is None"),
        ("/", 200, "nothing", "says nothing of nothing"),
        ("/text", 200, "scheduler", "says nothing of scheduler"),
        ("/ping", 401, None, None),
        ("/ping", 200, None, "HTTP 401, not 200"),
        ("/", 401, None, "HTTP 200, not 401"),
    ],
)
def test_what_is_healthy(url: str, path: str, status: int, component: str | None, told: str | None) -> None:
    found = problem(url + path, status=status, component=component)
    assert (found is None) if told is None else (told in (found or ""))


def test_exit_code(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"{url}/ping", "--status", "401"]) == 0
    assert main([url, "--component", "triggerer"]) == 1
    assert "triggerer is unhealthy" in capsys.readouterr().err
    assert main(["http://127.0.0.1:1/"]) == 1


@pytest.mark.parametrize(
    ("service", "destination"),
    [("idds", "/topic/doma.idds"), ("panda", "/topic/airflow.panda.results"), ("", "/topic/doma.idds")],
)
def test_connections_by_service(service: str, destination: str) -> None:
    broker, panda = connections({**ENVIRON, "PANDA_SERVICE": service})
    assert (broker.host, broker.port, broker.login, broker.password) == ("activemq", 61613, "airflow", "passcode-a")
    assert broker.extra["result_destination"] == destination
    assert broker.extra["publisher_login"] == "worker"
    assert (panda.host, panda.port, panda.password) == ("http://grid", 25080, None)
    assert panda.extra["service"] == (service or "idds")


def test_connections_are_what_the_hooks_accept() -> None:
    from airflow_provider_panda.hooks import panda as panda_hook
    from airflow_provider_panda.hooks import stomp as stomp_hook

    broker, panda = connections(ENVIRON)
    checked = panda_hook.parse("panda_default", host=panda.host, port=panda.port, extra=panda.extra)
    assert (checked.endpoint.url, checked.idds_host) == ("http://grid:25080", "http://idds-rest:8880")
    assert set(panda.extra) <= panda_hook.EXTRAS
    endpoint = stomp_hook.parse(
        "broker", host=broker.host, port=broker.port, login=broker.login, password=broker.password, extra=broker.extra
    )
    assert endpoint.addresses == (("activemq", 61613),)
    assert endpoint.publisher_passcode == "passcode-w"


@pytest.mark.parametrize("name", ENVIRON)
def test_a_missing_variable_is_named(name: str) -> None:
    with pytest.raises(KeyError, match=name):
        connections({key: value for key, value in ENVIRON.items() if key != name})


def test_no_passcode_is_shown() -> None:
    assert "passcode-" not in repr(connections(ENVIRON))


def test_what_was_added_to_a_connection_stays() -> None:
    kept = json.loads(merged({"instance_secret": "s", "queue": "Q", "vo": "old"}, {"vo": "wlcg"}))
    assert kept == {"instance_secret": "s", "queue": "Q", "vo": "wlcg"}


def test_the_password_file_is_private_and_replaced(tmp_path: Path) -> None:
    file = tmp_path / "passwords.json"
    write_password(file, "admin", "one")
    write_password(file, "admin", "two")
    assert json.loads(file.read_text()) == {"admin": "two"}
    assert file.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [file]
