"""The `nas_agg` command: thin words over the rooms. Exit status 0 done, 1 the work failed, 2 the call was wrong."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas_agg.console import bytes_text, count_text, print_table
from nas_agg.errors import GenotypeError, InputError, NasAggError, one_line

if TYPE_CHECKING:
    from nas_agg.genotype import Genotype

app = typer.Typer(
    help="Search spaces and search for how deep networks aggregate features.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


class Format(StrEnum):
    """How a table is printed."""

    table = "table"
    json = "json"


GENOTYPE_HELP = "A JSON or YAML file, space/point, a run folder (its best network) or RUN:TRIAL."
GenotypeArgument = Annotated[str, typer.Argument(metavar="GENOTYPE", help=GENOTYPE_HELP)]


class TableFormat(StrEnum):
    """How the papers' tables are printed."""

    table = "table"
    json = "json"
    markdown = "markdown"


FormatOption = Annotated[Format, typer.Option("--format", help="A table for people, or JSON for machines.")]
DatasetOption = Annotated[
    str, typer.Option(help="digits, fashion-mnist, cifar10, cifar100, folder:PATH (one folder a class) or npz:PATH.")
]
DeviceOption = Annotated[str, typer.Option(help="auto (CUDA if there is one), cpu, cuda or cuda:N.")]
SizeOption = Annotated[int | None, typer.Option(min=1, help="Images are scaled to this side.")]
InputOption = Annotated[str | None, typer.Option("--input", help="Channels x height x width, such as 3x32x32.")]
ClassesOption = Annotated[int | None, typer.Option(min=1, help="Number of classes.")]


def _version(wanted: bool) -> None:
    if wanted:
        from nas_agg import __version__

        print(f"nas_agg {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command()
def search(
    context: typer.Context,
    space: Annotated[str | None, typer.Option(help="A space's name, or a space file: ./mine.yaml.")] = None,
    budget: Annotated[int, typer.Option(help="Distinct networks to evaluate.")] = 50,
    searcher: Annotated[str, typer.Option(help="Who proposes networks: see 'nas_agg searchers'.")] = "tpe",
    start: Annotated[
        list[str] | None,
        typer.Option(
            metavar="POINT", help="Try this network first: a point, or any GENOTYPE of the space; repeatable."
        ),
    ] = None,
    dataset: DatasetOption = "digits",
    epochs: Annotated[
        int | None,
        typer.Option(
            help="Epochs of each trial (default: the space's own, else 10); the final training takes its recipe's."
        ),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="Recipe of trials and of the final training, in place of 'search' and 'final'.")
    ] = None,
    max_params: Annotated[
        str | None,
        typer.Option(
            help="Refuse networks with more, before training, such as 1M (default: the space's own; 0: no limit)."
        ),
    ] = None,
    max_macs: Annotated[str | None, typer.Option(help="Refuse networks above, such as 50M; 0: no limit.")] = None,
    workers: Annotated[
        int | None, typer.Option(help="Worker processes (default: one a GPU, else 2 or the cores).")
    ] = None,
    device: DeviceOption = "auto",
    seed: Annotated[int, typer.Option(help="Seed of the validation split, proposals, weights and augmentation.")] = 0,
    out: Annotated[Path | None, typer.Option(help="The run's folder (default: runs/SPACE-DATASET-SEED).")] = None,
    storage: Annotated[
        str | None, typer.Option(help="Any Optuna storage URL (default: a journal file in the run's folder).")
    ] = None,
    timeout: Annotated[
        str | None, typer.Option(help="Wall time of the search, such as 2h or 90s; the final training comes after it.")
    ] = None,
    trial_timeout: Annotated[str | None, typer.Option(help="A trial past this time is a failure.")] = None,
    retries: Annotated[
        int | None, typer.Option(help="How often a trial whose worker died is tried again (default: 3).")
    ] = None,
    image_size: SizeOption = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Go on with this run, by its own settings.")
    ] = None,
    format: FormatOption = Format.table,
) -> None:
    """Search a space, train the best network in full and test it once."""
    from nas_agg.study import resume as resume_search
    from nas_agg.study import search as search_space

    show = format is Format.table
    if resume is not None:
        free = {"workers": workers, "timeout": timeout, "trial_timeout": trial_timeout, "retries": retries}
        _check_resumed(context, {"resume", "format", *free})
        result = resume_search(resume, show=show, **{k: v for k, v in free.items() if v is not None})
    elif space is None:
        raise InputError("--space: name a space (see 'nas_agg spaces') or a space file, or --resume RUN")
    else:
        result = search_space(
            space,
            searcher=searcher,
            budget=budget,
            seed=seed,
            out=out,
            show=show,
            start=start,
            dataset=dataset,
            epochs=epochs,
            recipe=recipe,
            max_params=max_params,
            max_macs=max_macs,
            workers=workers,
            device=device,
            storage=storage,
            timeout=timeout,
            trial_timeout=trial_timeout,
            retries=3 if retries is None else retries,
            image_size=image_size,
        )
    if not show:
        _print_json(result.as_dict())


