"""The first and the last section: what was searched and found, the final network, and how to reproduce the run."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from nas_agg.common.console import format_bytes, format_classes, format_count
from nas_agg.common.errors import NasAggError
from nas_agg.expansion.costs import COST_METRICS, cost
from nas_agg.language.genotype import Genotype
from nas_agg.report.drawing import draw
from nas_agg.report.html.parts import Commands, Drawing, Section, Table, Tables, visible
from nas_agg.report.html.results import drawn_trials
from nas_agg.report.runs.summary import (
    best_trial,
    counts,
    format_seconds,
    format_test_result,
    network_of,
    state_of,
    top_trials,
    trial_values,
)
from nas_agg.study.definition.settings import Settings
from nas_agg.study.definition.trial import RecordState, TrialRecord
from nas_agg.study.definition.trial_rows import choice_text
from nas_agg.study.records.run_folder import resume_instructions
from nas_agg.study.records.saved_run import SavedRun

_SHOWN_COSTS = ("params", "macs", "activation_bytes", "peak_bytes_inference", "depth", "connections", "gradient_path")


def four_lines(run: SavedRun) -> list[tuple[str, str]]:
    """What was searched, found and tested, and what it took: four lines, each with its heading."""
    searched = _searched(run) if run.settings else _trained(run)
    lines = [("Searched" if run.settings else "Trained", searched)]
    if run.settings:
        lines.append(("Found", _found(run)))
    lines += [("Tested", _tested(run)), ("Took", _took(run))]
    return [(heading, visible(text)) for heading, text in lines]


def _searched(run: SavedRun) -> str:
    settings = run.settings
    assert settings is not None
    data = (
        f"on {_dataset(run)}"
        if settings.dataset
        else "in its table of results"
        if run.run.get("named")
        else "by a function"
    )
    objectives = ", ".join(f"{metric.name} ({metric.direction[:3]}.)" for metric in run.objectives)
    parts = [f"{_space(run)} {data} with {settings.searcher}, seed {settings.seed}, for {objectives}"]
    parts += [limits] if (limits := _limits(run, settings)) else []
    return "; ".join(parts)


def _space(run: SavedRun) -> str:
    return str(run.run.get("origin", {}).get("title") or (run.settings.space if run.settings else run.name))


def _dataset(run: SavedRun) -> str:
    spec = run.run["data"]["spec"] if "data" in run.run else str(run.settings.dataset if run.settings else "")
    shape = "×".join(map(str, run.run["input"])) if "input" in run.run else ""
    classes = format_classes(run.run["classes"]) if "classes" in run.run else ""
    about = ", ".join(filter(None, (shape, classes)))
    return f"{spec} ({about})" if about else spec


def _limits(run: SavedRun, settings: Settings) -> str:
    resolved = run.run.get("limits", {})
    texts = []
    for name, unit in (("max_params", "parameters"), ("max_macs", "MACs")):
        if limit := resolved.get(name) or getattr(settings, name):
            texts.append(f"{limit:,} {unit}")
    if settings.max_activations:
        texts.append(f"{format_bytes(settings.max_activations)} of activations")
    if settings.max_latency:
        texts.append(f"{settings.max_latency:g} ms")
    return f"networks of up to {' and '.join(texts)}" if texts else ""


def _trained(run: SavedRun) -> str:
    settings = run.run["settings"]
    recipe = settings.get("recipe")
    recipe = recipe.get("name", "of its own") if isinstance(recipe, dict) else recipe
    length = f"{settings.get('epochs')} epochs, recipe {recipe}, seed {settings.get('seed')}"
    return f"{_space(run)} on {_dataset(run)}: {length}"


def _found(run: SavedRun) -> str:
    best, front = best_trial(run), top_trials(run)
    if best is None:
        return "no network has a result yet"
    if run.objectives.is_multi_objective:
        first = run.objectives[0]
        values = [trial.values[0] for trial in front if trial.values]
        if not values:
            return f"no network is fully trained yet; best so far: {trial_values(run, best)}"
        noun = "network" if len(front) == 1 else "networks"
        extent = f"{first.name} from {_plain(run, min(values))} to {_plain(run, max(values))}"
        return f"a Pareto front of {len(front)} {noun}, {extent}"
    size = f" ({best.params:,} parameters, {best.macs:,} MACs)" if best.macs else ""
    return f"trial {best.number}: {trial_values(run, best)}{size}"


def _plain(run: SavedRun, value: float) -> str:
    return run.objectives[0].format(value).removeprefix(f"{run.objectives[0].name} ")


def _tested(run: SavedRun) -> str:
    if not run.is_tested or run.metrics is None:
        if run.run.get("evaluate"):
            return "no network was trained: results come from a " + ("table" if run.run.get("named") else "function")
        if run.metrics is not None and "untested" in run.metrics:
            return f"the final network is not tested: {run.metrics['untested']}"
        return "the final network is not trained yet"
    length = f"after {run.metrics.get('epochs')} epochs, recipe {run.metrics.get('recipe')}"
    return f"{format_test_result(run)} on the test split, {length}"


def _took(run: SavedRun) -> str:
    state, parts = state_of(run), []
    if run.settings:
        by_state = counts(run)
        evaluated = sum(trial.consumes_budget for trial in run.trials)
        detail = ", ".join(f"{count} {state}" for state, count in by_state.items() if state != RecordState.COMPLETE)
        parts.append(f"{evaluated} of {run.settings.budget} networks" + (f" ({detail})" if detail else ""))
    seconds = float(run.run.get("seconds", 0))
    final = float((run.metrics or {}).get("seconds") or 0)
    if seconds:
        parts.append(format_seconds(seconds))
    if final:
        parts.append(f"final training {format_seconds(final)}")
    if device := run.run.get("device_name"):
        parts.append(str(device))
    reason = run.run.get("reason")
    return f"{'; '.join(parts)}; {state}" + (f": {reason}" if reason else "")


# ---------------------------------------------------------------------- the network


def network_section(run: SavedRun) -> Section | None:
    """The final network, else the best so far: drawn, counted, with its values of the search variables."""
    genotype, best = network_of(run), best_trial(run)
    if genotype is None:
        if best is None:
            return None
        return Section("network", "Best point", [values_table(best)])
    title = "Final network" if run.is_tested else "Best network"
    if best is not None:
        title += f" (trial {(run.metrics or {}).get('trial', best.number)})"
    tables = [_cost_table(genotype)]
    if best is not None and (run.metrics or {}).get("trial", best.number) == best.number:
        tables.append(values_table(best))
    return Section("network", visible(title), [_drawing(genotype, title), Tables(tables)])


def _drawing(genotype: Genotype, title: str) -> Drawing:
    return Drawing(draw(genotype, adapts=False), title)


def _cost_table(genotype: Genotype) -> Table:
    costs = cost(genotype)
    rows = []
    for name in _SHOWN_COSTS:
        value = getattr(costs, name)
        text = "" if value is None else format_bytes(value) if "bytes" in name else format_count(value)
        rows.append([name.replace("_", " "), text, COST_METRICS[name]])
    return Table(
        ["", "value", "meaning"], [*rows, ["hash", costs.hash[:12], COST_METRICS["hash"]]], right=(1,), title="Cost"
    )


def values_table(trial: TrialRecord) -> Table:
    """A trial's values of the search variables."""
    rows = [[visible(name), visible(choice_text(choice))] for name, choice in trial.labels.items()]
    return Table(["search variable", "value"], rows, title="Search variables")


