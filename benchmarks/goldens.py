"""Golden records: what a refactoring must not alter, recorded before and after it and compared.

    python benchmarks/goldens.py record before    # at the commit before the change
    python benchmarks/goldens.py record after     # with the change, on the same machine
    python benchmarks/goldens.py compare before after

A record is a folder: ``points.json`` (hash, cost, bytes kept for backward and parameters of the emitted code of each
point), ``models/`` (emitted code), ``searches.json`` (trials of every searcher on a table, three seeds of 60 networks),
``trainings.json`` (eight networks trained on digits by one worker) and ``files/`` (a genotype, weights, a compiled
model, a run folder). Trained values depend on the processor and the version of torch: compare records of one machine.
Emitted code may become shorter; `compare` prints the lengths and fails if the total grows by more than 2 %.
`check-files FOLDER` loads the files of an older record with the current code.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

SEEDS, NETWORKS, LONGER = range(3), 60, 1.02


def record(out: Path, jobs: int, parts: list[str]) -> None:
    """Write a record.

    Args:
        out: Folder of the record.
        jobs: Number of processes.
        parts: Parts to record: ``points``, ``searches``, ``trainings``, ``files``.
    """
    from nas_agg.search_space.space import list_spaces, open_space
    from nas_agg.study.samplers.searcher import installed_searchers

    (out / "models").mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(jobs) as pool:
        if "points" in parts:
            points = [f"{space}/{point}" for space in list_spaces() for point in open_space(space).points]
            _write(out / "points.json", dict(zip(points, pool.map(_point, points, [out] * len(points)), strict=True)))
        if "searches" in parts:
            cases = [(name, seed) for name in sorted(installed_searchers()) for seed in SEEDS]
            _write(
                out / "searches.json",
                {f"{n} {s}": x for (n, s), x in zip(cases, pool.map(_search, cases), strict=True)},
            )
    if "trainings" in parts:
        _write(out / "trainings.json", _trainings(out))
    if "files" in parts:
        _files(out / "files")


def _write(path: Path, values: Any) -> None:
    path.write_text(json.dumps(values, indent=1, sort_keys=True) + "\n")
    print(f"{path}: {len(values)}", flush=True)


def _point(reference: str, out: Path) -> dict[str, Any]:
    """Cost and hash of a point; its emitted code is written to a file."""
    import torch

    import nas_agg
    from nas_agg.compiler.codegen import emit

    genotype = nas_agg.load(reference)
    cost = nas_agg.cost(genotype)
    text = emit(genotype, title=reference)
    (out / "models" / f"{reference.replace('/', '__')}.py").write_text(text)
    names: dict[str, Any] = {}
    exec(compile(text, reference, "exec"), names)  # written by this process
    with torch.device("meta"):
        state = names["Network"]().state_dict()
    shapes = [f"{name} {list(tensor.shape)}" for name, tensor in state.items()]
    return {
        "hash": str(cost.hash),
        "cost": [cost.params, cost.macs, cost.depth, cost.peak_bytes_inference],
        "kept": {memory: cost.bytes_for_backward(memory) for memory in ("plain", "lean", "leanest")},
        "parameters": hashlib.sha256("\n".join(shapes).encode()).hexdigest(),
        "lines": text.count("\n"),
    }


def _search(case: tuple[str, int]) -> list[list[Any]]:
    import nas_agg

    name, seed = case
    with tempfile.TemporaryDirectory() as folder:
        result = nas_agg.search("agg-bench", searcher=name, seed=seed, budget=NETWORKS, out=Path(folder) / "run")
        return [[trial.hash, trial.values] for trial in result.trials]


def _trainings(out: Path) -> list[list[Any]]:
    """Eight networks of a space without a table, trained on scikit-learn's digits."""
    import nas_agg

    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        result = nas_agg.search(
            "microdense", dataset="digits", budget=8, epochs=1, workers=1, max_params="30k", out=run
        )
        metrics = json.loads((run / "best" / "metrics.json").read_text())
        return [[t.hash, t.values, t.loss] for t in result.trials] + [[metrics["test_accuracy"]]]


