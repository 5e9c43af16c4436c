"""References to genotypes: files, named points of spaces, and networks of runs."""

from __future__ import annotations

from pathlib import Path

from nas_agg.common.errors import InputError, did_you_mean
from nas_agg.common.files import read_document
from nas_agg.common.manifest import MANIFEST, check_file, read_manifest
from nas_agg.expansion.costs import cost
from nas_agg.language.genotype import Genotype
from nas_agg.language.resolver import Resolver
from nas_agg.search_space.space import SUFFIXES, list_spaces, open_space, spaces_in_family


def open_genotype(text: str) -> Genotype:
    """Open the genotype of a reference.

    Args:
        text: A JSON or YAML file; ``space/point``, where the space may be a file or the name of a family; the folder of
            a run, for its best network; or ``RUN:TRIAL``, for the network of a trial.

    Raises:
        InputError: There is no such genotype, or it is invalid; the message suggests similar references.
    """
    try:
        return _open(text)
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"no genotype '{text[:100]}': {getattr(error, 'strerror', None) or error}") from None


def _open(text: str) -> Genotype:
    path = Path(text)
    if text and path.is_dir():
        return _from_run(path)
    if path.is_file():
        return _from_file(path)
    run, _, trial = text.rpartition(":")
    if run and Path(run).is_dir():
        return _from_trial(Path(run), trial)
    space, _, point = text.rpartition("/")
    if space and Path(space).is_file():
        return open_space(space).point(point)
    if path.suffix.lower() in SUFFIXES:
        return _from_file(path)
    if space.count("/") == 0 and (space or text in list_spaces()):
        return _from_space(space or text, point if space else "")
    raise InputError(f"no genotype '{text}': no such file, run or space/point{did_you_mean(text, _all_references())}")


def _from_file(path: Path) -> Genotype:
    value = read_document(path)
    if isinstance(value, dict) and value.get("open"):
        points = value.get("points")
        hint = "it has no 'points'; add one"
        if isinstance(points, dict) and points:
            hint = f"specify one of its points, such as {path}/{next(iter(points))}"
        raise InputError(f"{path}: a search space, not a genotype: {hint}")
    try:
        genotype = Genotype.from_dict(value)
        Resolver(genotype).network()
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return genotype


def _from_run(run: Path) -> Genotype:
    best = run / "best" / "genotype.json"
    if not best.is_file() and (run / "genotype.json").is_file():  # of a compiled network, or a copy of best/
        best = run / "genotype.json"
    if not best.is_file():
        raise InputError(f"{run}: not a run folder with a best network (it contains no best/genotype.json)")
    if (run / "run.json").exists() or (best.parent / MANIFEST).exists():
        check_file(best.parent, best.name, f"restore it, or remove {best.parent} and resume the run to make it again")
    return _from_file(best)


def _from_trial(run: Path, trial: str) -> Genotype:
    path = run / "trials" / trial / "genotype.json"
    if trial.isascii() and trial.isdigit() and path.is_file():
        remedy = "resume the search to write it again"
        manifest = read_manifest(path.parent, remedy)
        check_file(path.parent, path.name, remedy, manifest)
        genotype = _from_file(path)
        if manifest.get("trial") != int(trial) or manifest.get("hash") != cost(genotype).hash:
            raise InputError(f"{path}: not the network that trial {trial} was recorded with; {remedy}")
        return genotype
    numbers = sorted(
        int(folder.name)
        for folder in (run / "trials").glob("[0-9]*")
        if folder.name.isascii() and folder.name.isdigit()
    )
    hint = f"its trials are {numbers[0]} to {numbers[-1]}" if numbers else "it has no trials"
    raise InputError(f"{run}: no trial '{trial}'; {hint}")


def _from_space(name: str, point: str) -> Genotype:
    spaces = []
    for space in spaces_in_family(name):
        if point in space.points:
            return space.point(point)
        spaces.append(space)
    if not spaces:
        hint = did_you_mean(f"{name}/{point}", _all_references())
        raise InputError(f"no genotype '{name}/{point}': no such file, run or space{hint}")
    points = [other for space in spaces for other in space.points]
    if not point:
        hint = f"specify one of its points, such as {name}/{points[0]}" if points else "it has no points"
        raise InputError(f"{name} is a search space, not a genotype: {hint}")
    hint = did_you_mean(point, points) or f"; its points are {', '.join(points) or 'none'}"
    raise InputError(f"{name} has no point '{point}'{hint}")


def _all_references() -> list[str]:
    spaces = map(open_space, list_spaces())
    return [f"{space.family}/{point}" for space in spaces for point in space.points]
