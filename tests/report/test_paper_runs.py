"""Runs matched to the papers' rows by network and data set; one-line errors for unsuitable runs."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from damage import edit_sealed, list_again

from nas_agg import load
from nas_agg.common.errors import InputError
from nas_agg.expansion.costs import Cost
from nas_agg.expansion.expansion import expand
from nas_agg.language.genotype import Genotype
from nas_agg.report.paper_runs import TrainedNetwork, match, read_trained
from nas_agg.report.papers import papers
from nas_agg.study.standalone_training import train_genotype
from nas_agg.training.datasets import FILE_KINDS


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """The smallest network of the papers trained for an epoch on images such as those of CIFAR-100."""
    folder = tmp_path_factory.mktemp("runs")
    images = np.random.default_rng(0).integers(0, 256, (200, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(200) % 100
    np.savez(folder / "mine.npz", x_train=images, y_train=labels, x_test=images[:50], y_test=labels[:50])
    genotype = load("dsnet/dsnet26-0.25x")
    train_genotype(
        genotype, name="dsnet/dsnet26-0.25x", dataset=f"npz:{folder / 'mine.npz'}", epochs=1, out=folder / "run"
    )
    return folder / "run"


@pytest.fixture
def copy(trained, tmp_path) -> Path:
    """A copy of the run, to be damaged."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def change(path: Path, **changes) -> None:
    """Change entries of a JSON file; None removes one."""
    if path.name == "run.json":
        edit_sealed(path, **changes)
        return
    value = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: entry for name, entry in value.items() if entry is not None}))
    list_again(path.parent)


def of(genotype: Genotype, data: str, **changes) -> TrainedNetwork:
    """A run of a network on a data set, 10 epochs long."""
    cost = Cost(expand(genotype))
    result = TrainedNetwork(
        path="runs/x", title="the network", data=data, input=cost.graph.shapes[0],
        classes=cost.graph.shapes[cost.graph.output][0], params=cost.params, hash=cost.hash, error=12.5,
        images=10_000, epochs=10, recipe="search",
    )  # fmt: skip
    return replace(result, **changes)


def rows(run: TrainedNetwork, *names: str) -> list[tuple[str, str, str]]:
    """The rows that match, by paper and network, and the reading."""
    result, why = match(run, {name: paper for name, paper in papers().items() if name in names or not names})
    assert bool(result) != bool(why)
    return [(one.paper, one.row.network, one.reading) for one in result]


# ---------------------------------------------------------------------- reading


def test_a_run_is_read_from_its_folder(trained):
    result = read_trained(str(trained), ["cifar10", "cifar100"])
    metrics = json.loads((trained / "best" / "metrics.json").read_text())
    assert (result.data, result.input, result.classes) == ("cifar100", (3, 32, 32), 100)
    assert (result.params, result.hash) == (929_524, metrics["hash"])
    assert result.error == pytest.approx(100 - 100 * metrics["correct"] / 50)
    assert (result.images, result.epochs, result.recipe, result.title) == (50, 1, "final", "dsnet/dsnet26-0.25x")
    assert result.about == f"1 epoch, recipe final, 50 test images ({trained})"
    assert replace(result, images=10_000, epochs=2).about == f"2 epochs, recipe final ({trained})"


def test_data_sets_with_a_name_need_no_other(copy):
    for spec, data in (("cifar100", "cifar100"), ("cifar10", "cifar10"), ("imagenet:/x", "imagenet"), ("digits",) * 2):
        run = json.loads((copy / "run.json").read_text())
        change(copy / "run.json", data=run["data"] | {"spec": spec})
        assert read_trained(str(copy)).data == data
        assert read_trained(str(copy), ["cifar100"]).data == data


@pytest.mark.parametrize("kind", FILE_KINDS)
def test_files_of_every_kind_need_an_explicit_name(copy, kind):
    run = json.loads((copy / "run.json").read_text())
    change(copy / "run.json", data=run["data"] | {"spec": f"{kind}:mine"})
    with pytest.raises(InputError, match=f"run: trained on {kind}:mine; if that is CIFAR-100, add --as cifar100$"):
        read_trained(str(copy))
    assert read_trained(str(copy), ["cifar100"]).data == "cifar100"


