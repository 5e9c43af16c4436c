"""The commands that train and evaluate one network."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from nas_agg.cli.completion import complete_dataset, complete_recipe
from nas_agg.cli.options import (
    DOWNLOAD_HELP,
    OUTPUT,
    CropShareOption,
    DatasetOption,
    DeviceOption,
    DownloadOption,
    Format,
    FormatOption,
    GenotypeArgument,
    MemoryOption,
    ResizeOption,
    SizeOption,
    SkipOption,
    print_json,
)
from nas_agg.cli.options import image_size as parse_size
from nas_agg.graph.rematerialization import RequestedMemoryMode
from nas_agg.study.definition.metrics import METRICS, format_evaluation
from nas_agg.study.definition.setting_groups import DATA, PLACE, TRAINING
from nas_agg.study.definition.settings import Settings
from nas_agg.training.metrics import TRAINED_METRICS
from nas_agg.training.recipes import open_recipe
from nas_agg.training.recipes.files import parse_changes

FINE_TUNING = "Fine-tuning"  # a group of options


def _description(name: str) -> str | None:
    return Settings.model_fields[name].description


def train(
    genotype: GenotypeArgument,
    dataset: DatasetOption = "digits",
    recipe: Annotated[
        str,
        typer.Option(
            metavar="RECIPE",
            help="Training recipe: a name (see 'nas_agg recipes') or a YAML file.",
            autocompletion=complete_recipe,
            rich_help_panel=TRAINING,
        ),
    ] = "final",
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Epochs (default: the recipe's).", rich_help_panel=TRAINING)
    ] = None,
    device: Annotated[str, typer.Option(metavar="DEVICE", help=_description("device"), rich_help_panel=PLACE)] = "auto",
    seed: Annotated[
        int,
        typer.Option(min=0, max=2**63 - 1, help="Seed of weights, order and augmentation.", rich_help_panel=TRAINING),
    ] = 0,
    image_size: SizeOption = None,
    resize: ResizeOption = "crop",
    crop_share: CropShareOption = None,
    skip_unreadable: SkipOption = False,
    memory: MemoryOption = "auto",
    compile: Annotated[
        bool,
        typer.Option(
            "--compile",
            help="Run steps under torch.compile, which takes minutes to start.",
            rich_help_panel=TRAINING,
        ),
    ] = False,
    sync_bn: Annotated[
        bool,
        typer.Option(
            "--sync-bn",
            help="Under torchrun: batch norms use the statistics of the whole batch, not of each process.",
            rich_help_panel=PLACE,
        ),
    ] = False,
    batch_size: Annotated[int | None, typer.Option(help=_description("batch_size"), rich_help_panel=TRAINING)] = None,
    lr: Annotated[float | None, typer.Option(help=_description("lr"), rich_help_panel=TRAINING)] = None,
    optimizer: Annotated[
        str | None, typer.Option(metavar="NAME", help=_description("optimizer"), rich_help_panel=TRAINING)
    ] = None,
    set: Annotated[
        list[str] | None, typer.Option(metavar="FIELD=VALUE", help=_description("set"), rich_help_panel=TRAINING)
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="WEIGHTS",
            help="Fine-tune: start from a run, a file of weights or a torchvision name such as resnet50; the "
            "classifier starts anew where the classes differ.",
            rich_help_panel=FINE_TUNING,
        ),
    ] = None,
    download: Annotated[bool, typer.Option("--download", help=DOWNLOAD_HELP, rich_help_panel=FINE_TUNING)] = False,
    freeze: Annotated[
        str | None,
        typer.Option(
            metavar="PART,...",
            help="Parts that are not trained, for example conv,stage1.",
            rich_help_panel=FINE_TUNING,
        ),
    ] = None,
    lr_backbone: Annotated[
        float | None,
        typer.Option(help="Maximum learning rate of all layers but the classifier.", rich_help_panel=FINE_TUNING),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Metric that the test reports beside those of the task, and that early stopping watches: one of "
            f"{', '.join(TRAINED_METRICS)}.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Run folder; an unfinished training in it is resumed.", rich_help_panel=OUTPUT
        ),
    ] = None,
    format: Annotated[Format, typer.Option(help="Output format.", rich_help_panel=OUTPUT)] = Format.table,
) -> None:
    """Train one network. It learns from the training and validation images and is tested once.

    On several GPUs: torchrun --nproc-per-node gpu -m nas_agg train ...
    """
    from nas_agg import load
    from nas_agg.study.standalone_training import train_genotype
    from nas_agg.training.steps.processes import started_processes

    fields: dict[str, Any] = {"batch_size": batch_size, "lr": lr, "optimizer": optimizer, "lr_backbone": lr_backbone}
    fields["freeze"] = freeze.split(",") if freeze else None
    changes = {name: value for name, value in fields.items() if value is not None} | parse_changes(set or ())
    metrics = train_genotype(
        load(genotype),
        name=genotype,
        dataset=dataset,
        recipe=open_recipe(recipe, changes),
        epochs=epochs,
        device=device,
        seed=seed,
        out=out,
        image_size=parse_size(image_size),
        resize=resize,
        crop_share=crop_share,
        skip_unreadable=skip_unreadable,
        memory=cast(RequestedMemoryMode, memory),  # checked there
        compile=compile,
        sync_bn=sync_bn,
        metric=metric,
        weights=weights,
        download=download,
        show=format is Format.table,
    )
    if format is Format.json and started_processes().is_first:
        print_json(metrics)


def _print_note(line: str) -> None:
    print(f"note: {line}", file=sys.stderr)


def evaluate(
    genotype: GenotypeArgument,
    weights: Annotated[
        Path | None,
        typer.Option(
            metavar="WEIGHTS", help="A file of weights, or a torchvision name such as resnet50 (default: the run's)."
        ),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            metavar="DATASET",
            help="Data set, as for train (default: the run's).",
            autocompletion=complete_dataset,
            rich_help_panel=DATA,
        ),
    ] = None,
    device: DeviceOption = "auto",
    image_size: SizeOption = None,
    download: DownloadOption = False,
    metric: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help=f"Further metric, one of {', '.join(TRAINED_METRICS)}; repeatable."),
    ] = None,
    precision: Annotated[
        str, typer.Option(metavar="float32|bf16", help="Format of the forward pass; bf16 is faster on GPUs.")
    ] = "float32",
    format: FormatOption = Format.table,
) -> None:
    """Test a trained network. Prints the metrics of its task, for example accuracy, and the loss."""
    from nas_agg.study.saved_evaluation import evaluate_genotype

    metrics = evaluate_genotype(
        genotype,
        weights=weights,
        dataset=dataset,
        device=device,
        image_size=parse_size(image_size),
        download=download,
        metrics=metric or (),
        precision=precision,  # type: ignore[arg-type]  # checked there
        warn=_print_note,
    )
    if format is Format.json:
        print_json({k if k in ("correct", "images") else f"test_{k}": v for k, v in metrics.items()})
    else:
        further = [TRAINED_METRICS[name] for name in metric or () if name not in ("accuracy", "loss")]
        own = "".join(f", {m.name} {METRICS[m.name].format(metrics[m.attribute])}" for m in further)
        print(f"test {format_evaluation(metrics)}{own if 'correct' in metrics else ''}, loss {metrics['loss']:.4f}")
