"""What a run keeps twice must agree: the trials of its study, its table of trials, and its final network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas_agg.common.errors import InputError
from nas_agg.common.manifest import check_file
from nas_agg.study.definition.result import ranked
from nas_agg.study.records.journal import JOURNAL
from nas_agg.study.records.trials_table import REWRITE, TRIALS_FILE, Row, check_trials_table

if TYPE_CHECKING:
    from nas_agg.study.definition.trial import TrialRecord


def check_trials(
    folder: Path, run: Mapping[str, Any], rows: Sequence[Row], trials: Sequence[TrialRecord], storage_name: str
) -> None:
    """Compare the trials of a study with the table and, once the run has finished, its journal with the manifest.

    Args:
        folder: The run folder.
        run: The contents of its run.json.
        rows: The table, which was read before the trials: a search that is running may add to both.
        trials: The trials in the storage.
        storage_name: The storage's name in error messages.

    Raises:
        InputError: They differ.
    """
    if run["status"] == "finished":
        if run["settings"].get("storage") is None:
            check_file(folder, JOURNAL)
        if rows:
            check_file(folder, TRIALS_FILE, REWRITE)
    check_trials_table(rows, trials, storage_name, folder)


def check_best(folder: Path, metrics: Mapping[str, Any] | None, trials: Sequence[TrialRecord]) -> None:
    """Compare the final network of a search with its best trial.

    Args:
        folder: The run folder.
        metrics: The contents of best/metrics.json; None if there is no final network.
        trials: The trials.

    Raises:
        InputError: The final network is that of another trial.
    """
    best = ranked(trials)
    if metrics is None or not best:
        return
    candidates = [candidate["trial"] for candidate in metrics.get("candidates", [])] or [metrics.get("trial")]
    hashes = {trial.number: trial.network_hash for trial in best[: len(candidates)]}
    number = metrics.get("trial", -1)
    if list(hashes) != candidates or metrics.get("hash", hashes.get(number)) != hashes.get(number):
        path = folder / "best"
        raise InputError(
            f"{path}: the network of trial {metrics.get('trial')}, but trial {best[0].number} is the best of the "
            f"study; restore the storage, or remove {path} and resume the search to make it again"
        )
