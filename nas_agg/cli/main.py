"""The `nas_agg` command: thin words over the rooms. Exit status 0 done, 1 the work failed, 2 the call was wrong."""

from __future__ import annotations

import io
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from nas_agg.cli.bench import bench
from nas_agg.cli.compile import compile_
from nas_agg.cli.lists import COMMANDS
from nas_agg.cli.options import (
    ClassesOption,
    Format,
    FormatOption,
    GenotypeArgument,
    InputOption,
    for_task,
    of,
    print_json,
)
from nas_agg.cli.proxies import proxies
from nas_agg.cli.worker import worker
from nas_agg.common.console import accuracy_text, bytes_text, count_text, print_table
from nas_agg.common.errors import InputError, NasAggError, one_line
from nas_agg.graph.rematerialization import RequestedMemoryMode

app = typer.Typer(
    help="Search spaces and search for how deep networks aggregate features.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


DatasetOption = Annotated[
    str, typer.Option(help="digits, fashion-mnist, cifar10, cifar100, folder:PATH (one folder a class) or npz:PATH.")
]
DeviceOption = Annotated[str, typer.Option(help="auto (CUDA if there is one), cpu, cuda or cuda:N.")]
MemoryOption = Annotated[
    str,
    typer.Option(
        help="What training keeps for backward: plain; lean: convolutions' outputs alone; leanest: less still; "
        "auto: the first that fits the device."
    ),
]
SizeOption = Annotated[int | None, typer.Option(min=1, help="Images are scaled to this side.")]


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
    searcher: Annotated[str, typer.Option(help="Who proposes networks: see 'nas_agg searchers'.")] = "predictor",
    start: Annotated[
        list[str] | None,
        typer.Option(
            metavar="POINT", help="Try this network first: a point, or any GENOTYPE of the space; repeatable."
        ),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            help="digits, fashion-mnist, cifar10, cifar100, folder:PATH (one folder a class) or npz:PATH (default: "
            "digits; of a space with a table of results none: networks are looked up)."
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            help="Epochs of each trial (default: the space's own, else 10); the final training takes its recipe's."
        ),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="Recipe of trials and of the final training, in place of 'search' and 'final'.")
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="accuracy, loss, params, macs, activations, latency; of several the Pareto front is found "
            "(default: accuracy).",
        ),
    ] = None,
    max_params: Annotated[
        str | None,
        typer.Option(
            help="Refuse networks with more, before training, such as 1M (default: the space's own; 0: no limit)."
        ),
    ] = None,
    max_macs: Annotated[str | None, typer.Option(help="Refuse networks above, such as 50M; 0: no limit.")] = None,
    max_activations: Annotated[
        str | None, typer.Option(help="Refuse networks that keep more bytes an image for backward, such as 2M.")
    ] = None,
    min_accuracy: Annotated[
        float | None, typer.Option(help="A trained network with less is over the limit: no best, in no front.")
    ] = None,
    max_loss: Annotated[float | None, typer.Option(help="Likewise of the validation loss.")] = None,
    max_latency: Annotated[
        str | None,
        typer.Option(help="Refuse networks slower, such as 5ms: a forward pass of one image, measured by the worker."),
    ] = None,
    latency_target: Annotated[
        str | None,
        typer.Option(help="Maximise accuracy * (latency / this) ** -0.07 in the place of accuracy, such as 5ms."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Worker processes here (default: one a GPU, else 2 or the cores); 0: those that join alone, see "
            "'nas_agg worker'."
        ),
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
    proxy: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Of several candidates train the one it scores highest: see 'nas_agg proxies'."
        ),
    ] = None,
    candidates: Annotated[int, typer.Option(help="Of --proxy: networks that each is picked from.")] = 20,
    pruner: Annotated[
        str | None,
        typer.Option(
            help="median: stop what is below the median of its epoch; halving, hyperband: pause at rungs, the best go "
            "on; none (default: median for one objective, none for several)."
        ),
    ] = None,
    reduction: Annotated[
        int | None, typer.Option(help="Of halving: one in so many goes on from each rung (default: 3).")
    ] = None,
    first_epochs: Annotated[
        int | None, typer.Option(help="Of halving: epochs to the first rung (default: a third of them).")
    ] = None,
    image_size: SizeOption = None,
    memory: MemoryOption = "auto",
    compile: Annotated[
        bool | None,
        typer.Option(
            "--compile/--no-compile",
            help="Run the final training under torch.compile, which takes minutes to begin; a trial never.",
        ),
    ] = None,
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
        free |= {"compile": compile, "memory": memory if _said(context, "memory") else None}
        free |= {"budget": budget if _said(context, "budget") else None}
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
            **({} if dataset is None else {"dataset": dataset}),  # type: ignore[arg-type]
            epochs=epochs,
            recipe=recipe,
            max_params=max_params,
            max_macs=max_macs,
            objective=objective,
            max_activations=max_activations,
            min_accuracy=min_accuracy,
            max_loss=max_loss,
            max_latency=max_latency,
            latency_target=latency_target,
            workers=workers,
            device=device,
            storage=storage,
            timeout=timeout,
            trial_timeout=trial_timeout,
            retries=3 if retries is None else retries,
            proxy=proxy,
            candidates=candidates,
            pruner=pruner,
            reduction=reduction,
            first_epochs=first_epochs,
            image_size=image_size,
            memory=memory,
            compile=bool(compile),
        )
    if not show:
        print_json(result.as_dict())


