"""The public function `search`, with each setting of a search as an argument."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler
    from optuna.trial import Trial

    from nas_agg.graph.rematerialization import RequestedMemoryMode
    from nas_agg.search_space.space import Space
    from nas_agg.study import SearchResult
    from nas_agg.study.definition.callbacks import Callback
    from nas_agg.study.samplers.searcher import Searcher
    from nas_agg.training.data import Data
    from nas_agg.training.recipes import RecipeSource


def search(
    space: str | PathLike[str] | Space | Mapping[str, Any],
    evaluate: Callable[[Any, Trial], float | Sequence[float]] | None = None,
    searcher: str | type[Searcher] | BaseSampler = "predictor",
    budget: int = 50,
    seed: int = 0,
    *,
    out: str | PathLike[str] | None = None,
    show: bool = False,
    callbacks: Sequence[Callback] = (),
    log: str | Sequence[str] = (),
    start: str | PathLike[str] | Mapping[str, Any] | Sequence[str | PathLike[str] | Mapping[str, Any]] | None = None,
    learn: str | PathLike[str] | Sequence[str | PathLike[str]] | None = None,
    proxy: str | None = None,
    proxy_candidates: int = 20,
    dataset: str | Data | None = None,
    image_size: int | str | None = None,
    resize: Literal["crop", "squash", "pad"] = "crop",
    crop_share: float | None = None,
    skip_unreadable: bool = False,
    epochs: int | None = None,
    pruner: Literal["median", "halving", "hyperband", "freeze-thaw", "none"] | None = None,
    reduction_factor: int | None = None,
    min_epochs: int | None = None,
    timeout: float | str | None = None,
    trial_timeout: float | str | None = None,
    final: int = 1,
    final_epochs: int | None = None,
    objective: str | Sequence[str] | None = None,
    metric: str | None = None,
    latency_target: float | str | None = None,
    max_params: int | str | None = None,
    max_macs: int | str | None = None,
    max_activations: int | str | None = None,
    max_latency: float | str | None = None,
    min_accuracy: float | None = None,
    max_loss: float | None = None,
    min_metric: Mapping[str, float] | str | Sequence[str] | None = None,
    max_metric: Mapping[str, float] | str | Sequence[str] | None = None,
    recipe: RecipeSource | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    optimizer: str | None = None,
    set: Mapping[str, Any] | str | Sequence[str] | None = None,
    tune: Mapping[str, Any] | str | Sequence[str] | None = None,
    weights: str | PathLike[str] | None = None,
    download: bool = False,
    memory: RequestedMemoryMode = "auto",
    sync_bn: bool = False,
    compile: bool = False,
    device: str = "auto",
    backend: str | None = None,
    ray_address: str | None = None,
    slurm: Mapping[str, str] | str | Sequence[str] | None = None,
    cpus_per_trial: float | None = None,
    gpus_per_trial: float | None = None,
    memory_per_trial: int | str | None = None,
    workers: int | None = None,
    storage: str | None = None,
    retries: int = 3,
) -> SearchResult:
    """Search a space for the best network.

    Without ``evaluate`` networks are trained by worker processes, the best is trained in full and tested, and the run
    is saved in a folder, with a report where ``nas-agg[report]`` is installed. With ``evaluate``, this process calls
    that function instead, or with ``workers=4`` as many processes that import it by its name, and the space's default
    limits do not apply.

    Args:
        space: A space's name, a space file, a space or its text; with ``evaluate`` also search variables alone, such
            as ``{"rate": {"from": 1, "to": 9}, "how": ["sum", "concat"]}``.
        evaluate: ``evaluate(genotype, trial) -> float``, to be maximized, or a tuple if ``objective`` names several
            metrics; ``trial`` is an Optuna trial. For search variables alone it receives their values.
        searcher: A searcher's name (``nas_agg searchers``), a subclass of Searcher, or a sampler of Optuna such as
            ``optuna.samplers.GPSampler()``; each trial gets a copy of it, seeded by ``seed``.
        budget: Number of distinct networks to evaluate.
        seed: Seed of everything random in the search.
        out: Run folder (default where networks are trained: ``runs/SPACE-DATASET-SEED``).
        show: Whether to print progress.
        callbacks: Receive what happens in the search; subclasses of `nas_agg.Callback`.
        log: Loggers, such as ``"tensorboard,mlflow,wandb"``.

    The further arguments are those of ``nas_agg search``, which describes them (``--help``): ``dataset="cifar10"`` (by
    default digits), ``epochs=20``, ``max_params="1M"``, ``workers=2``, ``timeout="2h"``, ``start=["30a64"]`` (the first
    networks).

    Raises:
        InputError: A setting is invalid, or ``out`` is a run with other settings.
        NasAggError: Ten networks in a row failed, or none has a result.
    """
    arguments = dict(locals())
    from nas_agg.loggers.registry import make_loggers
    from nas_agg.report.html.reports import report_after_search
    from nas_agg.study import search
    from nas_agg.study.definition.settings import Settings

    own = ("space", "evaluate", "searcher", "budget", "seed")
    defaults = {name: field.default for name, field in Settings.model_fields.items() if name not in own}
    defaults["dataset"] = None  # digits, unless there is a function or a table
    settings = {name: arguments[name] for name, default in defaults.items() if arguments[name] != default}
    callbacks = [*callbacks, *make_loggers(log)] if log else callbacks
    result = search(space, evaluate, searcher, budget, seed, out=out, show=show, callbacks=callbacks, **settings)
    if result.path is not None and (note := report_after_search(result.path)) and show:
        print(note)
    return result
