"""The README's example, as pasted: start the server, crash a request, kill it, start it again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from pathlib import Path
from typing import Any

import pytest

from recoverable import Arena, ArenaNotFoundError
from support.console import Terminal, commands

README = (Path(__file__).parents[2] / "README.md").read_text()


def block(language: str) -> str:
    """Return the README's first code block in that language."""
    found = re.search(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    assert found is not None, f"the README has no {language} block"
    return found[1]


@pytest.mark.slow
@pytest.mark.crash
def test_the_example_does_what_the_readme_says(tmp_path: Path) -> None:
    """Each command answers as printed there, and a server that is killed and started again answers the same."""
    name = f"test-readme-{os.getpid()}"
    assert 'Arena.open("readme-shop"' in block("python")
    try:
        with Terminal(tmp_path, {"readme-shop": name}) as terminal:
            terminal.write("shop.py", block("python"))
            terminal.type("python shop.py")
            for command, output in commands(block("console")):
                assert terminal.type(command).strip() == output, command
            terminal.type("kill -9")
            terminal.type("python shop.py")
            assert terminal.type(command).strip() == output
    finally:
        with contextlib.suppress(ArenaNotFoundError):
            Arena.unlink(name)


def test_the_same_on_fastapi(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second block, behind the first one's state, sells the same, and takes nothing for a request that crashes."""
    httpx = pytest.importorskip("httpx")
    pytest.importorskip("fastapi")
    first, second = re.findall(r"^```python\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    program: dict[str, Any] = {}
    with Arena.temporary("16 MiB") as arena:
        monkeypatch.setattr(Arena, "open", lambda *args, **options: arena)
        exec(first.partition("@recoverable\n")[0] + second, program)

        async def ask() -> list[Any]:
            transport = httpx.ASGITransport(program["app"], raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                answers = [await client.post("/buy?who=ann"), await client.post("/buy"), await client.get("/")]
                return [(answer.status_code, answer.text) for answer in answers]

        assert asyncio.run(ask()) == [
            (200, '"sold"'),
            (500, "Internal Server Error"),
            (200, '{"stock":2,"sold":["ann"]}'),
        ]


def test_links_lead_somewhere() -> None:
    """Each file that the README links to exists, and has the heading."""
    root = Path(__file__).parents[2]
    for target in re.findall(r"\]\((?!http)([^)]+)\)", README):
        path, _, heading = target.partition("#")
        text = (root / path).read_text()
        headings = [
            re.sub(r"[^\w -]", "", line.lstrip("#").strip().lower()).replace(" ", "-")
            for line in text.splitlines()
            if line.startswith("#")
        ]
        assert not heading or heading in headings, target
