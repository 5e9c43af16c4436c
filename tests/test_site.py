"""The documentation site builds without a warning: every link and anchor leads somewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("material", reason="pip install -e '.[docs]'")
pytest.importorskip("mkdocstrings")

ROOT = Path(__file__).parents[1]


def test_the_site_builds_without_warnings(tmp_path: Path) -> None:
    site = tmp_path / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(site)]
    built = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr
    home = (site / "index.html").read_text(encoding="utf-8")
    assert 'href="tutorials/first-search/"' in home
    assert (site / "repository" / "spaces" / "densenet.yaml").is_file(), "a file outside docs/ that a page links to"
    assert "nas_agg.search" in (site / "api" / "index.html").read_text(encoding="utf-8")
