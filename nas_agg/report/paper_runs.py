"""Trained networks of run folders, matched to the papers' rows by network and data set."""

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
from nas_agg.study.records.run_folder import GENOTYPE_FILE, RUN_FILE, dataset_arguments, read_metrics, read_run
from nas_agg.study.saved_evaluation import finish_instructions
from nas_agg.training.datasets import FILE_KINDS


@dataclass(frozen=True)
class TrainedNetwork:
    """The final network of a run.

    Attributes:
        path: The run folder.
        title: Name of the network.
        data: One of `DATA_SETS`, or the name of a data set for which no paper prints results.
        input: Shape of an image, (channels, height, width).
        classes: Number of classes.
        params: Number of parameters.
        hash: Canonical hash.
        error: Test error in percent.
        images: Number of test images.
        epochs: Number of training epochs.
        recipe: Name of the recipe.
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
        """Length and recipe of the training, and the number of test images if it is not that of the data set."""
        few = "" if self.images == DATA_SETS[self.data].test else f", {self.images:,} test images"
        length = f"{self.epochs} epoch{'s' * (self.epochs != 1)}"
        return f"{length}, recipe {self.recipe}{few} ({self.path})"

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        values = {name: getattr(self, name) for name in ("hash", "images", "epochs", "recipe")}
        return {"run": self.path, "data": self.data, "test_error": round(self.error, 4)} | values


class RunMatch(NamedTuple):
    """A run and the row of a paper with the same network.

    Attributes:
        paper: The paper's name.
        row: The row.
        reading: The alternative reading of the row whose network it is; empty for the row itself.
        run: The run.
    """

    paper: str
    row: Row
    reading: str
    run: TrainedNetwork


def read_trained(path: str, known_as: Sequence[str] = ()) -> TrainedNetwork:
    """Read the trained and tested network of a run folder.

    Args:
        path: Folder of a finished ``nas_agg train`` or search.
        known_as: The `DATA_SETS` that a data set of files (``npz:``, ``folder:``, ``csv:``) may be; image shape and
            classes decide.

    Raises:
        InputError: It is not a run, not finished or damaged, or its data set is unknown.
    """
    folder, _, trial = path.rpartition(":")
    if trial.isdigit() and not Path(path).exists() and (Path(folder) / RUN_FILE).is_file():
        raise InputError(f"{path}: a trial has no test error; train and test it with: nas_agg train {path}")
    run, best = read_run(path), Path(path) / "best"
    if run.get("evaluate") or not best.is_dir():
        raise InputError(f"{path}: no final network; {finish_instructions(run, path)}")
    metrics = read_metrics(best)
    if not metrics.get("epochs") or not metrics.get("recipe"):
        raise InputError(f"{best}: its metrics lack epochs and recipe; train the network again")
    if metrics.get("test_accuracy") is None:
        raise InputError(f"{best}: no test accuracy in its metrics, to compare with what papers print")
    cost = Cost(expand(open_genotype(str(best / GENOTYPE_FILE))))
    if metrics.get("hash", cost.hash) != cost.hash:
        raise InputError(f"{best}: damaged: its metrics belong to another network than its {GENOTYPE_FILE}")
    graph = cost.graph
    input, classes = graph.shapes[0], graph.shapes[graph.output][0]
    return TrainedNetwork(
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
    """The name of a run's data set: that of its ``spec``, or for files one of ``known_as``."""
    kind, _, place = spec.partition(":")
    if kind not in FILE_KINDS:
        return kind
    name, task = f"{kind}:{Path(place).name}", f"{_size(input)}, {classes} classes"
    fitting = [known for known, data in DATA_SETS.items() if (data.input, data.classes) == (input, classes)]
    for known in fitting:
        if known in known_as:
            return known
    if known_as:
        labels = " or ".join(DATA_SETS[known].label for known in known_as)
        raise InputError(f"{path}: trained on {name} ({task}), which is not {labels}")
    if fitting:
        raise InputError(f"{path}: trained on {name}; if that is {DATA_SETS[fitting[0]].label}, add --as {fitting[0]}")
    return f"{name} ({task})"


def _size(input: tuple[int, int, int] | None) -> str:
    return "x".join(map(str, input or ()))


def match(run: TrainedNetwork, papers: Mapping[str, Paper]) -> tuple[list[RunMatch], str]:
    """Find the rows with the network of a run and a result on its data set.

    Networks are compared by canonical hash, with the classes and image shape of the run.

    Args:
        run: The run.
        papers: The papers by name.

    Returns:
        The matches; if there are none, a line with the reason.
    """
    known = DATA_SETS.get(run.data)
    searched = f"the paper {next(iter(papers))}" if len(papers) == 1 else "the papers"
    network = f"{run.title}, hash {run.hash}"
    if known is None:
        return [], f"{run.path}: no paper prints a result on {run.data}; its network: {network}"
    if run.input != known.input:
        sizes = f"{_size(run.input)}, not {_size(known.input)}"
        return [], f"{run.path}: its images are {sizes} as in the papers for {known.label}; its network: {network}"
    rows = [RunMatch(name, row, "", run) for name, paper in papers.items() for row in paper.rows]
    printed: list[RunMatch] = []
    others: list[RunMatch] = []
    for one in rows:
        (printed if _prints_result_on(papers[one.paper], one.row, run.data) else others).append(one)
    if same := list(_with_network(run, printed)):
        return same, ""
    if same := list(_with_network(run, others)):
        names = ", ".join(dict.fromkeys(f"{one.row.network} ({one.paper})" for one in same))
        return [], f"{run.path}: no paper prints a result of its network on {known.label}: {names}"
    return [], f"{run.path}: its network is in no row of {searched}: {network}"


def _prints_result_on(paper: Paper, row: Row, data: str) -> bool:
    return any(result.data.rstrip("+") == data for result in paper.results(row))


def _with_network(run: TrainedNetwork, rows: Sequence[RunMatch]) -> Iterator[RunMatch]:
    """The rows whose network is that of the run, in the row's own or an alternative reading."""
    for one in rows:
        genotype = one.row.genotype()
        if genotype is None:
            continue
        if _is_network(run, genotype):
            yield one
            continue
        for reading in one.row.readings:
            if not reading.range and _is_network(run, one.row.genotype_of(reading)):
                yield one._replace(reading=reading.about)
                break


def _is_network(run: TrainedNetwork, genotype: Genotype) -> bool:
    """Whether a genotype, with the run's image shape and classes, is the run's network."""
    return _identity(genotype, run.input, run.classes) == (run.params, run.hash)


@lru_cache(maxsize=1024)
def _identity(genotype: Genotype, input: tuple[int, int, int], classes: int) -> tuple[int, str]:
    """Parameters and hash of a network for an image shape and classes; (0, "") if it does not accept them."""
    try:
        cost = Cost(expand(genotype.with_task(input, classes)))
    except GenotypeError:  # for instance, the image is too small
        return 0, ""
    return cost.params, cost.hash
