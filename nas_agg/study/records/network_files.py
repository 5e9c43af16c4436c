"""Files of networks in a run folder: those of trials, and the final one of a search that trains none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nas_agg.common.durable import rename_durably
from nas_agg.common.errors import InputError
from nas_agg.common.files import canonical_json, write_atomic, write_errors
from nas_agg.common.manifest import check_file, read_manifest, write_manifest
from nas_agg.language.genotype import Genotype
from nas_agg.study.definition.trial import RecordState
from nas_agg.study.records.provenance import add_code_or_warn, describe_run
from nas_agg.study.records.run_folder import GENOTYPE_FILE, METRICS_FILE, RunFolder
from nas_agg.study.records.trials_table import TRIALS_FILE

if TYPE_CHECKING:
    from nas_agg.search_space.parameters import Values
    from nas_agg.study.definition.trial import Labels, TrialRecord

VALUES = "values.json"


def write_network(folder: Path, genotype: Genotype | Values, *, durable: bool = True) -> str:
    """Write a genotype, or the values of bare parameters.

    Returns:
        The name of the file.
    """
    if isinstance(genotype, Genotype):
        write_atomic(folder / GENOTYPE_FILE, genotype.to_json() + "\n", durable=durable)
        return GENOTYPE_FILE
    write_atomic(folder / VALUES, canonical_json(genotype) + "\n", durable=durable)
    return VALUES


def write_trial(folder: RunFolder, trial: TrialRecord, genotype: Genotype | Values) -> Path:
    """Write the network of a trial to the trial's folder, which is returned.

    It does not wait for the disk: the study has the values that the network can be written from again.
    """
    path = folder.trial_folder(trial.number)
    name = write_network(path, genotype, durable=False)
    write_manifest(path, [name], durable=False, trial=trial.number, hash=trial.hash)
    return path


def restore_files(
    folder: RunFolder, trials: Sequence[TrialRecord], genotype_of: Callable[[Labels], Genotype | Values]
) -> None:
    """Write again what is missing or damaged of the files that follow from a study: its table and its networks.

    Args:
        folder: The run folder.
        trials: The trials of the study.
        genotype_of: Returns the network of a trial's values.
    """
    if folder.run["status"] == "finished" and not (folder.path / TRIALS_FILE).exists():
        folder.table.write(trials)
        folder.write_manifest()
    for trial in trials:
        if trial.duplicate_of is None and trial.state != RecordState.RUNNING and not _is_intact(folder, trial):
            write_trial(folder, trial, genotype_of(trial.labels))


def _is_intact(folder: RunFolder, trial: TrialRecord) -> bool:
    """Whether the folder of a trial holds the network that was written to it."""
    path = folder.path / "trials" / str(trial.number)
    try:
        manifest = read_manifest(path)
        names = [name for name in (GENOTYPE_FILE, VALUES) if name in manifest["files"]]
        for name in names:
            check_file(path, name, manifest=manifest)
    except InputError:
        return False
    return bool(names) and (manifest.get("trial"), manifest.get("hash")) == (trial.number, trial.hash)


def write_best(folder: RunFolder, best: TrialRecord, genotype: Genotype | Values) -> None:
    """Write the best network of a search and its metrics, as a complete folder at once."""
    unfinished = folder.path / "best.tmp"
    with write_errors(unfinished):
        unfinished.mkdir(exist_ok=True)
    write_network(unfinished, genotype, durable=False)
    metrics = {
        "trial": best.number,
        "value": best.value,
        "params": best.params,
        "macs": best.macs,
        "hash": best.network_hash,
    }
    write_atomic(unfinished / METRICS_FILE, canonical_json(metrics) + "\n", durable=False)
    if isinstance(genotype, Genotype):
        add_code_or_warn(unfinished, genotype, *describe_run(folder.run, folder.path, best.number))
    write_manifest(unfinished, durable=False)
    with write_errors(folder.best):
        rename_durably(unfinished, folder.best)
