"""The wheel: what is in it, and that it works where the checkout is not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("nas_agg", "spaces", "searchers")


def run(*command: str | Path, cwd: Path, env: dict[str, str] | None = None) -> str:
    done = subprocess.run([str(c) for c in command], cwd=cwd, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def pip(*arguments: str | Path, cwd: Path) -> str:
    return run(sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments, cwd=cwd)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the sources, so that no old build folder of the checkout gets in."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "copy"
    copy.mkdir()
    for name in SOURCES:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    pip("wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", folder, copy, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_every_source_under_one_name(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"nas_agg"}

    places = {"nas_agg": "nas_agg", "spaces": "nas_agg/spaces", "searchers": "nas_agg/searchers"}
    expected = {
        (Path(places[source]) / path.relative_to(ROOT / source)).as_posix()
        for source in SOURCES
        for path in (ROOT / source).rglob("*")
        if path.suffix in (".py", ".yaml", ".gz", ".html", ".css", ".js")
    }
    assert {
        "nas_agg/spaces/microdense.yaml",
        "nas_agg/spaces/agg-bench.csv.gz",
        "nas_agg/searchers/random.py",
    } <= expected
    assert expected == {name for name in names if name.startswith("nas_agg/")}


def test_the_command_works_from_the_wheel_alone(wheel: Path, tmp_path: Path) -> None:
    target, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    pip("install", "--no-deps", "--no-index", "--target", target, wheel, cwd=elsewhere)
    # PYTHONPATH comes before an editable installation of the checkout.
    env = os.environ | {"PYTHONPATH": str(target), "PYTHONDONTWRITEBYTECODE": "1"}
    where = "import nas_agg, nas_agg.searchers, nas_agg.spaces\nfor m in (nas_agg, nas_agg.searchers, nas_agg.spaces): "
    where += "print(m.__file__)"
    found = run(sys.executable, "-c", where, cwd=elsewhere, env=env).split()
    assert all(Path(path).is_relative_to(target) for path in found)
    assert "microdense" in run(sys.executable, "-m", "nas_agg", "spaces", cwd=elsewhere, env=env)
    assert "microdense" in run(target / "bin" / "nas_agg", "spaces", cwd=elsewhere, env=env)
