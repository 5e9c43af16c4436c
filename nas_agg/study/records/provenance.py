"""Provenance of a network: its title and where it comes from, for headers of emitted code."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas_agg.common.errors import InputError, one_line
from nas_agg.search_space.space import Space, open_space, spaces_in_family
from nas_agg.study.definition.metrics import format_evaluation
from nas_agg.study.records.run_folder import RUN_FILE, encodable, read_run

if TYPE_CHECKING:
    from nas_agg.language.genotype import Genotype


def describe_source(source: str) -> tuple[str, str]:
    """The title of a genotype, and a sentence about it.

    Args:
        source: A source that `nas_agg.load` takes; any other name is the title itself.
    """
    try:
        title, about = _describe(source)
    except InputError:  # a damaged run or space; the genotype may be intact
        title, about = source, ""
    return encodable(title), encodable(about)


def _describe(source: str) -> tuple[str, str]:
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
    """The title of a run's network, and a sentence about it.

    Args:
        run: The contents of its run.json.
        path: Its folder.
        trial: The number of the network's trial, if the run is a search.
    """
    origin = run.get("origin", {})
    title = origin.get("title") or Path(path).resolve().name
    return title if trial is None else f"{title}, trial {trial} of a search", origin.get("about", "")


def describe_space(space: Space) -> str:
    """A sentence about the networks of a space."""
    if not space.about:
        return f"From the search space {space.name}."
    about = space.about if space.about.endswith(("?", "!")) else f"{space.about.rstrip('.')}."
    return f"From the search space {space.name}: {about}"


def describe_training(metrics: Mapping[str, Any], dataset: str) -> str:
    """The training of a network, as far as its users must know it: data set, test accuracy, scaling of images.

    Args:
        metrics: The contents of best/metrics.json.
        dataset: The data set as it was specified; of a path only the last part is shown.
    """
    kind, _, path = dataset.partition(":")
    mean, std = (", ".join(f"{value:.6g}" for value in metrics[name]) for name in ("mean", "std"))
    return (
        f"Trained on {f'{kind}:{Path(path).name}' if path else kind}, "
        f"{_test(metrics)}. "
        f"Input: (x - mean) / std of images x with values from 0 to 1; mean ({mean}), std ({std})."
    )


def _test(metrics: Mapping[str, Any]) -> str:
    if "untested" in metrics:
        return format_evaluation(metrics)
    if metrics.get("test_accuracy") is None:
        return f"test {format_evaluation(metrics, 'test_')}"
    return f"test accuracy {100 * metrics['test_accuracy']:.2f} %"


def add_code_or_warn(folder: Path, genotype: Genotype, title: str, about: str) -> None:
    """Add a network's model.py to its folder; on any failure, print a warning, as the folder is complete without."""
    from nas_agg.compiler.codegen.package import add_code

    try:
        add_code(folder, genotype, title, about)
    except Exception as error:
        reason = one_line(str(error) or type(error).__name__)
        print(f"note: model.py was not written: {reason}", file=sys.stderr, flush=True)