def test_file_data_sets_need_an_explicit_name(copy):
    with pytest.raises(InputError, match=r"run: trained on npz:mine.npz; if that is CIFAR-100, add --as cifar100$"):
        read_trained(str(copy))
    with pytest.raises(InputError, match=r"npz:mine.npz \(3x32x32, 100 classes\), which is not CIFAR-10 or ImageNet$"):
        read_trained(str(copy), ["cifar10", "imagenet"])
    best = copy / "best"
    genotype = load("dsnet/dsnet26-0.25x").with_task((3, 32, 32), 7)
    (best / "genotype.json").write_text(genotype.to_json())
    list_again(best)
    change(best / "metrics.json", hash=None)
    result = read_trained(str(copy))
    assert result.data == "npz:mine.npz (3x32x32, 7 classes)"
    assert match(result, papers())[1].startswith(
        f"{copy}: no paper prints a result on npz:mine.npz (3x32x32, 7 classes)"
    )


@pytest.mark.parametrize(("damage", "why"), [
    (lambda run: shutil.rmtree(run / "best"), "no final network; best/weights.safetensors is missing"),
    (lambda run: (shutil.rmtree(run / "best"), change(run / "run.json", status="stopped")),
     "no final network; finish it with the same nas_agg train command"),
    (lambda run: change(run / "run.json", evaluate=True), "its networks were evaluated by a function, not trained"),
    (lambda run: (run / "run.json").write_text("{"), "run.json: line 1, column 2: not JSON"),
    (lambda run: (run / "run.json").write_text('{"format": 2}'), "run.json: damaged: it does not contain its 'sha256'"),
    (lambda run: (run / "run.json").unlink(), "not a run folder (it has no run.json)"),
    (lambda run: change(run / "run.json", data=None), "run.json specifies no data set"),
    (lambda run: (run / "best/metrics.json").unlink(), "best: incomplete, it has no metrics.json"),
    (lambda run: (run / "best/metrics.json").write_text('{"a": 1,'), "best/metrics.json: damaged: it does not match"),
    (lambda run: change(run / "best/metrics.json", test_accuracy=None), "no test accuracy in its metrics"),
    (lambda run: change(run / "best/metrics.json", test_accuracy=1.5), "metrics.json: test_accuracy: input should be"),
    (lambda run: change(run / "best/metrics.json", epochs="x"), "metrics.json: epochs: input should be a valid"),
    (lambda run: change(run / "best/metrics.json", epochs=None), "its metrics lack epochs and recipe"),
    (lambda run: change(run / "best/metrics.json", hash="0"), "damaged: its metrics belong to another network"),
    (lambda run: (run / "best/genotype.json").write_text("{}"), "best/genotype.json"),
    (lambda run: (run / "best/genotype.json").unlink(), "best/genotype.json"),
])  # fmt: skip
def test_a_folder_that_is_no_finished_run_is_one_line(copy, refused, damage, why):
    damage(copy)
    line = refused("table", "dsnet", "--run", str(copy), "--as", "cifar100")
    assert str(copy) in line and why in line
    assert line.count(str(copy)) <= 2


def test_trials_and_options_that_say_nothing_are_refused(refused, copy):
    assert "a trial has no test error" in refused("table", "--run", f"{copy}:3")
    assert "nas_agg train" in refused("table", "--run", f"{copy}:3")
    assert "nothing: not a run folder" in refused("table", "--run", "nothing")
    assert "--as: requires --run" in refused("table", "--as", "cifar10")
    assert "'cifar11' is not one of 'cifar10', 'cifar100', 'imagenet'" in refused(
        "table", "--run", str(copy), "--as", "cifar11"
    )


# ---------------------------------------------------------------------- matching


def test_a_network_is_matched_with_the_classes_of_its_data_set():
    point = load("dsnet/dsnet50-0.25x")
    assert rows(of(point, "cifar100"), "dsnet") == [("dsnet", "DSNet50 0.25x", "")]
    assert rows(of(point.with_task(classes=10), "cifar10"), "dsnet") == [("dsnet", "DSNet50 0.25x", "")]
    assert rows(of(load("residual/wrn-28-10").with_task(classes=100), "cifar100")) == [
        ("dsnet", "WRN-28-10", ""), ("microdense", "Wide ResNet (36.5M)", ""), ("seqconv", "WRN-28-10", ""),
    ]  # fmt: skip


def test_a_row_with_other_text_is_the_network_with_that_text():
    """ResNet50 0.25x is no point: it is a DSNet with the shortcuts of a ResNet."""
    text = load("dsnet/dsnet50-0.25x").to_dict()
    plain = text["let"] | {"wires": "previous", "norm": "none", "weight": False, "within": "transform"}
    assert rows(of(Genotype.from_dict(text | {"let": plain}), "cifar100"), "dsnet") == [("dsnet", "ResNet50 0.25x", "")]