def _check_resumed(context: typer.Context, free: set[str]) -> None:
    """Refuses an option that a resumed run has of its own."""
    for name in context.params:
        if name not in free and _said(context, name):
            raise InputError(f"--{name.replace('_', '-')}: a resumed run keeps its own; leave it out")


def _said(context: typer.Context, name: str) -> bool:
    """Whether an option stands on the command line."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


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
    memory: MemoryOption = "auto",
    compile: Annotated[
        bool, typer.Option("--compile", help="Run steps under torch.compile, which takes minutes to begin.")
    ] = False,
    format: FormatOption = Format.table,
) -> None:
    """Train one network on train + validation and test it once."""
    from nas_agg import load
    from nas_agg.study.standalone_training import train_genotype

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
        memory=cast(RequestedMemoryMode, memory),  # checked there
        compile=compile,
        show=format is Format.table,
    )
    if format is Format.json:
        print_json(metrics)


@app.command()
def evaluate(
    genotype: GenotypeArgument,
    weights: Annotated[
        Path | None, typer.Option(help="A file of weights, or a name such as resnet50; a run's own if unsaid.")
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="As for train; a run's own if unsaid.")] = None,
    device: DeviceOption = "auto",
    image_size: SizeOption = None,
    download: Annotated[bool, typer.Option("--download", help="Fetch weights that are named and not here.")] = False,
    format: FormatOption = Format.table,
) -> None:
    """Test a network from saved weights: accuracy, loss and, of more than 5 classes, top-5 accuracy."""
    from nas_agg.study.standalone_training import evaluate_genotype

    data = {"dataset": dataset, "image_size": image_size}
    found = evaluate_genotype(genotype, weights=weights, device=device, download=download, **data)  # type: ignore[arg-type]
    if format is Format.json:
        print_json({k if k in ("correct", "images") else f"test_{k}": v for k, v in found.items()})
    else:
        accuracy = accuracy_text(found["accuracy"], found["correct"], found["images"], found.get("top5_accuracy"))
        print(f"test accuracy {accuracy}, loss {found['loss']:.4f}")


@app.command()
def cost(
    genotype: GenotypeArgument,
    classes: ClassesOption = None,
    input: InputOption = None,
    latency: Annotated[bool, typer.Option("--latency", help="Measure a forward pass too.")] = False,
    device: Annotated[str | None, typer.Option(help="Of --latency: auto, cpu, cuda or cuda:N.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Images a pass of --latency (default: 1).")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of --latency (default: torch's own).")] = None,
    format: FormatOption = Format.table,
) -> None:
    """Count a network by arithmetic: params, MACs, bytes, depth, hash; and measure its latency, if it is asked for."""
    from nas_agg.expansion.costs import FIGURES, cost

    for name, value in {"device": device, "batch": batch, "threads": threads}.items():
        if value is not None and not latency:
            raise InputError(f"--{name}: only with --latency; add it, or leave this out")
    asked = of(genotype, lambda: for_task(genotype, classes, input))
    figures = of(genotype, lambda: cost(asked).as_dict())
    measured = None
    if latency:
        from nas_agg.training.latency import latency as measure

        measured = measure(asked, device=device or "auto", batch=batch or 1, threads=threads)
    if format is Format.json:
        print_json(figures | ({"latency": measured.as_dict()} if measured else {}))
        return
    rows = [[name, _figure(name, value), FIGURES[name]] for name, value in figures.items()]
    rows += [list(row) for row in measured.rows()] if measured else []
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
        from nas_agg.common.files import write_atomic
        from nas_agg.report.drawing import draw

        write_atomic(svg, of(genotype, lambda: draw(for_task(genotype, classes, input), genotype)))
        print(f"drawn into {svg}")
        return
    tree = of(genotype, lambda: network_tree(for_task(genotype, classes, input)))
    if format is Format.json:
        print_json(tree.as_dict())
    else:
        print("\n".join(tree_lines(tree, depth)))


for command in (bench, compile_, proxies, worker, *COMMANDS):
    app.command(command.__name__.rstrip("_"))(command)


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
    if not {"search", "train", "worker"} & set(sys.argv[1:2]) and hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # a table ends quietly where its reader leaves, as with `head`


if __name__ == "__main__":
    main()
