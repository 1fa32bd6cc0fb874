"""What tokens say of themselves: when to renew one, and what a token file holds."""

from __future__ import annotations

import json

import pytest

from airflow_provider_panda.grid.identity.tokens import Need, Tokens, groups, need, newest, parse_tokens, utc_time
from tests.stack.scripted_issuer import jwt

NOW = 1_000_000.0


@pytest.mark.parametrize(
    ("claims", "wanted"),
    [
        ({"exp": NOW + 4000, "iat": NOW - 10}, Need.NONE),
        ({"exp": NOW + 301, "iat": NOW - 3600}, Need.NONE),
        ({"exp": NOW + 300, "iat": NOW - 3600}, Need.SOON),
        ({"exp": NOW + 1, "iat": NOW - 3600}, Need.SOON),
        ({"exp": NOW, "iat": NOW - 3600}, Need.NOW),
        ({"exp": NOW - 100, "iat": NOW - 3600}, Need.NOW),
        ({"exp": NOW + 9, "iat": NOW - 1}, Need.NONE),  # of a life of ten seconds
        ({"exp": NOW + 2, "iat": NOW - 8}, Need.SOON),
        ({"exp": NOW + 200}, Need.SOON),  # of unknown life
        ({"exp": NOW + 400}, Need.NONE),
        ({"exp": NOW + 5, "iat": NOW + 500}, Need.NONE),  # issued after its end: nonsense, so no margin
        ({"iat": NOW}, Need.NONE),
        ({"exp": "soon"}, Need.NONE),
        ({"exp": True}, Need.NONE),
    ],
)
def test_when_a_token_is_renewed(claims: dict[str, object], wanted: Need) -> None:
    assert need(Tokens(id_token=jwt(**claims)), now=NOW) is wanted


def test_no_token_and_a_refused_token_are_renewed_now() -> None:
    token = jwt(exp=NOW + 4000)
    assert need(Tokens(refresh_token="r"), now=NOW) is Need.NOW
    assert need(Tokens(id_token=token), now=NOW, refused=token) is Need.NOW
    assert need(Tokens(id_token=token), now=NOW, refused="another") is Need.NONE


@pytest.mark.parametrize(
    ("text", "bare_is_refresh", "held"),
    [
        ("abc\n", False, Tokens(id_token="abc")),
        (" abc ", True, Tokens(refresh_token="abc")),
        ("", False, Tokens(id_token="")),
        (json.dumps({"id_token": "i", "refresh_token": "r", "x": 1}), False, Tokens(id_token="i", refresh_token="r")),
        (json.dumps({"id_token": "i"}), True, Tokens(id_token="i")),
        (json.dumps({"refresh_token": " r\n"}), False, Tokens(refresh_token="r")),
        (json.dumps({"id_token": 7, "refresh_token": ""}), False, None),
        ("{broken", False, None),
        ("{}", True, None),
    ],
)
def test_what_a_token_file_holds(text: str, bare_is_refresh: bool, held: Tokens | None) -> None:
    assert parse_tokens(text, bare_is_refresh=bare_is_refresh) == held


def test_the_token_that_lasts_longest_is_the_newest() -> None:
    early, late = Tokens(id_token=jwt(exp=1)), Tokens(id_token=jwt(exp=2))
    assert newest(early, late) == newest(late, early) == late.id_token
    assert newest(Tokens(), late) == late.id_token
    assert newest(Tokens(), Tokens()) is None


def test_groups() -> None:
    assert groups(jwt(groups=["/wlcg", "wlcg/production"])) == ("wlcg", "wlcg/production")
    assert groups(jwt(**{"wlcg.groups": ["/atlas"]})) == ("atlas",)
    assert groups(jwt(groups="wlcg")) == groups("x") == ()


def test_tokens_are_in_no_repr() -> None:
    assert "sesame" not in repr(Tokens(id_token="sesame", refresh_token="sesame"))


def test_impossible_times_are_told_all_the_same() -> None:
    assert utc_time(1e30) == "1e+30 s"
