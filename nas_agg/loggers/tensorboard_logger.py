"""Logs a search for TensorBoard: a run per trial in ``tensorboard/`` of the run folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas_agg.loggers.contents import drawing_of, final_results, finite, hyperparameters, trial_results
from nas_agg.study.definition.callbacks import Callback
from nas_agg.study.definition.result import SearchResult
from nas_agg.study.definition.trial import TrialRecord

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorBoardLogger(Callback):
    """Writes metrics by epoch, hyperparameters with results, and the final network's metrics and drawing.

    The drawing is written as SVG next to the events, and as an image where cairosvg is installed.
    """

    def __init__(self) -> None:
        self._folder = Path("tensorboard")
        self._writers: dict[int, SummaryWriter] = {}

    def on_start(self, settings: Mapping[str, Any], folder: Path | None) -> None:
        if folder is not None:
            self._folder = folder / "tensorboard"

    def _writer(self, name: str) -> SummaryWriter:
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(self._folder / name))

    def _writer_of(self, trial: int) -> SummaryWriter:
        if trial not in self._writers:
            self._writers[trial] = self._writer(f"trial-{trial}")
        return self._writers[trial]

    def on_epoch(self, trial: int, epoch: int, metrics: Mapping[str, float]) -> None:
        writer = self._writer_of(trial)
        for name, value in finite(metrics).items():
            writer.add_scalar(name, value, epoch)

    def on_trial(self, trial: TrialRecord) -> None:
        writer = self._writer_of(trial.number)
        results = {f"result/{name}": value for name, value in trial_results(trial).items()}
        if results:
            writer.add_hparams(dict(hyperparameters(trial)), results, run_name=".")
        if trial.reason:
            writer.add_text("reason", trial.reason)
        if trial.is_final or trial.scores is None:
            writer.close()
            del self._writers[trial.number]
        else:
            writer.flush()

    def on_end(self, result: SearchResult) -> None:
        for writer in self._writers.values():
            writer.close()
        writer = self._writer("final")
        for name, value in final_results(result).items():
            writer.add_scalar(f"final/{name}", value, 0)
        svg = drawing_of(result)
        if svg is not None:
            (self._folder / "network.svg").write_text(svg, encoding="utf-8")
            self._add_image(writer, svg)
        writer.close()

    @staticmethod
    def _add_image(writer: SummaryWriter, svg: str) -> None:
        from nas_agg.report.raster import has_cairosvg, png_pixels

        if has_cairosvg():
            writer.add_image("network", png_pixels(svg), 0, dataformats="HWC")
