"""Checks of the operator's parameters: each returns the value in one form, or says what to write instead."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_provider_panda.exceptions import ConfigurationError
from airflow_provider_panda.payload.command import Environment

if TYPE_CHECKING:
    from airflow_provider_panda.operators.missing import Retry

Choice = TypeVar("Choice", bound=str)


def positive(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigurationError(f"argument {name}", f"{value!r} is not a positive whole number", "Give one, such as 1")
    return value


def duration(name: str, value: float | timedelta | None) -> timedelta | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | timedelta):
        raise ConfigurationError(f"argument {name}", f"{value!r} is no duration", "Give seconds or a timedelta")
    duration = value if isinstance(value, timedelta) else timedelta(seconds=value)
    if duration <= timedelta(0):
        raise ConfigurationError(f"argument {name}", f"{value!r} is not positive", "Give seconds or a timedelta")
    return duration


def one_of(name: str, value: Choice, allowed: Sequence[str]) -> Choice:
    if value not in allowed:
        raise ConfigurationError(f"argument {name}", f"{value!r} is unknown", f"Use one of {', '.join(allowed)}")
    return value


def environment(value: Environment | Mapping[str, Any] | None) -> Environment:
    if value is None:
        return Environment()
    if isinstance(value, Environment):
        return value
    fields = dict(value)
    known = [field.name for field in dataclasses.fields(Environment)]
    if unknown := sorted(set(fields) - set(known)):
        raise ConfigurationError(
            "argument environment", f"unknown field {', '.join(unknown)}", f"Fields are {', '.join(known)}"
        )
    if "setup" in fields:
        setup = fields["setup"]
        fields["setup"] = (setup,) if isinstance(setup, str) else tuple(setup)
    return Environment(**fields)


def min_success(value: int | float | None, on_job_error: str) -> int | float | None:
    if value is None:
        return None
    if on_job_error != "collect":
        raise ConfigurationError("argument min_success", "it has no meaning here", 'Set on_job_error="collect" with it')
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise ConfigurationError("argument min_success", f"{value!r} is no number of jobs", "Give 10 or 0.9")
    if isinstance(value, float) and value > 1:
        raise ConfigurationError("argument min_success", f"{value!r} is over 1.0", "A share is a float up to 1.0")
    return value


def retry(value: Retry, *, mapped: bool) -> Retry:
    one_of("retry", value, ("all", "failed_jobs"))
    if value == "failed_jobs" and not mapped:
        raise ConfigurationError(
            "argument retry", '"failed_jobs" goes with map_over=', "Leave it out: one job is sent again as a whole"
        )
    return value


def task_states(name: str, value: str | Collection[str], *, terminal: bool = False) -> tuple[str, ...]:
    """Return PanDA task states.

    :param terminal: whether they must be states in which a task ends.
    :raises ConfigurationError: one is none, or there are none.
    """
    from airflow_provider_panda.grid.task import PHASES

    known = [state for state, phase in PHASES.items() if phase.terminal or not terminal]
    return _states(name, value, known, "a PanDA task", ends=terminal)


_COMMANDED = ("ToCancel", "Cancelling", "ToSuspend", "Suspending", "ToResume")
"""States of an iDDS request that is being acted on."""


def request_states(name: str, value: str | Collection[str], *, terminal: bool = False) -> tuple[str, ...]:
    """Return iDDS request states.

    :param terminal: whether they must be states in which a request ends.
    :raises ConfigurationError: one is none, or there are none.
    """
    from airflow_provider_panda.grid.idds.answers import ENDED, OPEN

    known = sorted(ENDED) if terminal else [*sorted(ENDED), *sorted(OPEN), *_COMMANDED]
    return _states(name, value, known, "an iDDS request", ends=terminal)


def _states(name: str, value: str | Collection[str], known: Sequence[str], what: str, *, ends: bool) -> tuple[str, ...]:
    states = (value,) if isinstance(value, str) else tuple(sorted(value))
    unknown = [state for state in states if state not in known]
    if unknown or not states:
        kind = f"a state in which {what} ends" if ends else f"a state of {what}"
        problem = f"{unknown[0]!r} is not {kind}" if unknown else "there is none"
        raise ConfigurationError(f"argument {name}", problem, f"Use {', '.join(known)}")
    return states
