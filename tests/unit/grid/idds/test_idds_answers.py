"""What iDDS's answers mean, seen ones and odd ones."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_panda.exceptions import GridAuthError, GridError, GridRefusedError, GridServerError
from airflow_provider_panda.grid.idds.answers import (
    ENDED,
    OPEN,
    RequestStatus,
    TransformStatus,
    commanded,
    ids_by_name,
    messages,
    new_id,
    number,
    refused,
    requests,
    said,
    word,
)
from tests.unit.grid.idds.samples import exchange, sample

URL = "http://idds/x"


def enum(name: str, kind: str = "RequestStatus") -> dict[str, Any]:
    return {"class": kind, "module": "idds.common.constants", "attributes": {"_name_": name, "_value_": 1}}


def row(**fields: Any) -> dict[str, Any]:
    return {"request_id": 5, "name": "n", "status": enum("Transforming"), "substatus": enum("New"), **fields}


def test_a_captured_listing() -> None:
    (found,) = requests(sample("GET_request_transform.json"), URL, asked=8)
    assert (found.request_id, found.name, found.status, found.substatus) == (8, "dag_demo", "Transforming", "New")
    assert (found.username, found.errors, found.takes_works, found.ended) == ("Test User", None, True, False)
    first = found.transforms[0]
    assert first == TransformStatus(transform_id=16, name="extract", status="Finished", task_id=369279)
    assert first.ended
    assert [each.transform_id for each in found.transforms] == sorted(each.transform_id for each in found.transforms)


def test_an_unknown_request_has_no_rows() -> None:
    empty = exchange("GET", "/request/999999/null/False/False/False/False")["response_body"]
    assert requests(empty, URL, asked=999999) == []


def test_a_request_without_transforms_is_the_one_that_was_asked_for() -> None:
    """In idds 2.6.21 its request_id is null: the transform's column stands in for the request's."""
    (found,) = requests([row(request_id=None, transform_id=None, transform_name=None)], URL, asked=7)
    assert (found.request_id, found.transforms, found.takes_works) == (7, (), True)


def test_rows_of_one_request_are_its_transforms() -> None:
    rows = [
        row(transform_id=3, transform_name="c", transform_status=enum("New"), transform_workload_id=None),
        row(transform_id=1, transform_name="a", transform_status="Failed", transform_errors={"m": "no <b>way</b>"}),
        row(transform_id=3, transform_name="c", transform_status=enum("Transforming"), transform_workload_id="77"),
        "no row",
        row(request_id=6, transform_id=9, transform_status="Finished", processing_workload_id=88),
    ]  # fmt: skip
    five, six = requests(rows, URL, asked=5)
    assert [(each.transform_id, each.status, each.task_id) for each in five.transforms] == [
        (1, "Failed", None),
        (3, "Transforming", 77),
    ]
    assert five.transforms[0].errors == "no way"
    assert (six.request_id, six.transforms[0].task_id, six.transforms[0].name) == (6, 88, "")


@pytest.mark.parametrize("status", sorted(OPEN))
def test_open_states(status: str) -> None:
    assert RequestStatus(request_id=1, name="n", status=status).takes_works
    assert not RequestStatus(request_id=1, name="n", status=status, substatus="ToClose").takes_works
    assert not RequestStatus(request_id=1, name="n", status=status).ended


@pytest.mark.parametrize("status", [*sorted(ENDED), "ToCancel", "Cancelling", "ToClose", "ToExpire", "", "Unheard of"])
def test_other_states_take_nothing(status: str) -> None:
    assert not RequestStatus(request_id=1, name="n", status=status).takes_works
    assert TransformStatus(transform_id=1, name="t", status=status).ended is (status in ENDED)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (enum("Finished"), "Finished"),
        ("Finished", "Finished"),
        ({"attributes": None}, ""),
        ({"attributes": {"_name_": 3}}, ""),
        ({}, ""),
        (3, ""),
        (None, ""),
        ([], ""),
    ],
)
def test_words(given: Any, expected: str) -> None:
    assert word(given) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [(5, 5), ("5", 5), (" 5 ", 5), (True, None), ("x", None), (None, None), (5.0, None), ("", None), ([5], None)],
)
def test_numbers(given: Any, expected: int | None) -> None:
    assert number(given) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, None),
        ({}, None),
        ([], None),
        ("", None),
        ("  <p> </p> ", None),
        ("boom", "boom"),
        ({"submit_err": {"msg": "not\n there"}}, "not there"),
        ({"class": "X", "msg": "only this"}, "only this"),
        ({"a": None, "b": [], "c": ""}, None),
        ({"a": "one", "b": ["two", None, {"c": "three"}]}, "one; two; three"),
        (42, "42"),
    ],
)
def test_what_idds_said(given: Any, expected: str | None) -> None:
    assert said(given) == expected


def test_tokens_in_errors_stay_out() -> None:
    assert said("bad eyJhbGciOi.eyJzdWI.c2ln here") == "bad *** here"


def test_ids_by_name() -> None:
    assert ids_by_name({"a": 1, "b": "2", "c": None}, URL) == {"a": 1, "b": 2}
    for wrong in (None, [], "x", 3):
        with pytest.raises(GridServerError, match="names were asked for"):
            ids_by_name(wrong, URL)


def test_new_ids() -> None:
    assert new_id(exchange("POST", "/request")["response_body"], "request_id", URL) == 1
    assert new_id(exchange("POST", "/transform/1")["response_body"], "transform_id", URL) == 1
    assert new_id(7, "request_id", URL) == 7
    assert new_id({"request_id": "8"}, "request_id", URL) == 8
    for wrong in ({}, None, {"request_id": None}, [7], "x", {"transform_id": 1}):
        with pytest.raises(GridRefusedError, match="gave no request_id"):
            new_id(wrong, "request_id", URL)


def test_commands_that_were_taken() -> None:
    commanded(exchange("PUT", "/request/close/1/null")["response_body"], URL)
    commanded([[0, {"status": 0}], [0, {}]], URL)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (exchange("PUT", "/request/abort/999999/null")["response_body"], "No match requests"),
        ([[-1, {"status": -1, "message": "User X has no permission to update request 1"}]], "another user's"),
        ([[0, {"status": 0}], [-1, {"message": "the second"}]], "the second"),
        ([[-1, "text"]], "text"),
        (None, "None"),
        ({"message": "no list"}, "no list"),
        ([["0", {"message": "text for a number"}]], "text for a number"),
        ("<h1>Sorry</h1>", "Sorry"),
    ],
)
def test_commands_that_were_refused_at_http_200(answer: Any, says: str) -> None:
    with pytest.raises(GridRefusedError, match=says):
        commanded(answer, URL)


def test_stored_messages() -> None:
    stored = [{"headers": each["headers"], "body": each["body"]} for each in sample("broker_messages.json")]
    expected = [each["body"] for each in stored if isinstance(each["body"], dict)]
    assert expected
    assert messages(stored, URL) == expected
    assert messages([True, stored], URL) == expected  # as ClientManager gives them
    as_text = [{"body": json.dumps(body)} for body in expected]
    assert messages(as_text, URL) == expected
    odd = [{"body": "{no json"}, {"body": "[" * 100_000}, {"body": [1]}, {}, "x", None, {"body": "7"}]
    assert messages(odd, URL) == []
    for wrong in (None, {}, "x", [True, None]):
        with pytest.raises(GridServerError, match="messages were asked for"):
            messages(wrong, URL)


@pytest.mark.parametrize(
    ("text", "kind", "says"),
    [
        ("User A has no permission to get", GridRefusedError, "another user's"),
        ("Authentication no permission.: {}", GridRefusedError, "idds_host"),
        ("Cannot find x509 proxy", GridAuthError, "Ask its operators"),
        ("The OIDC token is expired", GridAuthError, "Ask its operators"),
        ("configparser.NoSectionError: No section: 'rest'", GridRefusedError, "knows no iDDS"),
        ("<b>anything</b> else", GridRefusedError, "iDDS refused: anything else"),
        (
            "failed to execute command with HTTPConnectionPool(host='idds', port=443): Max retries exceeded with url",
            GridServerError,
            "passes by itself",
        ),
        ("(psycopg2.OperationalError) server closed the connection unexpectedly", GridServerError, "passes by itself"),
        ("failed to execute command with no answer from iDDS within 30 s", GridServerError, "passes by itself"),
    ],
)
def test_refusals_say_what_to_do(text: str, kind: type[GridError], says: str) -> None:
    error = refused(text, URL)
    assert type(error) is kind
    assert says in str(error)
    assert error.url == URL


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(
        st.sampled_from(
            ["request_id", "transform_id", "status", "attributes", "_name_", "errors", "body", "message", "name",
             "class", "transform_status", "transform_workload_id", "data"]
        ),
        inner,
        max_size=6,
    ),
    max_leaves=25,
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(anything)
def test_whatever_comes_is_read_or_told(answer: Any) -> None:
    for read in (
        lambda: requests(answer, URL, asked=1),
        lambda: ids_by_name(answer, URL),
        lambda: new_id(answer, "request_id", URL),
        lambda: commanded(answer, URL),
        lambda: messages(answer, URL),
    ):
        try:
            read()
        except GridError as error:
            assert str(error)  # noqa: PT017


@settings(max_examples=200, deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from(["request_id", "transform_id", "status", "errors"]), anything)))
def test_every_listed_request_is_plain(rows: list[dict[str, Any]]) -> None:
    for found in requests(rows, URL, asked=3):
        assert isinstance(found.request_id, int)
        assert isinstance(found.status, str)
        assert found.errors is None or isinstance(found.errors, str)
        assert len({each.transform_id for each in found.transforms}) == len(found.transforms)
