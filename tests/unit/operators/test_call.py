"""How the arguments of a call are split over jobs, and what is refused when the DAG is parsed."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_panda.exceptions import ConfigurationError, PackagingError
from airflow_provider_panda.operators.call import bind_call, check_context_free, map_over_names


def plain(point, events=1000, *, seed=1):
    return point, events, seed


def variadic(first, *rest, **named):
    return first, rest, named


def positional_only(a, /, b):
    return a, b


def replay(call: Any) -> list[Any]:
    """Run every job of a call here."""
    return [call.function(*call.args, **{**call.kwargs, **job}) for job in call.per_job]


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "map_over", "expected"),
    [
        (plain, [[1, 2]], {}, ("point",), [(1, 1000, 1), (2, 1000, 1)]),
        (plain, [[1, 2], 7], {"seed": 3}, ("point",), [(1, 7, 3), (2, 7, 3)]),
        (plain, ["p"], {"events": [5, 6]}, ("events",), [("p", 5, 1), ("p", 6, 1)]),
        (plain, [[1, 2], [3, 4]], {}, ("point", "events"), [(1, 3, 1), (2, 4, 1)]),
        (variadic, [], {"first": 0, "x": [1, 2]}, ("x",), [(0, (), {"x": 1}), (0, (), {"x": 2})]),
        (variadic, [0, 8, 9], {"x": [1], "y": 2}, ("x",), [(0, (8, 9), {"x": 1, "y": 2})]),
        (positional_only, [1, [2, 3]], {}, ("b",), [(1, 2), (1, 3)]),
        (plain, [()], {}, ("point",), []),
    ],
)
def test_mapped_arguments(function: Any, args: Any, kwargs: Any, map_over: Any, expected: Any) -> None:
    assert replay(bind_call(function, args, kwargs, map_over)) == expected


def test_a_call_without_map_over_has_one_job() -> None:
    assert bind_call(plain, [1], {}, ()).per_job is None


@pytest.mark.parametrize(
    ("args", "kwargs", "map_over", "told"),
    [
        ([[1, 2], [1]], {}, ("point", "events"), "point has 2, events has 1"),
        (["abc"], {}, ("point",), "needs a list, got str"),
        ([{"a": 1}], {}, ("point",), "needs a list, got dict"),
        ([5], {}, ("point",), "needs a list, got int"),
        ([[1]], {}, ("events",), "'events' is not given"),
        ([[1]], {"nope": 1}, ("point",), "unexpected keyword argument"),
    ],
)
def test_wrong_calls_are_refused_with_the_reason(args: Any, kwargs: Any, map_over: Any, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        bind_call(plain, args, kwargs, map_over)


@pytest.mark.parametrize(
    ("function", "map_over", "told"),
    [
        (plain, "nope", "'nope' is no argument of plain"),
        (plain, ["point", "point"], "twice"),
        (plain, [], "no or the same"),
        (positional_only, "a", "cannot be given"),
    ],
)
def test_wrong_map_over_is_refused(function: Any, map_over: Any, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        map_over_names(function, map_over)


def test_names_of_map_over() -> None:
    assert map_over_names(plain, "point") == ("point",)
    assert map_over_names(variadic, ["anything"]) == ("anything",)
    assert map_over_names(plain, None) == ()


def wants_ti(x, ti=None):
    return ti


def wants_ds(ds):
    return ds


def wants_all(**context):
    return context


def asks():
    from airflow.sdk import get_current_context

    return get_current_context()


def own_default(x, params=3):
    return params


@pytest.mark.parametrize(
    ("function", "given", "told"),
    [
        (wants_ti, {"x"}, "'ti' would come from Airflow's context"),
        (wants_ds, set(), "'ds' would come"),
        (wants_all, set(), "'context' would come"),
        (asks, set(), "get_current_context"),
    ],
)
def test_functions_that_need_the_context_are_refused(function: Any, given: Any, told: str) -> None:
    with pytest.raises(PackagingError, match=told):
        check_context_free(function, given=given)


@pytest.mark.parametrize(("function", "given"), [(wants_ds, {"ds"}), (plain, set()), (own_default, set())])
def test_functions_that_do_not_need_it_pass(function: Any, given: Any) -> None:
    check_context_free(function, given=given)