def _check_resumed(context: typer.Context, free: set[str]) -> None:
    """Refuses an option that a resumed run has of its own."""
    for name in context.params:
        source = context.get_parameter_source(name)
        if name not in free and source is not None and source.name == "COMMANDLINE":
            raise InputError(f"--{name.replace('_', '-')}: a resumed run keeps its own; leave it out")


@app.command()
def train(
    genotype: GenotypeArgument,
    dataset: DatasetOption = "digits",
    recipe: Annotated[str, typer.Option(help="See 'nas_agg recipes'.")] = "final",
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs in place of the recipe's.")] = None,
    device: DeviceOption = "auto",
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of weights, order and augmentation.")] = 0,
    out: Annotated[Path | None, typer.Option(help="The run's folder; an unfinished training there goes on.")] = None,
    image_size: SizeOption = None,
    format: FormatOption = Format.table,
) -> None:
    """Train one network on train + validation and test it once."""
    from nas_agg import load
    from nas_agg.study.single import train_genotype

    metrics = train_genotype(
        load(genotype),
        name=genotype,
        dataset=dataset,
        recipe=recipe,
        epochs=epochs,
        device=device,
        seed=seed,
        out=out,
        image_size=image_size,
        show=format is Format.table,
    )
    if format is Format.json:
        _print_json(metrics)


@app.command()
def evaluate(
    genotype: GenotypeArgument,
    weights: Annotated[
        Path | None, typer.Option(help="A file of weights, or a name such as resnet50; a run's own if unsaid.")
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="As for train; a run's own if unsaid.")] = None,
    device: DeviceOption = "auto",
    image_size: SizeOption = None,
    format: FormatOption = Format.table,
) -> None:
    """Test a network from saved weights."""
    from nas_agg.study.single import evaluate_genotype

    found = evaluate_genotype(genotype, weights=weights, dataset=dataset, device=device, image_size=image_size)
    if format is Format.json:
        _print_json({f"test_{k}" if k in ("accuracy", "loss") else k: v for k, v in found.items()})
    else:
        right = f"{found['correct']:,} of {found['images']:,} images"
        print(f"test accuracy {100 * found['accuracy']:.2f} % ({right}), loss {found['loss']:.4f}")


@app.command()
def cost(
    genotype: GenotypeArgument,
    classes: ClassesOption = None,
    input: InputOption = None,
    format: FormatOption = Format.table,
) -> None:
    """Count a network by arithmetic: params, MACs, bytes, depth, hash."""
    from nas_agg.costs import FIGURES, cost

    figures = _of(genotype, lambda: cost(_for_task(genotype, classes, input)).as_dict())
    if format is Format.json:
        _print_json(figures)
        return
    rows = [[name, _figure(name, value), FIGURES[name]] for name, value in figures.items()]
    print_table(["figure", "value", "meaning"], rows, title=genotype, right=(1,))


def _figure(name: str, value: Any) -> str:
    if name == "hash" or value is None:
        return str(value or "-")
    return bytes_text(value) if "bytes" in name else count_text(value)