def _files(out: Path) -> None:
    """Write files that users keep, to be read by later versions."""
    import nas_agg
    from nas_agg.compiler.weights import save_weights

    out.mkdir(parents=True, exist_ok=True)
    genotype = nas_agg.load("microdense/30a64")
    (out / "genotype.json").write_text(genotype.to_json())
    save_weights(nas_agg.compile(genotype, 0), out / "weights.safetensors")
    run = out / "run"
    nas_agg.search("microdense", dataset="digits", budget=2, epochs=1, workers=1, max_params="30k", out=run)
    command = [sys.executable, "-m", "nas_agg", "compile", str(run), "--out", str(out / "compiled")]
    subprocess.run(command, check=True)


def check_files(folder: Path) -> None:
    """Load the files of a record with the current code.

    Args:
        folder: Folder of the record.

    Raises:
        NasAggError: A file cannot be read.
    """
    import nas_agg
    from nas_agg.compiler.weights import load_weights

    files = folder / "files"
    genotype = nas_agg.load(str(files / "genotype.json"))
    load_weights(nas_agg.compile(genotype, 1), files / "weights.safetensors")
    compiled = nas_agg.load(str(files / "compiled" / "genotype.json"))
    load_weights(nas_agg.compile(compiled, 1), files / "compiled" / "weights.safetensors")
    subprocess.run([sys.executable, files / "compiled" / "model.py"], check=True, stdout=subprocess.DEVNULL)
    print(f"{files}: genotype, weights and compiled model load")


def compare(before: Path, after: Path) -> int:
    """Print the differences between two records.

    Returns:
        The number of differences.
    """
    differences = 0
    for name in ("points", "searches", "trainings"):
        if not all((folder / f"{name}.json").exists() for folder in (before, after)):
            print(f"{name}: not in both records")
            continue
        old, new = (json.loads((folder / f"{name}.json").read_text()) for folder in (before, after))
        if name == "points":
            differences += _compare_lengths(
                {point: (old[point].pop("lines"), new[point].pop("lines")) for point in {*old} & {*new}}
            )
        keys = sorted({*old, *new}) if isinstance(old, dict) else range(max(len(old), len(new)))
        differing = [key for key in keys if _at(old, key) != _at(new, key)]
        print(f"{name}: {len(keys)} compared, {len(differing)} differ")
        for key in differing[:10]:
            print(f"  {key}: {_at(old, key)} -> {_at(new, key)}"[:300])
        differences += len(differing)
    return differences


def _at(values: Any, key: Any) -> Any:
    return values.get(key) if isinstance(values, dict) else values[key] if key < len(values) else None


def _compare_lengths(lines: dict[str, tuple[int, int]]) -> int:
    """Compare the lengths of emitted code; the number of points above the limit, or 1 where the total is."""
    before, after = (sum(pair[side] for pair in lines.values()) for side in (0, 1))
    longest = max(new for _, new in lines.values())
    print(f"code: {len(lines)} points, {before} lines before, {after} after ({after / before:.3f}); longest {longest}")
    longer = [point for point, (old, new) in sorted(lines.items()) if new > old]
    print(f"  longer: {', '.join(f'{point} {lines[point][0]} -> {lines[point][1]}' for point in longer) or 'none'}")
    return int(after > LONGER * before) + sum(new > 200 for _, new in lines.values())


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=ast.get_docstring(ast.parse(Path(__file__).read_text())))
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = parser.add_subparsers(dest="command", required=True)
    recording = commands.add_parser("record")
    recording.add_argument("out", type=Path)
    recording.add_argument("--jobs", type=int, default=2)
    recording.add_argument("--parts", nargs="+", default=["points", "searches", "trainings", "files"])
    comparing = commands.add_parser("compare")
    comparing.add_argument("before", type=Path)
    comparing.add_argument("after", type=Path)
    checking = commands.add_parser("check-files")
    checking.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "record":
        record(arguments.out, arguments.jobs, arguments.parts)
    elif arguments.command == "check-files":
        check_files(arguments.folder)
    else:
        sys.exit(min(1, compare(arguments.before, arguments.after)))


if __name__ == "__main__":
    main()
