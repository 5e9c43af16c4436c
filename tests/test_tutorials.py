"""The tutorials do what they say: their commands, files and code run in order, in an empty folder."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

TUTORIALS = Path(__file__).parents[1] / "docs" / "tutorials"
FENCE = re.compile(r'^```(\w+)(?: title="([\w./-]+)")?\n(.*?)^```$', re.M | re.S)


class Block(NamedTuple):
    """A fenced block of a page: its language, the name of the file it is, or '', and its text."""

    language: str
    file: str
    text: str


def blocks(page: str) -> Iterator[Block]:
    for match in FENCE.finditer((TUTORIALS / page).read_text(encoding="utf-8")):
        yield Block(match[1], match[2] or "", match[3])


def shorter(command: str) -> str:
    """A command whose search trains two networks, not large, for an epoch each."""
    return re.sub(r"--budget \d+", "--budget 2 --epochs 1 --final-epochs 1 --max-macs 3M", command)


@pytest.fixture
def shell(run: Callable, tmp_path: Path) -> Callable[[str], None]:
    def call(command: str) -> None:
        program, *words = shlex.split(command)
        if program == "nas_agg":
            status, out, err = run(*words)
            assert status == 0, f"{command}: {err}"
            assert out or err
        else:
            assert program == "python", command
            subprocess.run([sys.executable, *words], check=True, cwd=tmp_path, capture_output=True)

    return call


def follow(page: str, shell: Callable[[str], None], adapt: Callable[[str], str]) -> None:
    names: dict[str, Any] = {}
    for block in blocks(page):
        if block.file:
            Path(block.file).write_text(block.text, encoding="utf-8")
        elif block.language == "sh":
            for command in block.text.splitlines():
                shell(adapt(command))
        elif block.language == "python":
            exec(compile(block.text, page, "exec"), names)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) == str(tmp_path / f"{name}.py"):
            del sys.modules[name]


PAGES = sorted(path.name for path in TUTORIALS.glob("*.md"))


@pytest.mark.parametrize("page", PAGES)
def test_a_tutorial_runs(page: str, shell: Callable[[str], None]) -> None:
    follow(page, shell, shorter)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_a_tutorial_runs_as_written(page: str, shell: Callable[[str], None]) -> None:
    follow(page, shell, str)


def test_every_block_of_a_tutorial_is_run() -> None:
    for page in PAGES:
        languages = {block.language for block in blocks(page)}
        assert languages <= {"sh", "python", "yaml", "toml", "text"}
        assert all(block.file for block in blocks(page) if block.language == "yaml")
