"""What a network is called and where it comes from, in a line or two at the head of its code."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas_agg.common.errors import InputError, one_line
from nas_agg.search_space.space import Space, open_space, spaces_in_family
from nas_agg.study.records.run_folder import RUN_FILE, encodable, read_run

if TYPE_CHECKING:
    from nas_agg.language.genotype import Genotype


def describe_source(source: str) -> tuple[str, str]:
    """The title of a genotype, and a sentence about it.

    Args:
        source: What `nas_agg.load` takes, or any other name, which then is the title.
    """
    try:
        title, about = _origin(source)
    except InputError:  # a run or a space that is spoilt, where the genotype is not
        title, about = source, ""
    return encodable(title), encodable(about)


def _origin(source: str) -> tuple[str, str]:
    path, (run, _, trial) = Path(source), source.rpartition(":")
    if source and (path / RUN_FILE).is_file():
        return describe_run(read_run(path), path)
    if path.is_file():
        return path.stem, ""
    if run and (Path(run) / RUN_FILE).is_file():
        return describe_run(read_run(run), run, trial)
    name, _, point = source.rpartition("/")
    for space in [open_space(name)] if name and Path(name).is_file() else spaces_in_family(name):
        if point in space.points:
            return f"{space.family}/{point}", describe_space(space)
    return source, ""


def describe_run(run: Mapping[str, Any], path: str | Path, trial: int | str | None = None) -> tuple[str, str]:
    """The same, of a run's network.

    Args:
        run: What its run.json says.
        path: Its folder.
        trial: The number of a trial, if it is one of a search.
    """
    said = run.get("origin", {})
    title = said.get("title") or Path(path).resolve().name
    return title if trial is None else f"{title}, trial {trial} of a search", said.get("about", "")


def describe_space(space: Space) -> str:
    """A sentence about networks of a space."""
    about = space.about if space.about.endswith(("?", "!")) else f"{space.about.rstrip('.')}."
    return f"Of the space {space.name}: {about}" if space.about else f"Of the space {space.name}."


def describe_training(metrics: Mapping[str, Any], dataset: str) -> str:
    """What someone who runs a trained network must know of its training: how images are scaled.

    Args:
        metrics: What best/metrics.json says.
        dataset: As it was asked for; of a path the last part is said.
    """
    kind, _, path = dataset.partition(":")
    mean, std = (", ".join(f"{value:.6g}" for value in metrics[name]) for name in ("mean", "std"))
    return (
        f"Trained on {f'{kind}:{Path(path).name}' if path else kind}, "
        f"test accuracy {100 * metrics['test_accuracy']:.2f} %. "
        f"It takes (x - mean) / std of images x with values from 0 to 1; mean ({mean}), std ({std})."
    )


def add_code_or_warn(folder: Path, genotype: Genotype, title: str, about: str) -> None:
    """Adds a network's code to its folder; whatever is wrong with that, what the folder holds is not lost for it."""
    from nas_agg.compiler.codegen.package import add_code

    try:
        add_code(folder, genotype, title, about)
    except Exception as error:
        print(f"note: no model.py: {one_line(str(error) or type(error).__name__)}", file=sys.stderr, flush=True)
