"""Where a genotype comes from: a file, a named point of a space, or a run."""

from __future__ import annotations

from pathlib import Path

from nas_agg.common.errors import InputError, did_you_mean
from nas_agg.common.files import read_document
from nas_agg.language.genotype import Genotype
from nas_agg.language.resolver import Resolver
from nas_agg.search_space.space import SUFFIXES, list_spaces, open_space, spaces_in_family


def open_genotype(text: str) -> Genotype:
    """The genotype that a text names.

    Args:
        text: A JSON or YAML file; ``space/point``, where the space may be a file or a family's name; a run's folder,
            which stands for its best network; or ``RUN:TRIAL``, a trial's number after the run's folder.

    Raises:
        InputError: There is no such genotype, or it is not valid; the line says what is near.
    """
    try:
        return _opened(text)
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"no genotype '{text[:100]}': {getattr(error, 'strerror', None) or error}") from None


def _opened(text: str) -> Genotype:
    path = Path(text)
    if text and path.is_dir():
        return _of_run(path)
    if path.is_file():
        return _of_file(path)
    run, _, trial = text.rpartition(":")
    if run and Path(run).is_dir():
        return _of_trial(Path(run), trial)
    space, _, point = text.rpartition("/")
    if space and Path(space).is_file():
        return open_space(space).point(point)
    if path.suffix.lower() in SUFFIXES:
        return _of_file(path)
    if space.count("/") == 0 and (space or text in list_spaces()):
        return _of_space(space or text, point if space else "")
    raise InputError(f"no genotype '{text}': no such file, run or space/point{did_you_mean(text, _addresses())}")


def _of_file(path: Path) -> Genotype:
    value = read_document(path)
    if isinstance(value, dict) and value.get("open"):
        points = value.get("points")
        such = "it has no 'points'; give it one"
        if isinstance(points, dict) and points:
            such = f"name a point of it, such as {path}/{next(iter(points))}"
        raise InputError(f"{path}: a space with open names, not a genotype: {such}")
    try:
        genotype = Genotype.read(value)
        Resolver(genotype).network()
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return genotype


def _of_run(run: Path) -> Genotype:
    best = run / "best" / "genotype.json"
    if not best.is_file() and (run / "genotype.json").is_file():  # a compiled network's, or a copy of a best one's
        best = run / "genotype.json"
    if not best.is_file():
        raise InputError(f"{run}: not the folder of a run with a best network (no best/genotype.json in it)")
    return _of_file(best)


def _of_trial(run: Path, trial: str) -> Genotype:
    path = run / "trials" / trial / "genotype.json"
    if trial.isascii() and trial.isdigit() and path.is_file():
        return _of_file(path)
    known = sorted(
        int(folder.name)
        for folder in (run / "trials").glob("[0-9]*")
        if folder.name.isascii() and folder.name.isdigit()
    )
    there = f"its trials are {known[0]} to {known[-1]}" if known else "it has none"
    raise InputError(f"{run}: no trial '{trial}'; {there}")


def _of_space(name: str, point: str) -> Genotype:
    spaces = []
    for space in spaces_in_family(name):
        if point in space.points:
            return space.point(point)
        spaces.append(space)
    if not spaces:
        raise InputError(
            f"no genotype '{name}/{point}': no such file, run or space{did_you_mean(f'{name}/{point}', _addresses())}"
        )
    points = [known for space in spaces for known in space.points]
    if not point:
        such = f"name a point of it, such as {name}/{points[0]}" if points else "it has no points"
        raise InputError(f"{name} is a space, not a genotype: {such}")
    hint = did_you_mean(point, points) or f"; its points are {', '.join(points) or 'none'}"
    raise InputError(f"{name} has no point '{point}'{hint}")


def _addresses() -> list[str]:
    spaces = map(open_space, list_spaces())
    return [f"{space.family}/{point}" for space in spaces for point in space.points]
