"""Import statements as they stand in the shipped file."""

from __future__ import annotations

import ast

import pytest

from airflow_provider_panda.exceptions import MissingModuleError
from airflow_provider_panda.payload.imports import NodeModules, absolute_imports, absolute_module, import_text
from airflow_provider_panda.payload.syntax import Binding, splice

NODES = NodeModules(function="fit", included=frozenset({"side"}))


def statement(text: str) -> ast.stmt:
    return ast.parse(text).body[0]


@pytest.mark.parametrize(
    ("text", "package", "expected"),
    [
        ("from math import pi", "analysis.plots", "math"),
        ("from . import cuts", "analysis.plots", "analysis.plots"),
        ("from .cuts import low", "analysis.plots", "analysis.plots.cuts"),
        ("from ..cuts import low", "analysis.plots", "analysis.cuts"),
    ],
)
def test_module_of_a_from_import(text: str, package: str, expected: str) -> None:
    node = statement(text)
    assert isinstance(node, ast.ImportFrom)
    assert absolute_module(node, {"__package__": package}) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import numpy", "import numpy"),
        ("import numpy as np", "import numpy as np"),
        ("from math import pi as half_turn", "from math import pi as half_turn"),
        ("from ..cuts import low", "from analysis.cuts import low"),
    ],
)
def test_statement_of_one_name(text: str, expected: str) -> None:
    node = statement(text)
    assert isinstance(node, (ast.Import, ast.ImportFrom))
    assert import_text(Binding(node, alias=node.names[0]), {"__package__": "analysis.plots"}) == expected


def test_relative_imports_inside_a_function_become_absolute_and_the_rest_stays() -> None:
    text = "def fit():\n    import math\n    from .cuts import low as l, high\n    return math.pi\n"
    edits = absolute_imports(statement(text), {"__package__": "analysis"})
    expected = text.replace(".cuts", "analysis.cuts")
    assert splice(text, 1, edits) == expected


@pytest.mark.parametrize("module", ["json", "os.path", "side", "side.inner"])
def test_modules_of_the_standard_library_and_included_ones_travel(module: str) -> None:
    assert NODES.travels(module)
    NODES.check_module(module, "dag.py", 3)


@pytest.mark.parametrize("module", [None, "", "__main__", "nobody_has_this"])
def test_other_modules_do_not_travel(module: str | None) -> None:
    assert not NODES.travels(module)


@pytest.mark.parametrize("text", ["import json, nobody_has_this.inner", "from nobody_has_this import x"])
def test_an_import_that_fails_there_is_refused_with_its_line(text: str) -> None:
    node = statement(f"\n\n{text}")
    assert isinstance(node, (ast.Import, ast.ImportFrom))
    with pytest.raises(MissingModuleError) as caught:
        NODES.check_import(node, {}, "dag.py")
    assert caught.value.module == "nobody_has_this"
    assert caught.value.line == 3
