"""What facts/panda.md reports of the real server in words: credentials, addresses, arguments, encodings."""

from __future__ import annotations

import gzip
from pathlib import Path

import httpx
import pytest

from airflow_provider_panda.local import issue

from .refusals import REFUSALS
from .world import World


@pytest.fixture(scope="module")
def tokens(world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Tokens of the world's grid, good and bad, by name."""
    folder = tmp_path_factory.mktemp("tokens")

    def issued(name: str, *options: str) -> str:
        out: Path = folder / name
        assert issue.main(["--data", str(world.grid.data), "--out", str(out), *options]) == 0
        return out.read_text()

    return {
        "good": world.grid.token,
        "plain": issued("plain", "--group", "wlcg"),
        "expired": issued("expired", "--group", "wlcg", "--lifetime", "-10"),
        "foreign": issued("foreign", "--group", "atlas"),
        "garbage": "notajwtx.notajwtx.notajwtx",
        "empty": "",
    }


@pytest.mark.parametrize("name", REFUSALS)
def test_answers_as_the_facts_say(world: World, tokens: dict[str, str], name: str) -> None:
    refusal = REFUSALS[name]
    headers = {"Accept": "application/json", "Content-Type": "application/json", **refusal.headers}
    if refusal.token is not None:
        headers["Authorization"] = f"Bearer {tokens[refusal.token]}".strip()
        if refusal.origin is not None:
            headers["Origin"] = refusal.origin
    text = refusal.body or ""
    plain = text.removeprefix("[gzip]")
    content = gzip.compress(plain.encode()) if plain != text else text.encode()
    answer = httpx.request(
        refusal.method,
        world.grid.url + refusal.path,
        headers=headers,
        content=content or None,
        timeout=60,
        verify=False,
    )
    assert (answer.status_code, answer.headers["content-type"]) == (refusal.status, "text/plain")
    assert answer.text.startswith(refusal.text)
