"""What iDDS is told, and that nothing of it is lost on the way."""

from __future__ import annotations

import configparser
import dataclasses
import json
import stat
from pathlib import Path
from typing import Any

import pytest

from deploy.idds.configuration import Configuration, auth_sections, from_environment, idds_sections, ini, to_environment


def configuration(folder: Path = Path("/srv/idds"), **changes: Any) -> Configuration:
    given: dict[str, Any] = {
        "folder": folder,
        "database_url": "postgresql://idds:p%40ss@db:5432/idds",
        "rest_url": "http://127.0.0.1:8080",
        "broker": "broker:61613",
        "broker_login": "idds",
        "broker_passcode": "pass%code",
        "panda_url": "http://panda:25080",
        "oidc_config_url": "http://panda:25080/.well-known/openid-configuration",
        "audience": "grid",
    }
    return Configuration(**{**given, **changes})


def read(path: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    assert parser.read(path) == [str(path)]
    return parser


@pytest.mark.parametrize("store", [True, False])
def test_results_are_stored_where_a_channel_has_the_name_that_idds_looks_for(store: bool) -> None:
    conf = configuration(store_results=store, result_destination="/queue/results", status_destination="/topic/states")
    channels = json.loads(idds_sections(conf)["carrier"]["plugin.receiver.channels"])
    assert channels["default"]["destination"] == "/topic/states"
    assert ("asyncresult" in channels) is store
    if store:
        assert channels["asyncresult"]["destination"] == "/queue/results"


def test_files_say_what_was_given_and_only_their_owner_can_read_them(tmp_path: Path) -> None:
    conf = configuration(tmp_path)
    conf.write()
    conf.write()
    idds, auth, panda, alembic = (read(conf.etc / n) for n in ("idds.cfg", "auth.cfg", "panda.cfg", "alembic.ini"))
    assert idds["database"]["default"] == conf.database_url == alembic["alembic"]["sqlalchemy.url"]
    assert idds["database"]["schema"] == alembic["alembic"]["version_table_schema"]
    assert idds["asyncresult"]["broker_password"] == conf.broker_passcode
    assert json.loads(idds["conductor"]["plugin.notifier.channels"])["default"]["password"] == conf.broker_passcode
    assert auth["wlcg"]["oidc_config_url"] == conf.oidc_config_url
    assert auth["Users"]["super_users"].split(",") == ["PanDA Relay", "/DC=local/CN=Panda Relay"]
    assert panda["panda"]["panda_url_ssl"] == "http://panda:25080/server/panda"
    for path in conf.etc.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Path(idds["common"]["logdir"]).is_dir()
    assert Path(idds["rest"]["cacher_dir"]).is_dir()


def test_without_an_issuer_no_organisation_has_tokens() -> None:
    assert set(auth_sections(configuration(oidc_config_url=None))) == {"common", "Users"}
    assert set(auth_sections(configuration(vos=("a", "b")))) == {"common", "Users", "a", "b"}


@pytest.mark.parametrize(
    "changes",
    [{}, {"store_results": False}, {"vos": ("x", "y"), "super_users": ("A, B", "C")}, {"oidc_config_url": None}],
)
def test_the_environment_carries_everything(changes: dict[str, Any]) -> None:
    conf = configuration(**changes)
    assert from_environment(to_environment(conf)) == conf


@pytest.mark.parametrize("name", ["database_url", "rest_url", "broker", "broker_login", "broker_passcode", "panda_url"])
def test_a_missing_variable_is_named(name: str) -> None:
    environment = to_environment(configuration())
    variable = f"IDDS_DEPLOY_{name.upper()}"
    del environment[variable]
    with pytest.raises(KeyError) as caught:
        from_environment(environment)
    assert caught.value.args == (variable,)


def test_secrets_are_not_shown() -> None:
    conf = configuration()
    for name in ("database_url", "broker_passcode"):
        assert str(getattr(conf, name)) not in repr(conf)
    assert dataclasses.is_dataclass(conf)


def test_percent_signs_survive() -> None:
    parser = configparser.ConfigParser()
    parser.read_string(ini({"a": {"b": "50 % of %(c)s"}}))
    assert parser["a"]["b"] == "50 % of %(c)s"
