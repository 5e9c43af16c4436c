"""What several commands share: arguments, options, and how things are printed."""

from __future__ import annotations

import json
from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas_agg.common.errors import GenotypeError, InputError

if TYPE_CHECKING:
    from nas_agg.language.genotype import Genotype


class Format(StrEnum):
    """How a table is printed."""

    table = "table"
    json = "json"


GENOTYPE_HELP = "A JSON or YAML file, space/point, a run folder (its best network) or RUN:TRIAL."
GenotypeArgument = Annotated[str, typer.Argument(metavar="GENOTYPE", help=GENOTYPE_HELP)]
FormatOption = Annotated[Format, typer.Option("--format", help="A table for people, or JSON for machines.")]
InputOption = Annotated[str | None, typer.Option("--input", help="Channels x height x width, such as 3x32x32.")]
ClassesOption = Annotated[int | None, typer.Option(min=1, help="Number of classes.")]


def of(source: str, work: Callable[[], Any]) -> Any:
    """Does some work on a genotype, whose faults are named after where it came from."""
    try:
        return work()
    except GenotypeError as error:
        raise InputError(f"{source}: {error}") from None


def for_task(source: str, classes: int | None, input: str | None) -> Genotype:
    """The genotype that a text names, for other images or classes where these are said."""
    from nas_agg import load

    genotype = load(source)
    if classes is None and input is None:
        return genotype
    return genotype.with_task(None if input is None else shape(input), classes)


def shape(text: str) -> tuple[int, int, int]:
    """What --input says."""
    try:
        channels, height, width = (int(side) for side in text.lower().split("x"))
    except ValueError:
        raise InputError(f"--input: '{text}' is not channels x height x width, such as 3x32x32") from None
    return channels, height, width


def print_json(value: Any) -> None:
    """Prints a value for machines."""
    print(json.dumps(value, indent=2))
