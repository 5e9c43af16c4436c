"""Arguments, options and output shared by several commands."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from nas_agg.cli.completion import complete_dataset, complete_genotype
from nas_agg.common.errors import GenotypeError, InputError, NasAggError
from nas_agg.graph.rematerialization import RequestedMemoryMode
from nas_agg.study.definition.notations import parse_image_size
from nas_agg.study.definition.setting_groups import DATA, DATA_SETS, TRAINING
from nas_agg.study.definition.settings import Settings

if TYPE_CHECKING:
    from nas_agg.language.genotype import Genotype


class Format(StrEnum):
    """Output formats."""

    table = "table"
    json = "json"


OUTPUT = "Output"  # a group of options
GENOTYPE_HELP = "JSON or YAML file, space/point, run folder (its best network) or RUN:TRIAL."
GenotypeArgument = Annotated[
    str, typer.Argument(metavar="GENOTYPE", help=GENOTYPE_HELP, autocompletion=complete_genotype)
]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Run folder.")]
FormatOption = Annotated[Format, typer.Option("--format", help="Output format.")]
InputOption = Annotated[
    str | None, typer.Option("--input", metavar="SHAPE", help="Channels x height x width, for example 3x32x32.")
]
ClassesOption = Annotated[int | None, typer.Option(min=1, help="Number of classes.")]
DatasetOption = Annotated[
    str,
    typer.Option(
        metavar="DATASET", help=f"Data set: {DATA_SETS}.", autocompletion=complete_dataset, rich_help_panel=DATA
    ),
]
DeviceOption = Annotated[str, typer.Option(metavar="DEVICE", help=Settings.model_fields["device"].description)]
MemoryOption = Annotated[
    str,
    typer.Option(
        metavar="|".join(get_args(RequestedMemoryMode)),
        help=Settings.model_fields["memory"].description,
        rich_help_panel=TRAINING,
    ),
]
SizeOption = Annotated[
    str | None,
    typer.Option(metavar="SIZE", help=Settings.model_fields["image_size"].description, rich_help_panel=DATA),
]
ResizeOption = Annotated[
    str,
    typer.Option(metavar="crop|squash|pad", help=Settings.model_fields["resize"].description, rich_help_panel=DATA),
]
CropShareOption = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE",
        min=0.5,
        max=1,
        help=Settings.model_fields["crop_share"].description,
        rich_help_panel=DATA,
    ),
]
SkipOption = Annotated[
    bool,
    typer.Option("--skip-unreadable", help=Settings.model_fields["skip_unreadable"].description, rich_help_panel=DATA),
]


def image_size(text: str | None) -> int | str | None:
    """Parse ``--image-size``."""
    try:
        return None if text is None else parse_image_size(text)
    except ValueError as error:
        raise InputError(f"--image-size: {error}") from None


DOWNLOAD_HELP = "Download torchvision weights that are not in the local cache."
DownloadOption = Annotated[bool, typer.Option("--download", help=DOWNLOAD_HELP)]


@contextmanager
def prefix_errors(source: str) -> Iterator[None]:
    """Put the source of a genotype in front of its errors."""
    try:
        yield
    except GenotypeError as error:
        raise InputError(f"{source}: {error}") from None


@contextmanager
def exit_on_signal(message: str) -> Iterator[None]:
    """Turn SIGINT and SIGTERM into an error of one line with the signal's exit status."""
    from nas_agg.study.definition.signals import Stopped, stoppable

    try:
        with stoppable():
            yield
    except Stopped as stopped:
        error = NasAggError(message)
        error.status = stopped.status
        raise error from None


def load_for_task(source: str, classes: int | None, input: str | None) -> Genotype:
    """Load a genotype, adapted to other images or classes where these are specified."""
    from nas_agg import load

    genotype = load(source)
    if classes is None and input is None:
        return genotype
    return genotype.with_task(None if input is None else parse_shape(input), classes)


def parse_shape(text: str) -> tuple[int, int, int]:
    """Parse ``--input``."""
    try:
        channels, height, width = (int(side) for side in text.lower().split("x"))
    except ValueError:
        raise InputError(f"--input: '{text}' is not channels x height x width, for example 3x32x32") from None
    return channels, height, width


def print_json(value: Any) -> None:
    """Print a value as indented JSON."""
    print(json.dumps(value, indent=2))
