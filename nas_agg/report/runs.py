"""Trained networks of run folders, matched to the rows of the papers by network and data set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from nas_agg.common.errors import GenotypeError, InputError
from nas_agg.expansion.costs import Cost
from nas_agg.expansion.expansion import expand
from nas_agg.language.genotype import Genotype
from nas_agg.report.papers import DATA_SETS, Paper, Row
from nas_agg.search_space.references import open_genotype
from nas_agg.study.records.provenance import describe_run
from nas_agg.study.records.run_folder import GENOTYPE, RUN_FILE, dataset_arguments, read_metrics, read_run
from nas_agg.study.standalone_training import finish_instructions


@dataclass(frozen=True)
class Trained:
    """The final network of a run.

    Attributes:
        path: The run's folder.
        title: What the network is called.
        data: One of `DATA_SETS`, or the name of a data set of which no paper prints a result.
        input: The images' shape, (channels, height, width).
        classes: The number of classes.
        params: The network's parameters.
        hash: Its canonical hash.
        error: Its test error, in percent.
        images: The number of test images.
        epochs: How long it was trained.
        recipe: The recipe's name.
    """

    path: str
    title: str
    data: str
    input: tuple[int, int, int]
    classes: int
    params: int
    hash: str
    error: float
    images: int
    epochs: int
    recipe: str

    @property
    def about(self) -> str:
        """How it was trained, and on how many images it was tested where these are not the data set's."""
        few = "" if self.images == DATA_SETS[self.data].test else f", {self.images:,} test images"
        length = f"{self.epochs} epoch{'s' * (self.epochs != 1)}"
        return f"{length}, recipe {self.recipe}{few} ({self.path})"

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        found = {name: getattr(self, name) for name in ("hash", "images", "epochs", "recipe")}
        return {"run": self.path, "data": self.data, "test_error": round(self.error, 4)} | found


class Match(NamedTuple):
    """A run beside the row that has its network.

    Attributes:
        paper: The paper's name.
        row: The row.
        reading: What is different where the network is another reading of the row; else empty.
        run: The run.
    """

    paper: str
    row: Row
    reading: str
    run: Trained


def read_trained(path: str, known_as: Sequence[str] = ()) -> Trained:
    """The trained and tested network of a run folder.

    Args:
        path: The folder of a finished ``nas_agg train`` or search.
        known_as: Which of `DATA_SETS` an ``npz:`` or ``folder:`` data set may be; its images and classes decide.

    Raises:
        InputError: It is no run, not finished or damaged, or its data set is not known.
    """
    folder, _, trial = path.rpartition(":")
    if trial.isdigit() and not Path(path).exists() and (Path(folder) / RUN_FILE).is_file():
        raise InputError(f"{path}: a trial has no test error; train and test it with: nas_agg train {path}")
    run, best = read_run(path), Path(path) / "best"
    if run.get("evaluate") or not best.is_dir():
        raise InputError(f"{path}: no final network; {finish_instructions(run, path)}")
    metrics = read_metrics(best)
    if not metrics.get("epochs") or not metrics.get("recipe"):
        raise InputError(f"{best}: its metrics name no epochs and recipe: train the network again")
    cost = Cost(expand(open_genotype(str(best / GENOTYPE))))
    if metrics.get("hash", cost.hash) != cost.hash:
        raise InputError(f"{best}: damaged, its metrics are of another network than its {GENOTYPE}")
    graph = cost.graph
    input, classes = graph.shapes[0], graph.shapes[graph.output][0]
    return Trained(
        path=path,
        title=describe_run(run, path)[0],
        data=_data_set(path, dataset_arguments(run, path)["spec"], input, classes, known_as),
        input=input,
        classes=classes,
        params=cost.params,
        hash=cost.hash,
        error=100 * (1 - metrics["test_accuracy"]),
        images=metrics["images"],
        epochs=metrics["epochs"],
        recipe=metrics["recipe"],
    )


def _data_set(path: str, spec: str, input: tuple[int, int, int], classes: int, known_as: Sequence[str]) -> str:
    """The data set that a run's ``spec`` is: a name of its own, or one of those that files are known as."""
    kind, _, place = spec.partition(":")
    if kind not in ("npz", "folder"):
        return kind
    name, task = f"{kind}:{Path(place).name}", f"{_size(input)}, {classes} classes"
    fit = [known for known, data in DATA_SETS.items() if (data.input, data.classes) == (input, classes)]
    for known in fit:
        if known in known_as:
            return known
    if known_as:
        labels = " or ".join(DATA_SETS[known].label for known in known_as)
        raise InputError(f"{path}: trained on {name} ({task}), which is not {labels}")
    if fit:
        raise InputError(f"{path}: trained on {name}; if that is {DATA_SETS[fit[0]].label}, add --as {fit[0]}")
    return f"{name} ({task})"


def _size(input: tuple[int, int, int] | None) -> str:
    return "x".join(map(str, input or ()))


def match(run: Trained, found: Mapping[str, Paper]) -> tuple[list[Match], str]:
    """The rows whose network a run has trained on a data set of which they print a result.

    Networks are compared by their canonical hash, with the classes and images of the run.

    Args:
        run: The run.
        found: The papers, by name.

    Returns:
        The rows; and where there are none a line that says why.
    """
    known = DATA_SETS.get(run.data)
    papers = f"the paper {next(iter(found))}" if len(found) == 1 else "the papers"
    network = f"{run.title}, hash {run.hash}"
    if known is None:
        return [], f"{run.path}: no paper prints a result on {run.data}; its network: {network}"
    if run.input != known.input:
        sizes = f"{_size(run.input)}, not {_size(known.input)}"
        return [], f"{run.path}: its images are {sizes} as those of {known.label} in the papers; its network: {network}"
    rows = [Match(name, row, "", run) for name, paper in found.items() for row in paper.rows]
    printed = [one for one in rows if _prints(found[one.paper], one.row, run.data)]
    if same := list(_same(run, printed)):
        return same, ""
    if other := list(_same(run, [one for one in rows if not _prints(found[one.paper], one.row, run.data)])):
        names = ", ".join(dict.fromkeys(f"{one.row.network} ({one.paper})" for one in other))
        return [], f"{run.path}: nothing is printed on {known.label} of its network: {names}"
    return [], f"{run.path}: its network is in no row of {papers}: {network}"


def _prints(paper: Paper, row: Row, data: str) -> bool:
    return any(result.data.rstrip("+") == data for result in paper.results(row))


def _same(run: Trained, rows: Sequence[Match]) -> Iterator[Match]:
    """Those rows whose network the run has, in their own reading or in another."""
    for one in rows:
        genotype = one.row.genotype()
        if genotype is None:
            continue
        if _is(run, genotype):
            yield one
            continue
        for reading in one.row.readings:
            if not reading.range and _is(run, one.row.genotype_of(reading)):
                yield one._replace(reading=reading.about)
                break


def _is(run: Trained, genotype: Genotype) -> bool:
    """Whether a genotype, with the run's images and classes, is the run's network."""
    return _identity(genotype, run.input, run.classes) == (run.params, run.hash)


@lru_cache(maxsize=1024)
def _identity(genotype: Genotype, input: tuple[int, int, int], classes: int) -> tuple[int, str]:
    """A network's parameters and hash for images and classes; none of either where it cannot be for these."""
    try:
        cost = Cost(expand(genotype.with_task(input, classes)))
    except GenotypeError:  # too small an image, for instance
        return 0, ""
    return cost.params, cost.hash
