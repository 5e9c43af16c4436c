"""Trains and tests a single network without a search, in a run folder like that of a search."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from nas_agg.common.errors import InputError, did_you_mean
from nas_agg.graph.rematerialization import RequestedMemoryMode
from nas_agg.search_space.space import SUFFIXES
from nas_agg.study.definition.metrics import format_evaluation, imbalance_note
from nas_agg.study.definition.notations import SEED_LIMIT, short_repr
from nas_agg.study.definition.signals import Stopped, stoppable
from nas_agg.study.definition.task import absolute, check_unchanged, data_arguments
from nas_agg.study.records.progress import epoch_line, is_logged_epoch, training_length
from nas_agg.study.records.provenance import describe_run, describe_source
from nas_agg.study.records.run_folder import RunFolder
from nas_agg.study.records.run_status import Interrupted
from nas_agg.study.scheduling.memory_plan import standalone_memory_choice
from nas_agg.study.workers.messages import FinalJob
from nas_agg.training.recipes import Recipe, RecipeSource, open_recipe
from nas_agg.training.recipes.files import reference

if TYPE_CHECKING:
    import os

    from nas_agg.expansion.costs import Cost
    from nas_agg.language.genotype import Genotype
    from nas_agg.study.workers.final_jobs import EpochCallback
    from nas_agg.training.data import Data
    from nas_agg.training.steps.processes import Processes


def train_genotype(
    genotype: Genotype,
    *,
    name: str = "genotype",
    dataset: str | Data = "digits",
    recipe: RecipeSource = "final",
    epochs: int | None = None,
    device: str = "auto",
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    image_size: int | str | None = None,
    resize: str = "crop",
    crop_share: float | None = None,
    skip_unreadable: bool = False,
    memory: RequestedMemoryMode = "auto",
    compile: bool = False,
    sync_bn: bool = False,
    metric: str | None = None,
    weights: str | os.PathLike[str] | None = None,
    download: bool = False,
    callback: EpochCallback | None = None,
    show: bool = False,
) -> dict[str, Any]:
    """Train a network on train + validation and test it once; ``OUT/best`` receives it.

    Processes that ``torchrun`` started, each of which calls this function with the same arguments, train it together.

    Args:
        genotype: The network; its input and classes are replaced by the data set's.
        name: The name of the run.
        dataset: A specification, see `nas_agg.training.data.load_data`, or a data set.
        recipe: Name, file or content of the recipe (`nas_agg.training.recipes.open_recipe`).
        epochs: Replaces the recipe's epochs.
        device: auto, cpu, cuda or cuda:N.
        seed: Seed of the weights, of the order of images and of augmentation.
        out: The folder; by default ``runs/train-NAME-DATASET-SEED``. An unfinished training there is resumed.
        image_size: Side in pixels that images are scaled to, or height and width such as ``64x48``; by default image
            files are scaled to the genotype's own input, and arrays keep their size.
        resize: How images of another shape are made to fit: ``crop``, ``squash`` or ``pad``.
        crop_share: With ``crop``, the share of scaled images that evaluation keeps, see `plan_preprocessing`.
        skip_unreadable: Leave out images that cannot be read.
        memory: The memory mode: plain, lean or leanest; auto is the first that fits the device.
        compile: Run the training under ``torch.compile``, which takes minutes before the first epoch.
        sync_bn: With several processes: batch norms use the statistics of the whole batch.
        metric: The metric that early stopping watches and the test reports beside those of the task.
        weights: What to start from: a run, a file of weights, or a torchvision name such as ``resnet50``. The
            classifier starts anew where the classes differ.
        download: Download named weights that are not cached.
        callback: Called after each epoch with its number and its metrics.
        show: Print progress.

    Returns:
        The contents of ``best/metrics.json``.

    Raises:
        InputError: A setting is invalid, or the folder holds something else.
        TrainingFailed: The loss diverged, or memory ran out.
    """
    from nas_agg.training.data.load import own_image_size
    from nas_agg.training.loop import pick_device
    from nas_agg.training.optimizers import check_recipe
    from nas_agg.training.steps.processes import device_of, joined, started_processes
    from nas_agg.training.torch_compile import check_compiler

    _check_arguments(memory, seed)
    recipe = open_recipe(recipe)
    check_recipe(recipe)
    started = started_processes()
    device = str(pick_device(device_of(started, device)))
    if compile:
        check_compiler(device)
        if sync_bn:
            raise InputError("sync_bn: not together with compile; leave one of them out")
    if image_size is None and isinstance(dataset, str):
        image_size = own_image_size(dataset, genotype.input)
    settings: dict[str, Any] = {
        "genotype": genotype.to_dict(),
        "dataset": absolute(dataset) if isinstance(dataset, str) else dataset.name,
        "recipe": reference(recipe),
        "epochs": epochs or recipe.epochs,
        "seed": seed,
        "image_size": image_size,
        **({} if metric is None else {"metric": metric}),
        **({"sync_bn": True} if sync_bn else {}),
    }
    options = {"resize": resize, "crop_share": crop_share, "skip_unreadable": skip_unreadable}
    with joined(started, device) as processes:
        run = _StandaloneTraining(name, device, memory, compile, show and processes.is_first, processes)
        return run.run(genotype, settings, dataset, options, weights, download, out, callback)


def _start(genotype: Genotype, weights: str | os.PathLike[str], download: bool, recipe: Recipe) -> str:
    """Check the weights that a training starts from; returns them with their path, if any, made absolute."""
    from nas_agg.compiler import compile
    from nas_agg.compiler.fine_tuning import freeze, load_pretrained

    network = compile(genotype, 0)
    load_pretrained(network, genotype, str(weights), download)
    freeze(network, recipe.freeze)
    return str(Path(weights).resolve()) if Path(weights).exists() else str(weights)


def _check_arguments(memory: str, seed: int) -> None:
    if memory not in (modes := get_args(RequestedMemoryMode)):
        raise InputError(
            f"memory: must be one of {', '.join(modes)}, not {short_repr(memory)}{did_you_mean(str(memory), modes)}"
        )
    if not 0 <= seed < SEED_LIMIT:
        raise InputError(f"seed: must be a whole number from 0 to 2**63 - 1, not {short_repr(seed)}")


def _print_test(folder: RunFolder, metrics: dict[str, Any]) -> None:
    """Print the test accuracy and the next command."""
    test = "" if "untested" in metrics else "test "
    print(f"{test}{format_evaluation(metrics, 'test_')}; the network is in {folder.best}")
    if note := imbalance_note(metrics, "test_"):
        print(note)
    print(f"next: nas_agg compile {folder.path} --out {folder.path.name}-model")


def _default_folder(name: str, dataset: str, seed: int) -> Path:
    stems = [Path(text).stem if Path(text).suffix in (*SUFFIXES, ".npz") else text for text in (name, dataset)]
    words = [re.sub(r"[^A-Za-z0-9.]+", "-", stem).strip("-.") for stem in stems]
    return Path("runs") / f"train-{'-'.join(words)}-{seed}"


def _begin(folder: RunFolder, settings: dict[str, Any], name: str, **more: Any) -> None:
    """Begin a run, or check that the run in the folder has the same settings."""
    if folder.new:
        title, about = describe_source(name)
        folder.begin(settings, kind="train", origin={"title": title, "about": about}, **more)
    elif folder.run["settings"] != settings:
        earlier = folder.run["settings"]
        keys = [key for key in {**settings, **earlier} if settings.get(key) != earlier.get(key)]
        raise InputError(f"{folder.path}: the run has a different value of {keys[0]}; choose another --out")
    else:
        check_unchanged(folder.run, folder.path, more["dataset"])


@dataclass(frozen=True)
class _StandaloneTraining:
    """A training by one process or several, of which the first keeps the run.

    Attributes:
        name: The name of the run.
        device: The device of this process.
        memory: The requested memory mode.
        compile: Run the training under ``torch.compile``.
        show: Print progress.
        processes: The processes.
    """

    name: str
    device: str
    memory: RequestedMemoryMode
    compile: bool
    show: bool
    processes: Processes

    def run(
        self,
        genotype: Genotype,
        settings: dict[str, Any],
        dataset: str | Data,
        options: dict[str, Any],
        weights: str | os.PathLike[str] | None,
        download: bool,
        out: str | os.PathLike[str] | None,
        callback: EpochCallback | None,
    ) -> dict[str, Any]:
        """Load the data, train and test; the arguments are those of `train_genotype`."""
        from nas_agg.expansion.costs import cost
        from nas_agg.training.data import load_data
        from nas_agg.training.evaluation import find_metric, main_metric

        begun: dict[str, Any] = {}
        if isinstance(dataset, str):
            arguments = data_arguments(settings["dataset"], settings["seed"], settings["image_size"], **options)
            settings = settings | {name: arguments[name] for name in options if name in arguments}
            data, begun["data"] = load_data(**arguments, processes=self.processes.local_count), arguments
        else:
            data = dataset
        find_metric(settings.get("metric") or main_metric(data.task), data.task)
        genotype = genotype.with_task(data.input, data.classes)
        costs = cost(genotype)  # an invalid network raises before the folder is created
        if not self.processes.is_first:
            return self._follow(data)
        if weights is not None:
            settings["weights"] = _start(genotype, weights, download, open_recipe(settings["recipe"]))
        folder = RunFolder(_default_folder(self.name, data.name, settings["seed"]) if out is None else out)
        try:
            _begin(folder, settings, self.name, dataset=data.description(), device=self.device, **begun)
            if folder.metrics() is None:
                self.train(folder, data, genotype, costs, callback)
            else:
                self.processes.share(None)
            metrics = folder.metrics()
        finally:
            folder.close()
        assert metrics is not None
        if self.show:
            _print_test(folder, metrics)
        return self.processes.share(metrics)

    def _follow(self, data: Data) -> dict[str, Any]:
        """Train with the first process, if the run is not finished yet."""
        from nas_agg.study.workers.final_jobs import train_final

        job = self.processes.share(None)
        if job is not None:
            try:
                with stoppable():
                    own = FinalJob.model_validate_json(job).model_copy(update={"device": self.device})
                    train_final(own, data, lambda epoch, value: False, None, self.processes)
            except Stopped as stopped:
                self.processes.ignore_termination()
                raise SystemExit(stopped.status) from None
        return self.processes.share(None)

    def train(
        self, folder: RunFolder, data: Data, genotype: Genotype, costs: Cost, callback: EpochCallback | None
    ) -> None:
        """Choose the memory mode, train and test."""
        settings, processes = folder.run["settings"], self.processes
        recipe = open_recipe(settings["recipe"])
        if self.show:
            size = f"{costs.params:,} params, {costs.macs:,} MACs"
            length = f"{training_length(settings['epochs'], self.compile)}, recipe {recipe.name}"
            print(f"training {self.name} ({size}) on {data.name}: {length}", flush=True)
        for note in data.notes:
            _log(folder, f"data: {note}", self.show)
        batch, nbytes = -(-recipe.batch_size // processes.count), data.resident_bytes(self.device)
        if processes.count > 1:
            _log(folder, f"{processes.count} processes, each with {batch} images of a batch at most", self.show)
        sharing = processes.local_count if self.device == "cpu" else 1
        choice = standalone_memory_choice(folder, self.memory, costs, batch, self.device, nbytes, sharing)
        if choice.message:
            _log(folder, choice.message, self.show)
        title, about = describe_run(folder.run, folder.path)
        job = FinalJob(
            genotype=genotype.to_dict(),
            seed=settings["seed"],
            recipe=recipe,
            epochs=settings["epochs"],
            device=self.device,
            out=str(folder.path / "best.tmp"),
            best=str(folder.best),
            metrics=(settings["metric"],) if "metric" in settings else (),
            cost={"params": costs.params, "macs": costs.macs, "hash": costs.hash},
            memory=choice.mode,
            compile=self.compile,
            sync_batch_norm=settings.get("sync_bn", False),
            weights=settings.get("weights"),
            title=title,
            about=about,
        )
        processes.share(job.model_dump_json())
        _train(folder, job, data, self.show, callback, processes)


def _log(folder: RunFolder, line: str, show: bool) -> None:
    folder.log(line)
    if show:
        print(line, flush=True)


def _train(
    folder: RunFolder, job: FinalJob, data: Data, show: bool, callback: EpochCallback | None, processes: Processes
) -> None:
    """Train, and record the status of the run."""
    from nas_agg.study.workers.final_jobs import train_final
    from nas_agg.training.loop import TrainingFailed

    folder.run.pop("reason", None)
    folder.update(status="running")
    try:
        with stoppable():
            progress = _progress(folder, show, folder.run["settings"]["epochs"], data.task)
            metrics = train_final(job, data, progress, callback, processes)
            if "uncompiled" in metrics:
                _log(folder, f"torch.compile failed ({metrics['uncompiled']}): trained without it", show)
    except Stopped as stopped:
        processes.ignore_termination()
        folder.update(status="stopped")
        raise Interrupted(folder, stopped.status) from None
    except TrainingFailed as error:
        folder.update(status="failed", reason=str(error))
        raise
    folder.finish()


def _progress(folder: RunFolder, show: bool, epochs: int, task: str) -> Callable[[int, float], bool]:
    """A function that reports each epoch: on one live line of a terminal, else about ten lines of a training."""
    live = show and sys.stdout.isatty()

    def report(epoch: int, value: float) -> bool:
        line = epoch_line(epoch, epochs, value, task)
        if is_logged_epoch(epoch, epochs):
            folder.log(line)
        if live:
            print(f"\r{line}", end="\n" if epoch == epochs else "", flush=True)
        elif show and is_logged_epoch(epoch, epochs):
            print(line, flush=True)
        return False

    return report
