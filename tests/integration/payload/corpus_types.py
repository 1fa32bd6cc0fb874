"""What a case of the corpus is. Lies next to the corpus as a helper of a DAG file would, and is never shipped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Case:
    """One function of the corpus.

    :param form: how it has to travel.
    :param needs: minor version of Python 3 that the function's own syntax needs.
    :param libraries: what has to be installed on the node.
    """

    name: str
    function: Callable[..., Any]
    expected: Any
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    form: str = "source"
    needs: int = 9
    libraries: tuple[str, ...] = ()
