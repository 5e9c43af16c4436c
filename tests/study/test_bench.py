"""Every network of a small space trained, and the table of it."""

from __future__ import annotations

import gzip
import hashlib
import json

import pytest

from nas_agg.compiler import compile
from nas_agg.errors import InputError, NasAggError
from nas_agg.space import Space
from nas_agg.study.bench import VALIDATION_SHARE, Bench, lines, points
from nas_agg.study.run import search
from nas_agg.study.table import Tabled
from nas_agg.training.data import load_data
from nas_agg.training.loop import train
from nas_agg.training.recipes import get_recipe

TEXT = {
    "input": [1, 8, 8],
    "classes": 10,
    "open": {"width": [4, 6], "deep": [0, 1], "kernel": [1, 3]},  # without depth two kernels are one network
    "net": [
        {"conv": 3, "out": "width"},
        {"nodes": "deep", "growth": "width", "unit": [{"conv": "kernel"}, "relu"]},
        "gap",
        {"linear": "classes"},
    ],
}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A bench that is done, in two parts, the first of which was killed in the middle of a line."""
    out, said = tmp_path_factory.mktemp("bench"), []
    bench = Bench(Space(TEXT, "small"), seeds=2, epochs=2)
    bench.train(out, 1, (1, 2), said.append)
    file = out / "part-1-of-2.jsonl"
    whole = file.read_text().splitlines(keepends=True)
    file.write_text("".join(whole[:-2]) + whole[-1][:20])
    bench.train(out, 1, (1, 2), said.append)
    bench.train(out, 2, (2, 2), said.append)
    bench.time(out, said.append)
    return bench, out, said


def test_each_network_is_trained_once_a_seed(done):
    _, out, said = done
    trained = lines(out, "part")
    assert len(trained) == len({(line["hash"], line["seed"]) for line in trained}) == 12
    assert said[0] == "6 networks; 6 trainings in this part, 6 of them to do"
    assert said[1] == "6 networks; 6 trainings in this part, 2 of them to do"
    assert {line["hash"] for line in lines(out, "times")} == {line["hash"] for line in trained}


def test_the_table_tells_what_a_training_has(done, tmp_path):
    bench, out, _ = done
    content = bench.table(out)
    assert content == bench.table(out)
    (tmp_path / "small.csv.gz").write_bytes(content)
    table = {"file": "small.csv.gz", "sha256": hashlib.sha256(content).hexdigest()}
    space = Tabled(Space({**TEXT, "table": table}, "small", tmp_path))
    values = {"width": 6, "deep": 1, "kernel": 3}
    row = space.row(values)
    accuracies = []
    for seed in (0, 1):
        data = load_data("digits", seed, validation_share=VALIDATION_SHARE)
        result = train(compile(space.genotype(values), seed), data, get_recipe("bench"), seed=seed, epochs=2)
        accuracies.append([epoch["validation_accuracy"] for epoch in result.history])
    assert row.curve == pytest.approx([sum(pair) / 2 for pair in zip(*accuracies, strict=True)], abs=1e-4)
    assert row.value == pytest.approx(row.curve[-1], abs=1e-4)
    assert (row.params, row.macs) == (448, 64 * (54 + 324) + 60)
    assert row.found["latency_ms"] > 0 and row.found["seconds"] > 0
    assert space.row({**values, "deep": 0}).hash == space.row({**values, "deep": 0, "kernel": 1}).hash
    result = search(
        Space({**TEXT, "table": table}, "small", tmp_path), searcher="random", budget=50, out=tmp_path / "run"
    )
    assert len([trial for trial in result.trials if trial.counts]) == 6
    assert result.value == max(one.value for one in space.rows.values())
    assert json.loads((tmp_path / "run/best/genotype.json").read_text())["let"] == result.values


def test_a_table_is_searched_for_what_it_tells(done, tmp_path):
    bench, _, _ = done
    content = bench.table(done[1])
    (tmp_path / "small.csv.gz").write_bytes(content)
    table = {"file": "small.csv.gz", "sha256": hashlib.sha256(content).hexdigest()}
    space = Space({**TEXT, "table": table}, "small", tmp_path)
    rows = Tabled(space).rows.values()
    for objective, figure in (("loss", "loss"), ("latency,loss", "latency_ms")):
        result = search(space, searcher="random", objective=objective, budget=50, out=tmp_path / objective)
        assert result.value == min(row.found[figure] for row in rows)
    with pytest.raises(InputError, match="tells of no loss at rungs"):
        search(space, objective="loss", pruner="halving", searcher="random", out=tmp_path / "run")
    text = gzip.decompress(content).decode().replace("latency_ms", "slowness")
    less = gzip.compress(text.encode())
    (tmp_path / "small.csv.gz").write_bytes(less)
    other = Space({**TEXT, "table": {**table, "sha256": hashlib.sha256(less).hexdigest()}}, "small", tmp_path)
    with pytest.raises(InputError, match="does not tell of latency"):
        search(other, objective="loss,latency", searcher="random", out=tmp_path / "run")


def test_what_is_missing_or_spoilt_is_said(done, tmp_path):
    bench, out, _ = done
    for file in out.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    part = tmp_path / "part-2-of-2.jsonl"
    kept = part.read_text()
    part.write_text(kept.rpartition("{")[0])
    with pytest.raises(InputError, match="a network is not trained or not timed; first nas_agg bench"):
        bench.table(tmp_path)
    part.write_text("{nonsense\n" + kept)
    with pytest.raises(NasAggError, match=r"part-2-of-2\.jsonl: line 1 is spoilt"):
        bench.table(tmp_path)
    with pytest.raises(InputError, match="points; a table takes up to 20,000"):
        next(points(Space({**TEXT, "open": {**TEXT["open"], "width": {"from": 1, "to": 9000}}}, "large")))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda content: content[:-9] + b"123456789", "another checksum"),
        (lambda content: None, "cannot be read"),
    ],
)
def test_a_table_that_is_not_the_one_is_refused(done, tmp_path, change, said):
    bench, out, _ = done
    content = bench.table(out)
    table = {"file": "small.csv.gz", "sha256": hashlib.sha256(content).hexdigest()}
    if (changed := change(content)) is not None:
        (tmp_path / "small.csv.gz").write_bytes(changed)
    space = Space({**TEXT, "table": table}, "small", tmp_path)
    with pytest.raises(InputError, match=said):
        search(space, searcher="random", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_table_of_other_points_is_refused(done, tmp_path):
    bench, out, _ = done
    text = gzip.decompress(bench.table(out)).decode()
    less = gzip.compress("\n".join(text.splitlines()[:-1]).encode())
    (tmp_path / "small.csv.gz").write_bytes(less)
    table = {"file": "small.csv.gz", "sha256": hashlib.sha256(less).hexdigest()}
    with pytest.raises(InputError, match="7 rows for 8 points of small"):
        Tabled(Space({**TEXT, "table": table}, "small", tmp_path))


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("small.csv.gz", "is no table: write {file: NAME, sha256: DIGEST}"),
        ({"file": "../small.csv.gz", "sha256": "0"}, "is no file beside the space's own"),
        ({"file": 3, "sha256": "0"}, "is no table"),
    ],
)
def test_what_names_no_table(table, said, tmp_path):
    with pytest.raises(InputError, match=said):
        Space({**TEXT, "table": table}, "small", tmp_path)


@pytest.mark.parametrize(
    ("setting", "said"),
    [({"recipe": "final"}, "recipe: small has a table"), ({"epochs": 3}, "epochs: those of the table are 2")],
)
def test_settings_of_trainings_go_with_no_table(done, tmp_path, setting, said):
    bench, out, _ = done
    content = bench.table(out)
    (tmp_path / "small.csv.gz").write_bytes(content)
    table = {"file": "small.csv.gz", "sha256": hashlib.sha256(content).hexdigest()}
    with pytest.raises(InputError, match=said):
        search(Space({**TEXT, "table": table}, "small", tmp_path), out=tmp_path / "run", **setting)
