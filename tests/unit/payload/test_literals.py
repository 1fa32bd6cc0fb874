"""Which values travel as Python text."""

from __future__ import annotations

import ast
import math
import re
import struct
from typing import Any

import pytest

from airflow_provider_panda.payload.literals import is_lambda, is_literal, prefers_text, same_again


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [None, True, ..., 3, -0.5, "text", "Ω", b"\xff", (), [1, (2,)], {"a": [1], 2: (3, None)}, nested(20)],
    ids=repr,
)
def test_repr_of_a_literal_gives_the_value_back(value: Any) -> None:
    assert is_literal(value, 0)
    assert eval(repr(value)) == value


@pytest.mark.parametrize(
    "value",
    [math.inf, math.nan, 10**300, "\ud800", {1}, frozenset(), 1j, object(), [math.nan], {"a": {1}}, nested(30)],
    ids=lambda value: repr(value)[:20],
)
def test_what_repr_does_not_tell_is_no_literal(value: Any) -> None:
    assert not is_literal(value, 0)


class Number(int):
    """Its repr is that of an int."""


def test_a_subclass_of_a_plain_type_is_no_literal() -> None:
    assert not is_literal(Number(3), 0)


@pytest.mark.parametrize(
    ("value", "text", "expected"),
    [
        (re.compile("a"), "re.compile('a')", True),
        (struct.Struct("i"), "struct.Struct('i')", True),
        (lambda: 1, "lambda: 1", True),
        (math.pi, "math.pi", True),
        ([1], "make()", False),
        (5, "settings.limit", False),
        (object(), "object()", False),
    ],
)
def test_text_of_an_assignment_is_taken_only_if_it_makes_an_equal_object(value: Any, text: str, expected: bool) -> None:
    module_globals = {"__name__": "dag", "math": math, "settings": object()}
    assert same_again(value, ast.parse(text, mode="eval").body, module_globals) is expected


def test_a_class_made_by_a_call_is_made_again_in_its_own_module_only() -> None:
    call = ast.parse("namedtuple('P', 'x')", mode="eval").body
    assert same_again(Number, call, {"__name__": __name__})
    assert not same_again(Number, call, {"__name__": "another"})


def test_text_is_preferred_where_it_says_more_than_the_encoded_form() -> None:
    assert prefers_text(re.compile("a"))
    assert prefers_text(list[int])
    assert not prefers_text([1])


def test_only_lambdas_are_lambdas() -> None:
    assert is_lambda(lambda: 1)
    assert not is_lambda(nested)