@app.command()
def show(
    genotype: GenotypeArgument,
    classes: ClassesOption = None,
    input: InputOption = None,
    depth: Annotated[int, typer.Option(min=1, max=48, help="Levels that are shown.")] = 2,
    svg: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw the network into this file instead.")] = None,
    format: FormatOption = Format.table,
) -> None:
    """Show a network as a tree: each part's output shape, params and MACs; or draw it."""
    from nas_agg.report.tree import network_tree, tree_lines

    if svg is not None:
        from nas_agg.files import write_atomic
        from nas_agg.report.drawing import draw

        write_atomic(svg, _of(genotype, lambda: draw(_for_task(genotype, classes, input), genotype)))
        print(f"drawn into {svg}")
        return
    tree = _of(genotype, lambda: network_tree(_for_task(genotype, classes, input)))
    if format is Format.json:
        _print_json(tree.as_dict())
    else:
        print("\n".join(tree_lines(tree, depth)))


@app.command()
def spaces(format: FormatOption = Format.table) -> None:
    """List the search spaces."""
    from nas_agg.space import list_spaces, open_space

    found = [open_space(name) for name in list_spaces()]
    if format is Format.json:
        _print_json(
            [
                {"name": s.name, "about": s.about, "size": s.size(), "open": list(s.names), "points": list(s.points)}
                for s in found
            ]
        )
        return
    rows = [[s.name, f"{s.size():.2g}", str(len(s.names)), str(len(s.points)), s.about] for s in found]
    print_table(["space", "size", "open names", "points", "about"], rows, right=(1, 2, 3))


@app.command()
def points(
    space: Annotated[str | None, typer.Argument(help="A space's or family's name, or a file; all if unsaid.")] = None,
    format: FormatOption = Format.table,
) -> None:
    """List the named points of spaces, with what they cost."""
    from nas_agg.costs import Cost
    from nas_agg.expansion import expand
    from nas_agg.space import list_spaces, open_space, spaces_of_family

    found: list[dict[str, Any]] = []
    family = list(spaces_of_family(space)) if space else [open_space(name) for name in list_spaces()]
    for opened in family or [open_space(space or "")]:
        for point in opened.points:
            counted = Cost(expand(opened.point(point)))
            address = f"{opened.family if family else space}/{point}"
            shape, classes = counted.graph.shapes[0], counted.graph.shapes[counted.graph.output][0]
            task = {"input": list(shape), "classes": classes}
            figures = {"params": counted.params, "macs": counted.macs, "depth": counted.depth}
            found.append({"point": address} | task | figures)
    if format is Format.json:
        _print_json(found)
        return
    if not found:
        print(f"{space} has no points")
        return
    rows = [
        [f["point"], "x".join(map(str, f["input"])), str(f["classes"]), count_text(f["params"]), count_text(f["macs"])]
        for f in found
    ]
    print_table(["point", "input", "classes", "params", "MACs"], rows, right=(2, 3, 4))


@app.command()
def table(
    paper: Annotated[
        str | None, typer.Argument(help="sparsenet, seqconv, microdense, dsnet or baselines; all if unsaid.")
    ] = None,
    format: Annotated[
        TableFormat, typer.Option("--format", help="A table for people, JSON for machines, Markdown for texts.")
    ] = TableFormat.table,
) -> None:
    """The papers' own tables, row by row, beside what the points count."""
    from nas_agg.report import papers

    found = {name: papers.paper(name) for name in ([paper] if paper else papers.papers())}
    if format is TableFormat.markdown:
        print("\n".join(map(papers.markdown, found.values())), end="")
        return
    counted = {name: [papers.count(row, of) for row in of.rows] for name, of in found.items()}
    if format is TableFormat.json:
        _print_json([{"paper": name} | row.as_dict() for name, rows in counted.items() for row in rows])
        return
    for name, rows in counted.items():
        if name != next(iter(counted)):
            print()
        print(f"{name}: {found[name].about} (FLOPs: {papers.FLOPS[found[name].flops]})")
        print_table(papers.COLUMNS, [row.cells() for row in rows], right=(2, 3, 4, 5))
        printed = [row for row in rows if row.printed]
        print(f"{sum(row.agrees for row in printed)} of {len(printed)} printed rows agree")


