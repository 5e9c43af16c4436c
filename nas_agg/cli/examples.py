"""Examples at the end of commands' help."""

from __future__ import annotations

EXAMPLES: dict[str, tuple[str, ...]] = {
    "search": (
        "nas_agg search --space microdense --budget 50",
        "nas_agg search --space microdense --dataset folder:./photos --image-size 32 --max-params 100k",
        "nas_agg search --space densenet --dataset cifar10 --max-macs 50M --objective accuracy,macs --pruner halving",
        "nas_agg search --space aggregation --start densenet --start resnet --tune lr=0.02:0.4:log",
        "nas_agg search --space agg-bench --searcher local --seed 1 --out runs/local-1",
        "nas_agg search --resume runs/microdense-digits-0 --budget 80",
    ),
    "train": (
        "nas_agg train microdense/30a64 --dataset cifar10 --recipe microdense-cifar",
        "nas_agg train runs/microdense-digits-0:7 --seed 1 --out runs/trial-7",
        "nas_agg train residual/resnet50 --weights resnet50 --download --freeze conv --dataset folder:./photos",
    ),
    "evaluate": (
        "nas_agg evaluate runs/microdense-digits-0",
        "nas_agg evaluate runs/photos --metric balanced-accuracy",
    ),
    "runs": ("nas_agg runs", "nas_agg runs /shared/runs --format json"),
    "curves": ("nas_agg curves runs/microdense-digits-0", "nas_agg curves runs/front:7 runs/front:12"),
    "compare": ("nas_agg compare runs/predictor-0 runs/predictor-1 runs/random-0 runs/random-1",),
    "cost": (
        "nas_agg cost densenet/121",
        "nas_agg cost residual/resnet50 --latency --batch 8",
        "nas_agg cost mine.yaml --input 3x64x64 --classes 5",
    ),
    "show": (
        "nas_agg show densenet/121",
        "nas_agg show runs/microdense-digits-0 --svg network.svg",
        "nas_agg show densenet/121 --diff densenet/169 --svg difference.svg",
    ),
    "compile": (
        "nas_agg compile runs/microdense-digits-0 --out digits-net",
        "nas_agg compile residual/resnet50 --weights resnet50 --download --out resnet50 --onnx",
    ),
    "worker": (
        "nas_agg worker --run /shared/runs/one --wait 10m",
        "nas_agg worker --storage postgresql+psycopg://nas@db.example.org/nas --study NAME",
    ),
    "bench": (
        "nas_agg bench --space ./mine.yaml --out mine-bench --part 1/4",
        "nas_agg bench --space ./mine.yaml --out mine-bench --table mine.csv.gz",
    ),
    "proxies": ("nas_agg proxies", "nas_agg proxies microdense/30a64", "nas_agg proxies --rank agg-bench"),
    "report": (
        "nas_agg report runs/microdense-digits-0 --open",
        "nas_agg report runs/local-0 runs/local-1 runs/random-0 runs/random-1 --out comparison.html",
    ),
    "dashboard": ("nas_agg dashboard runs/microdense-digits-0 --open",),
    "trials": ("nas_agg trials runs/front --front", "nas_agg trials runs/microdense-digits-0 --format csv"),
    "points": ("nas_agg points", "nas_agg points microdense"),
    "recipes": ("nas_agg recipes", "nas_agg recipes microdense-cifar"),
    "table": ("nas_agg table sparsenet", "nas_agg table --run runs/trained --as cifar100"),
    "cache": ("nas_agg cache", "nas_agg cache --remove all"),
}


def epilog(command: str) -> str | None:
    """The examples of a command, in the form that Typer prints line by line; None if it has none."""
    lines = EXAMPLES.get(command)
    return "\n\n".join(["Examples:", *(f"  {line}" for line in lines)]) if lines else None