def hover_drawings(run: SavedRun) -> dict[int, str]:
    """By number of the trial, drawings of the networks that a plot shows when they are pointed at."""
    drawings = {}
    for number in drawn_trials(run):
        genotype = network_of(run, number)
        if genotype is not None:
            try:
                drawings[number] = draw(genotype, f"trial {number}", panels=False, adapts=False)
            except NasAggError:
                continue
    return drawings


# ---------------------------------------------------------------------- reproduction


def reproduction_section(run: SavedRun) -> Section:
    """How the run was made, and what to type next."""
    facts: list[tuple[str, Any]] = [
        ("command", _command(run)),
        ("seed", run.run.get("seed")),
        ("begun", run.run.get("created")),
    ]
    facts += [("digest of the space", run.run.get("space")), ("study", run.run.get("study"))]
    facts += [("hash of the final network", (run.metrics or {}).get("hash"))]
    facts += [(name, version) for name, version in run.run.get("versions", {}).items()]
    rows = [[visible(str(name)), visible(str(value))] for name, value in facts if value not in (None, "")]
    return Section("reproduce", "Reproduce and continue", [Table(["", ""], rows), Commands(next_commands(run), "Next")])


def _command(run: SavedRun) -> str:
    """The command line, with the program's name in place of its path."""
    program, _, words = str(run.run.get("command", "")).partition(" ")
    return f"{Path(program).name} {words}".strip()


def next_commands(run: SavedRun) -> list[tuple[str, str]]:
    """Commands that use the run, each with what it does."""
    path = visible(shlex.quote(str(run.path)))
    if state_of(run) not in ("finished", "running"):
        instruction = resume_instructions(dict(run.run), run.path)
        if ": nas_agg" in instruction:
            return [(visible(instruction.partition(": ")[2]), "resume the search")]
    commands = []
    if run.is_tested:
        commands += [
            (
                f"nas_agg compile {path} --out {visible(shlex.quote(run.name + '-model'))}",
                "write the network as plain PyTorch",
            )
        ]
        commands += [(f"nas_agg evaluate {path}", "test the saved weights again")]
    if network_of(run) is not None:
        commands += [(f"nas_agg show {path}" + (":TRIAL" if run.metrics is None else ""), "show the network as a tree")]
    if run.is_tested and run.settings is not None:
        commands += [(f"nas_agg train {path}:TRIAL", "train another network of the search in full")]
    if run.settings is not None and run.run.get("named"):
        budget = 2 * run.settings.budget
        commands += [(f"nas_agg search --resume {path} --budget {budget}", "continue the search with a larger budget")]
    return commands
