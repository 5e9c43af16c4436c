"""The notebooks run from beginning to end, and their saved outputs are those of the cells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

NOTEBOOKS = sorted((Path(__file__).parents[1] / "docs" / "notebooks").glob("*.ipynb"))
SHORT = "budget, epochs, final_epochs = 1, 1, 1"


def execute(path: Path, folder: Path, parameters: str | None) -> Any:
    """A notebook after its cells were run; ``parameters`` replaces the cell of this tag."""
    notebook = nbformat.read(path, 4)
    (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    if parameters is not None:
        assert cell.source.split(" = ")[0] == parameters.split(" = ")[0]
        cell.source = parameters
        for other in notebook.cells:
            other.source = other.source.replace("workers=2", "workers=1")
    client = nbclient.NotebookClient(notebook, timeout=500, resources={"metadata": {"path": str(folder)}})
    client.execute()
    return notebook


def check(notebook: Any, saved: Any) -> None:
    for cell, old in zip(notebook.cells, saved.cells, strict=True):
        kinds = [[output.output_type, *sorted(output.get("data", {}))] for output in cell.get("outputs", [])]
        written = [[output.output_type, *sorted(output.get("data", {}))] for output in old.get("outputs", [])]
        for kind in (kinds, written):  # the drawing is saved once, as HTML
            kind[:] = [[form for form in forms if form != "image/svg+xml"] for forms in kind]
        assert kinds == written, old.source


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=[pytest.mark.slow] * (path.stem != "first-search"), id=path.stem) for path in NOTEBOOKS],
)
def test_a_notebook_runs(path: Path, tmp_path: Path) -> None:
    check(execute(path, tmp_path, SHORT), nbformat.read(path, 4))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_as_written(path: Path, tmp_path: Path) -> None:
    check(execute(path, tmp_path, None), nbformat.read(path, 4))