@app.command()
def searchers(format: FormatOption = Format.table) -> None:
    """List the searchers."""
    from nas_agg.study.searcher import find_searcher, searchers

    found = {name: (find_searcher(name).__doc__ or "").strip().partition("\n")[0] for name in searchers()}
    _named(found, "searcher", format)


@app.command()
def datasets(format: FormatOption = Format.table) -> None:
    """List the data sets."""
    from nas_agg.training.sources import DATASETS

    _named(dict(DATASETS), "dataset", format)


@app.command()
def recipes(format: FormatOption = Format.table) -> None:
    """List the training recipes."""
    from nas_agg.training.recipes import RECIPES

    if format is Format.json:
        _print_json([recipe.model_dump(mode="json") for recipe in RECIPES.values()])
        return
    rows = [[r.name, str(r.epochs), str(r.batch_size), f"{r.lr:g}", r.about] for r in RECIPES.values()]
    print_table(["recipe", "epochs", "batch", "lr", "about"], rows, right=(1, 2, 3))
    print("\nWhat their sources leave unsaid:")
    for recipe in [recipe for recipe in RECIPES.values() if recipe.choices]:
        print(f"  {recipe.name}: {recipe.choices}")


def _named(found: dict[str, str], kind: str, format: Format) -> None:
    if format is Format.json:
        _print_json([{"name": name, "about": about} for name, about in found.items()])
    else:
        print_table([kind, "about"], [[name, about] for name, about in found.items()])


def _of(source: str, work: Callable[[], Any]) -> Any:
    """Does some work on a genotype, whose faults are named after where it came from."""
    try:
        return work()
    except GenotypeError as error:
        raise InputError(f"{source}: {error}") from None


def _for_task(source: str, classes: int | None, input: str | None) -> Genotype:
    from nas_agg import load

    genotype = load(source)
    if classes is None and input is None:
        return genotype
    return genotype.with_task(None if input is None else _shape(input), classes)


def _shape(text: str) -> tuple[int, int, int]:
    try:
        channels, height, width = (int(side) for side in text.lower().split("x"))
    except ValueError:
        raise InputError(f"--input: '{text}' is not channels x height x width, such as 3x32x32") from None
    return channels, height, width


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))


def main() -> None:
    """Runs the command line; an error is one line, a traceback only with --debug."""
    _mend_streams()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that wait for one another leave the cores to others
    words = [word for word in sys.argv[1:] if word != "--debug"]
    debug = len(words) < len(sys.argv) - 1
    try:
        sys.exit(app(words, prog_name="nas_agg", standalone_mode=False) or 0)
    except SystemExit as end:
        if end.code == 130:  # Ctrl-C, which the library of the command line takes for itself
            _say("stopped")
        raise
    except KeyboardInterrupt:
        _say("stopped")
        sys.exit(130)
    except Exception as error:
        if debug:
            raise
        sys.exit(_told(error))


def _told(error: Exception) -> int:
    """Says what is wrong in one line, and gives the exit status."""
    if isinstance(error, NasAggError):
        _say(str(error))
        return error.status
    if hasattr(error, "format_message"):  # a word of the call that the command line does not know
        said = error.format_message().rstrip(".")
        command = getattr(getattr(error, "ctx", None), "command_path", "nas_agg")
        _say(f"{said[0].lower()}{said[1:]}; see {command} --help")
        return 2
    _say(f"{type(error).__name__}: {error} (a fault of nas_agg; --debug shows where)")
    return 1


def _say(line: str) -> None:
    print(f"nas_agg: {one_line(' '.join(line.split()))[:1000]}", file=sys.stderr)


def _mend_streams() -> None:
    """Lets output that is closed or knows few letters lose what it cannot take."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if not {"search", "train"} & set(sys.argv[1:2]) and hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # a table ends quietly where its reader leaves, as with `head`


if __name__ == "__main__":
    main()