def test_another_reading_is_matched_and_named():
    text = load("residual/resnet-110").to_dict()
    normed = Genotype.from_dict(text | {"let": text["let"] | {"fit": "normed"}})
    assert rows(of(normed, "cifar10"), "sparsenet", "seqconv") == [("sparsenet", "ResNet-110", "shortcut option B")]


def test_a_run_without_a_row_is_one_line():
    def why(run: TrainedNetwork, *names: str) -> str:
        result, line = match(run, {name: paper for name, paper in papers().items() if name in names or not names})
        assert result == [] and "\n" not in line
        return line

    light = of(load("aggregation/resnet"), "cifar10")
    assert why(light, "dsnet") == f"runs/x: its network is in no row of the paper dsnet: the network, hash {light.hash}"
    assert (
        why(light, "dsnet", "baselines")
        == f"runs/x: its network is in no row of the papers: the network, hash {light.hash}"
    )
    deep = of(load("dsnet/dsnet77-0.25x").with_task(classes=10), "cifar10")
    assert why(deep, "dsnet") == "runs/x: no paper prints a result of its network on CIFAR-10: DSNet77 0.25x (dsnet)"
    small = of(load("dsnet/dsnet50").with_task((3, 64, 64)), "imagenet")
    assert "its images are 3x64x64, not 3x224x224 as in the papers for ImageNet" in why(small)
    assert "no paper prints a result on digits" in why(of(load("agg-bench/light"), "digits"))


# ---------------------------------------------------------------------- the command


def test_a_run_is_listed_beside_the_printed_results(run, trained):
    error = f"{read_trained(str(trained), ['cifar100']).error:.2f}"
    status, out, err = run("table", "dsnet", "--run", str(trained), "--as", "cifar100")
    assert (status, err) == (0, "")
    (line,) = [line for line in out.splitlines() if line.startswith("DSNet26 0.25x ")]
    cells = [
        "DSNet26 0.25x",
        "CIFAR-100",
        "26.80 (Table 3)",
        error,
        f"1 epoch, recipe final, 50 test images ({trained})",
    ]
    assert [cell.strip() for cell in line.split("  ") if cell.strip()] == cells
    (other,) = [line for line in out.splitlines() if line.startswith("DSNet38 0.25x ")]
    assert other.split()[-2:] == ["-", "-"]
    assert "counts agree" not in out

    _, out, _ = run("table", "--run", str(trained), "--as", "cifar100")  # without a paper: the rows that runs have
    assert [row.split()[:2] for row in out.splitlines()[-2:]] == [["network", "data"], ["DSNet26", "0.25x"]]

    _, out, _ = run("table", "--run", str(trained), "--as", "cifar100", "--format", "markdown")
    assert f"| {' | '.join(cells)} |" in out and out.count("## ") == 1

    result = json.loads(run("table", "--run", str(trained), "--as", "cifar100", "--format", "json")[1])
    (row,) = result
    assert (row["paper"], row["network"]) == ("dsnet", "DSNet26 0.25x")
    assert row["runs"] == [
        {"run": str(trained), "data": "cifar100", "test_error": pytest.approx(float(error)), "images": 50, "epochs": 1,
         "recipe": "final", "hash": Cost(expand(load("dsnet/dsnet26-0.25x"))).hash, "reading": ""}
    ]  # fmt: skip


def test_several_runs_of_a_network_have_a_line_each(run, trained, copy):
    change(copy / "best" / "metrics.json", test_accuracy=0.75, epochs=3)
    out = run("table", "dsnet", "--run", str(trained), "--run", str(copy), "--as", "cifar100")[1]
    lines = [line for line in out.splitlines() if line.startswith("DSNet26 0.25x ")]
    assert [str(path) in line for path, line in zip((trained, copy), lines, strict=True)] == [True, True]
    assert " 25.00  3 epochs, recipe final" in lines[1]


def test_a_run_of_no_row_is_a_note_beside_the_table(run, trained):
    status, out, err = run("table", "seqconv", "--run", str(trained), "--as", "cifar100")
    assert status == 0 and "SeqResNet r=4, k=8" in out
    result = read_trained(str(trained), ["cifar100"])
    network = f"dsnet/dsnet26-0.25x, hash {result.hash}"
    assert err == f"note: {trained}: its network is in no row of the paper seqconv: {network}\n"
