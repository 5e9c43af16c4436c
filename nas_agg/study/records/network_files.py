"""Files of networks in a run folder: those of trials, and the final one of a search that trains none."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from nas_agg.common.files import canonical_json, write_atomic, write_errors
from nas_agg.language.genotype import Genotype
from nas_agg.study.records.provenance import add_code_or_warn, describe_run
from nas_agg.study.records.run_folder import GENOTYPE_FILE, METRICS_FILE, RunFolder

if TYPE_CHECKING:
    from nas_agg.search_space.parameters import Values
    from nas_agg.study.definition.trial import TrialRecord

VALUES = "values.json"


def write_network(folder: Path, genotype: Genotype | Values) -> None:
    """Write a genotype, or the values of bare parameters."""
    if isinstance(genotype, Genotype):
        write_atomic(folder / GENOTYPE_FILE, genotype.to_json() + "\n")
    else:
        write_atomic(folder / VALUES, canonical_json(genotype) + "\n")


def write_best(folder: RunFolder, best: TrialRecord, genotype: Genotype | Values) -> None:
    """Write the best network of a search and its metrics, as a complete folder at once."""
    unfinished = folder.path / "best.tmp"
    with write_errors(unfinished):
        unfinished.mkdir(exist_ok=True)
    write_network(unfinished, genotype)
    metrics = {"trial": best.number, "value": best.value, "params": best.params, "macs": best.macs, "hash": best.hash}
    write_atomic(unfinished / METRICS_FILE, canonical_json(metrics) + "\n")
    if isinstance(genotype, Genotype):
        add_code_or_warn(unfinished, genotype, *describe_run(folder.run, folder.path, best.number))
    with write_errors(folder.best):
        os.rename(unfinished, folder.best)
