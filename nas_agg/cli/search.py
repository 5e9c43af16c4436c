"""The command that searches a space; its options are generated from the settings of a search."""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from nas_agg.cli.completion import OF_SETTINGS
from nas_agg.cli.options import OUTPUT, Format, print_json
from nas_agg.common.errors import InputError
from nas_agg.study.definition.setting_groups import BUDGET, PLACE
from nas_agg.study.definition.settings import RESUMABLE_SETTINGS, Settings, setting_metadata


def search(
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Run folder (default: runs/SPACE-DATASET-SEED).", rich_help_panel=OUTPUT),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Resume this run with its original settings.", rich_help_panel=OUTPUT),
    ] = None,
    study: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="With --storage: resume this study, whose run folder is gone, into --out.",
            rich_help_panel=PLACE,
        ),
    ] = None,
    no_final: Annotated[
        bool, typer.Option("--no-final", help="The same as --final 0.", rich_help_panel=BUDGET)
    ] = False,
    log: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="Log to tensorboard, mlflow or wandb, each an extra of this package.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    format: Annotated[Format, typer.Option(help="Output format.", rich_help_panel=OUTPUT)] = Format.table,
    **settings: Any,
) -> None:
    """Search a space. The best network is then trained in full and tested once."""
    from nas_agg.loggers.registry import make_loggers
    from nas_agg.report.html.reports import report_after_search
    from nas_agg.study import reattach
    from nas_agg.study import resume as resume_search
    from nas_agg.study import search as search_space

    show = format is Format.table
    callbacks = make_loggers(log) if log else []
    given = {name: value for name, value in settings.items() if value is not None and value != []}
    if no_final:
        given["final"] = 0
    if resume is not None or study is not None:
        fixed = [name for name in given if name not in RESUMABLE_SETTINGS and name != "storage"]
        fixed += ["out"] * (out is not None and resume is not None) + ["study"] * (None not in (resume, study))
        if fixed:
            raise InputError(f"--{fixed[0].replace('_', '-')}: cannot change when a run is resumed; leave it out")
    if resume is not None:
        result = resume_search(resume, show=show, callbacks=callbacks, **given)
    elif study is not None:
        if "storage" not in given:
            raise InputError("--study: specify the storage that has it as well: --storage URL")
        result = reattach(study=study, out=out, show=show, callbacks=callbacks, **given)
    elif "space" not in given:
        raise InputError("--space: specify a space (see 'nas_agg spaces') or a space file, or use --resume RUN")
    else:
        result = search_space(**given, out=out, show=show, callbacks=callbacks)
    note = report_after_search(result.path) if result.path is not None else ""
    if not show:
        print_json(result.as_dict())
    elif note:
        print(note)


def _parameters() -> Iterator[inspect.Parameter]:
    """The parameters of `search` as the command line sees them: one option per setting, then its own."""
    for name, field in Settings.model_fields.items():
        annotation = Annotated[_option_type(field) | None, _option(name, field)]  # type: ignore[valid-type]
        yield inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
    for parameter in inspect.signature(search, eval_str=True).parameters.values():
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD:
            yield parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)


def _value_type(field: FieldInfo) -> Any:
    """The type of a setting without None; the first where there are several."""
    annotation = field.annotation
    if get_origin(annotation) in (Union, types.UnionType):
        annotation, *_ = (member for member in get_args(annotation) if member is not type(None))
    return annotation


def _option_type(field: FieldInfo) -> Any:
    """The type of a setting's option: text wherever `Settings` parses it, such as ``1.5M`` or ``2h``."""
    kind = _value_type(field)
    if get_origin(kind) is dict or (get_origin(kind) is tuple and get_args(kind)[0] is not str):
        return list[str]
    return kind if kind in (bool, int, float) else str


def _option(name: str, field: FieldInfo) -> Any:
    """The option of a setting: None unless given, so that `Settings` alone decides on defaults and ranges."""
    kind, words, default = _value_type(field), name.replace("_", "-"), field.get_default()
    choices = "|".join(get_args(kind)) if get_origin(kind) is Literal else None
    suffix = "" if field.is_required() or default is None or kind is bool else f" (default: {default})."
    return typer.Option(
        f"--{words}/--no-{words}" if kind is bool else f"--{words}",
        metavar=setting_metadata(name).get("notation") or choices,
        rich_help_panel=setting_metadata(name)["group"],
        help=(field.description or "").removesuffix("." if suffix else "") + suffix,
        autocompletion=OF_SETTINGS.get(name),
    )


search.__signature__ = inspect.Signature(list(_parameters()))  # type: ignore[attr-defined]
