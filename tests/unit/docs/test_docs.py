"""The documents: links that lead somewhere, and every field, option and step that there is."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_provider_panda.commands.check import further, preflight
from airflow_provider_panda.commands.subject import Subject
from airflow_provider_panda.get_provider_info import get_provider_info
from airflow_provider_panda.local.options import add_arguments

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.glob("*.md"))]
INFO = get_provider_info()
FORMS = {connection["connection-type"]: connection["conn-fields"] for connection in INFO["connection-types"]}
BASE_FIELDS = {"host", "port", "login", "password"}
"""What every connection of Airflow has, beside the fields of its form."""


def prose(page: Path) -> str:
    """Return a page without its blocks of code."""
    return re.sub(r"(?ms)^```.*?^```", "", page.read_text())


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    found = set()
    for heading in re.findall(r"(?m)^#+ (.+)$", prose(page)):
        kept = re.sub(r"[^\w\- ]", "", heading.strip().lower())
        found.add(kept.replace(" ", "-"))
    return found


def links() -> Iterator[tuple[Path, str]]:
    """Yield every relative link."""
    for page in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
            if not target.startswith(("https://", "http://")):
                yield page, target


@pytest.mark.parametrize(("page", "target"), [pytest.param(*link, id=f"{link[0].stem}:{link[1]}") for link in links()])
def test_links_lead_somewhere(page: Path, target: str) -> None:
    path, _, anchor = target.partition("#")
    to = (page.parent / path).resolve() if path else page
    assert to.exists()
    assert to.is_relative_to(ROOT)
    if anchor:
        assert anchor in anchors(to)


def test_pages_are_linked_and_not_only_named() -> None:
    for page in DOCS.glob("*.md"):
        named = set(re.findall(r"(?<![(\[/\w])docs/[\w-]+\.md", prose(page)))
        assert not named, f"{page.name} names {named} without a link"


def section(page: Path, heading: str) -> str:
    """Return what stands below a heading of the second level, up to the next."""
    _, found, rest = page.read_text().partition(f"\n## {heading}\n")
    assert found, f"{page.name} has no section {heading}"
    return rest.partition("\n## ")[0]


def first_column(table: str) -> set[str]:
    """Return the names in the first column of the first table: in backticks, or bare."""
    rows = re.search(r"(?m)(?:^\|.*\n)+", table)
    assert rows
    cells = [line.split("|")[1] for line in rows[0].splitlines()[2:]]
    return {name.strip("` ") for cell in cells for name in cell.split(",")}


@pytest.mark.parametrize("kind", FORMS)
def test_every_connection_field_is_described_and_no_other(kind: str) -> None:
    described = first_column(section(DOCS / "connections.md", f"`{kind}`"))
    assert described - BASE_FIELDS == set(FORMS[kind])


def test_every_option_of_airflow_cfg_is_described_and_no_other() -> None:
    described = first_column(section(DOCS / "connections.md", "`[panda]` in airflow.cfg"))
    assert described == set(INFO["config"]["panda"]["options"])


def test_every_step_of_check_is_described_and_no_other() -> None:
    subject = Subject("panda_default")
    steps = {step.name for step in (*preflight(subject), *further(subject))}
    told = first_column(section(DOCS / "connections.md", "`check`, step by step"))
    brief = {name.removeprefix("broker ") for name in told}
    assert brief == {name.removeprefix("broker ") for name in steps}


def test_every_option_of_the_embedded_grid_is_described_and_no_other() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    add_arguments(parser)
    options = {option for action in parser._actions for option in action.option_strings}
    table = section(DOCS / "embedded-grid.md", "Options")
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `--")]
    assert {option for row in rows for option in re.findall(r"--[a-z-]+", row)} == options


def test_every_page_is_in_the_readme() -> None:
    listed = set(re.findall(r"\(docs/([\w-]+\.md)\)", (ROOT / "README.md").read_text()))
    assert listed == {page.name for page in DOCS.glob("*.md")}


def test_make_has_what_is_named() -> None:
    targets = set(re.findall(r"(?m)^([a-z]+):", (ROOT / "Makefile").read_text()))
    for page in PAGES:
        text = page.read_text()
        named = set(re.findall(r"`(?:[A-Z_]+=\S+ )?make ([a-z]+)`", text))
        named |= set(re.findall(r"(?m)^make ([a-z]+)\b", text))
        assert named <= targets, page.name


def test_files_that_are_named_exist() -> None:
    pattern = r"`((?:airflow_provider_panda|benchmarks|dags|deploy|tests|tools)/[\w./-]*)`"
    for page in PAGES:
        for name in re.findall(pattern, page.read_text()):
            assert (ROOT / name).exists(), f"{page.name} names {name}"


def test_tests_that_are_named_exist() -> None:
    for page in PAGES:
        for file, name in re.findall(r"`((?:unit|integration|system)/[\w/]+\.py)(?:::(\w+))?`", page.read_text()):
            path = ROOT / "tests" / file
            assert path.exists(), f"{page.name} names {file}"
            assert not name or re.search(rf"(?m)^(?:async )?def {name}\(", path.read_text()), (
                f"{page.name} names {name}"
            )
