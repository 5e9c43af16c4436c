"""The example with plots of trained networks: run by command line, and its numbers against direct computations."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import nas_agg
from nas_agg.common.chained_lines import json_line
from nas_agg.study.standalone_training import train_genotype

EXAMPLE = Path(__file__).parents[2] / "examples" / "inspect_network.py"
STEM: list[Any] = [{"conv": 3, "out": 4, "stride": 2}]
HEAD: list[Any] = ["relu", "gap", {"linear": "classes"}]
READS = {"pattern": "dense", "operator": "concat"}
DENSE = {"nodes": 3, "growth": 4, "reads": READS, "unit": ["bn", "relu", {"conv": 3}]}
PLAIN = {"nodes": 2, "growth": 4, "unit": [{"conv": 3}, "bn", "relu"]}


def genotype(block: dict[str, Any]) -> Any:
    return nas_agg.load({"input": [1, 8, 8], "classes": 10, "let": {"block": block}, "net": [*STEM, "block", *HEAD]})


def run(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, EXAMPLE, *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, cwd=cwd)


@pytest.fixture(scope="module")
def example() -> Any:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("inspect_network", EXAMPLE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["inspect_network"] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two trained networks."""
    folder = tmp_path_factory.mktemp("runs")
    for name, block in (("dense", DENSE), ("plain", PLAIN)):
        train_genotype(genotype(block), name=name, epochs=2, recipe="search", out=folder / name)
    return folder


def test_all_plots_of_two_runs(runs: Path) -> None:
    ran = run("dense", "plain", cwd=runs)
    assert ran.returncode == 0, ran.stderr
    names = ("weights-dense-filters", "grad-cam", "curves")
    assert ran.stdout.split() == [f"plots/{name}.{ending}" for name in names for ending in ("png", "svg")]
    assert ran.stderr == "no weights plot: plain: no layer reads several sources by concat or weighted sum\n"
    for file in ran.stdout.split():
        assert (runs / file).stat().st_size > 5_000


def draw(example: Any, *words: str | Path) -> dict[str, Any]:
    """The figures that a command line would save, by file name."""
    result = {}
    example.save = lambda figure, path: result.setdefault(Path(path).name, figure) and []
    example.run(example.parser().parse_args(list(map(str, words))))
    return result


def test_curves_are_those_of_the_run(example: Any, runs: Path, tmp_path: Path) -> None:
    figure = draw(example, runs / "dense", "--plot", "curves", "--out", tmp_path)["curves"]
    history = [json.loads(line) for line in (runs / "dense/best/metrics.jsonl").read_text().splitlines()]
    test = json.loads((runs / "dense/best/metrics.json").read_text())
    train, star = figure.axes[0].get_lines()
    assert list(train.get_ydata()) == pytest.approx([100 * (1 - epoch["train_accuracy"]) for epoch in history])
    assert list(star.get_ydata()) == pytest.approx([100 * (1 - test["test_accuracy"])])
    assert list(star.get_xdata()) == [2]


def test_heat_maps_of_chosen_aggregates(example: Any, runs: Path, tmp_path: Path) -> None:
    words = (runs / "dense", "--plot", "weights", "--absolute", "--out", tmp_path)
    (figure,) = draw(example, *words, "--aggregates", "block").values()
    weights = f"{runs}/dense/best/weights.safetensors"
    state = nas_agg.compile(runs / "dense" / "best" / "genotype.json", weights=weights).state_dict()
    shown = figure.axes[0].get_images()[0].get_array()
    assert shown[1, 2] == pytest.approx(state["block.2.unit.conv.weight"][:, 4:8].abs().mean().item())
    with pytest.raises(nas_agg.InputError, match=r"--aggregates: .*dense has no 'blok'; it has block"):
        draw(example, *words, "--aggregates", "blok")


def test_grad_cam_is_the_gradients_mean_times_the_map(example: Any) -> None:
    network = nas_agg.compile(genotype(DENSE), seed=0).eval()
    images, classes = torch.randn(4, 1, 8, 8), torch.tensor([3, 1, 4, 1])
    maps, logits = example.grad_cam(genotype(DENSE), network, images, classes)
    body = nas_agg.compile(genotype(DENSE), seed=0, features=True).eval()
    body.load_state_dict(network.state_dict())
    features = body(images)["stride2"].detach().requires_grad_()  # behind the head's relu
    linear = network.get_submodule("linear")
    out = linear(features.mean((2, 3)))
    (gradient,) = torch.autograd.grad(out[range(4), classes].sum(), features)
    expected = (gradient.mean((2, 3), keepdim=True) * features).sum(1).relu()
    assert maps.shape == (4, 4, 4)
    assert torch.allclose(maps, expected, atol=1e-6) and maps.max() > 0
    assert torch.allclose(logits, network(images), atol=1e-6)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nowhere",), "no genotype 'nowhere': no such file, run or space/point"),
        ((".",), "not a run folder (it has no run.json)"),
        (("dense:7",), "no trial '7'"),
        (("aggregation/densenet", "--plot", "weights"), "no trained weights; use a finished run, or --weights"),
        (("aggregation/densenet", "--plot", "curves"), "not a run folder, so there is no learning curve"),
        (("plain", "--plot", "weights"), "plain: no layer reads several sources by concat or weighted sum"),
        (("dense", "plain", "--weights", "x"), "--weights: allowed for a single network only"),
        (("dense", "--weights", "x.safetensors", "--plot", "weights"), "x.safetensors: no such file"),
        (("dense", "dense"), "two networks have the same name"),
        (("dense", "--images", "0"), "--images: must be 1 or more"),
        (("dense", "--out", "dense/run.json"), "--out: cannot create dense/run.json"),
    ],
)
def test_wrong_arguments_are_a_one_line_error(
    words: tuple[str, ...], message: str, example: Any, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(runs)
    with pytest.raises(nas_agg.InputError) as error:
        draw(example, *words)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"epoch":1}\n', "metrics.jsonl: line 1 is damaged"),
        (json_line("", {"a": 1})[0].decode(), "not metrics of epochs"),
    ],
)
def test_damaged_metrics_are_a_one_line_error(
    text: str, message: str, example: Any, runs: Path, tmp_path: Path
) -> None:
    run_json, metrics = tmp_path / "run" / "run.json", tmp_path / "run" / "best" / "metrics.jsonl"
    metrics.parent.mkdir(parents=True)
    run_json.write_bytes((runs / "dense" / "run.json").read_bytes())
    metrics.write_text(text)
    with pytest.raises(nas_agg.InputError, match=message):
        draw(example, run_json.parent, "--plot", "curves", "--out", tmp_path)


def test_without_captum_it_is_one_line(example: Any, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(nas_agg.InputError, match=r"Grad-CAM needs captum: pip install 'nas-agg\[inspect\]'"):
        draw(example, runs / "dense", "--plot", "grad-cam", "--out", runs / "out")
