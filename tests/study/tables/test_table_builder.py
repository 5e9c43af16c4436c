"""Training every network of a small space, and the table of the results."""

from __future__ import annotations

import csv
import fcntl
import gzip
import hashlib
import json

import pytest
from damage import write_lines

from nas_agg.common.errors import InputError, NasAggError
from nas_agg.compiler import compile
from nas_agg.search_space.space import Space, list_spaces, open_space
from nas_agg.search_space.table_settings import VALIDATION_SHARE, TableSettings
from nas_agg.study.api import search
from nas_agg.study.tables import bench_results
from nas_agg.study.tables.bench_results import read_results
from nas_agg.study.tables.results_table import TabularSpace
from nas_agg.study.tables.table_builder import TableBuilder, _metrics_by_epoch, all_points, train_network
from nas_agg.training.data import load_data
from nas_agg.training.loop import evaluate, train
from nas_agg.training.recipes import open_recipe

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
def finished(tmp_path_factory):
    """A finished bench in two parts, the first of which was killed in the middle of a line."""
    out, lines = tmp_path_factory.mktemp("bench"), []
    bench = TableBuilder(Space(TEXT, "small"), TableSettings(seeds=2, epochs=2))
    bench.train(out, 1, (1, 2), lines.append)
    file = out / "part-1-of-2.jsonl"
    whole = file.read_text().splitlines(keepends=True)
    file.write_text("".join(whole[:-2]) + whole[-1][:20])
    bench.train(out, 1, (1, 2), lines.append)
    bench.train(out, 2, (2, 2), lines.append)
    bench.time(out, lines.append)
    return bench, out, lines


def test_each_network_is_trained_once_per_seed(finished):
    _, out, lines = finished
    trained = read_results(out, "part")
    assert len(trained) == len({(line["hash"], line["seed"]) for line in trained}) == 12
    assert lines[0] == "6 networks; 6 trainings in this part, 6 remaining"
    assert lines[1] == "6 networks; 6 trainings in this part, 2 remaining"
    assert {line["hash"] for line in read_results(out, "times")} == {line["hash"] for line in trained}


def test_the_table_has_the_results_of_trainings(finished, tmp_path):
    bench, out, _ = finished
    content, networks = bench.table(out)
    assert networks == 6
    assert content == bench.table(out)[0]
    (tmp_path / "small.csv.gz").write_bytes(content)
    table = {"file": "small.csv.gz", "sha256": hashlib.sha256(content).hexdigest()}
    space = TabularSpace(Space({**TEXT, "table": table}, "small", tmp_path))
    values = {"width": 6, "deep": 1, "kernel": 3}
    row = space.row(values)
    accuracies = []
    for seed in (0, 1):
        data = load_data("digits", seed, validation_share=VALIDATION_SHARE)
        result = train(compile(space.genotype(values), seed), data, open_recipe("bench"), seed=seed, epochs=2)
        accuracies.append([epoch["validation_accuracy"] for epoch in result.history])
    assert row.curve == pytest.approx([sum(pair) / 2 for pair in zip(*accuracies, strict=True)], abs=1e-4)
    assert row.value == pytest.approx(row.curve[-1], abs=1e-4)
    assert (row.params, row.macs) == (448, 64 * (54 + 324) + 60)
    assert row.extra_metrics["latency_ms"] > 0 and row.extra_metrics["seconds"] > 0
    assert space.row({**values, "deep": 0}).hash == space.row({**values, "deep": 0, "kernel": 1}).hash
    result = search(
        Space({**TEXT, "table": table}, "small", tmp_path), searcher="random", budget=50, out=tmp_path / "run"
    )
    assert len([trial for trial in result.trials if trial.consumes_budget]) == 6
    assert result.value == max(row.value for row in space.rows.values())
    assert json.loads((tmp_path / "run/best/genotype.json").read_text())["let"] == result.values


def test_objectives_need_a_column_of_the_table(finished, tmp_path):
    bench, _, _ = finished
    content, _ = bench.table(finished[1])
    (tmp_path / "small.csv.gz").write_bytes(content)
    table = {"file": "small.csv.gz", "sha256": hashlib.sha256(content).hexdigest()}
    space = Space({**TEXT, "table": table}, "small", tmp_path)
    rows = TabularSpace(space).rows.values()
    for objective, figure in (("loss", "loss"), ("latency,loss", "latency_ms")):
        result = search(space, searcher="random", objective=objective, budget=50, out=tmp_path / objective)
        assert result.value == min(row.extra_metrics[figure] for row in rows)
    with pytest.raises(InputError, match="has no loss at rungs"):
        search(space, objective="loss", pruner="halving", searcher="random", out=tmp_path / "run")
    text = gzip.decompress(content).decode().replace("latency_ms", "slowness")
    content_without_latency = gzip.compress(text.encode())
    (tmp_path / "small.csv.gz").write_bytes(content_without_latency)
    other = Space(
        {**TEXT, "table": {**table, "sha256": hashlib.sha256(content_without_latency).hexdigest()}}, "small", tmp_path
    )
    with pytest.raises(InputError, match="has no column for latency"):
        search(other, objective="loss,latency", searcher="random", out=tmp_path / "run")


def copy_results(out, folder):
    """A copy of a folder of results."""
    for file in out.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_a_partial_table_has_means_over_the_finished_seeds(finished, tmp_path):
    bench, out, _ = finished
    part = copy_results(out, tmp_path) / "part-2-of-2.jsonl"
    others = part.read_text().splitlines(keepends=True)
    last = next(other for other in reversed(others) if json.loads(other)["seed"] == 1)  # workers end in any order
    others.remove(last)
    part.write_text("".join(others))  # its network has its first seed alone
    line = json.loads(last)
    (remaining,) = [
        result for result in read_results(out, "part") if result["hash"] == line["hash"] and result["seed"] == 0
    ]
    hashes = [json.loads(other)["hash"] for other in others]
    gone = next(other for other in hashes if other != line["hash"])  # and another is not timed
    times = [result for result in read_results(out, "times") if result["hash"] != gone]
    write_lines(tmp_path / "times.jsonl", times)
    content, networks = bench.table(tmp_path)
    assert networks == 5
    text = gzip.decompress(content).decode().splitlines()
    assert "; 5 of 6 networks; seeds 0 (1 network), 0 to 1 (4 networks); " in text[0]
    rows = list(csv.DictReader(text[6:]))
    assert {row["hash"] for row in rows} == {result["hash"] for result in times}
    (row,) = [row for row in rows if row["hash"] == line["hash"]][:1]
    assert row["right0"] == " ".join(map(str, remaining["right"])) and row["right1"] == ""
    assert float(row["accuracy"]) == pytest.approx(remaining["right"][-1] / remaining["images"], abs=1e-6)
    assert float(row["test_accuracy"]) == pytest.approx(remaining["test"] / remaining["test_images"], abs=1e-6)


def test_without_separate_times_those_of_the_trainings_are_used(finished, tmp_path):
    bench, out, _ = finished
    (copy_results(out, tmp_path) / "times.jsonl").unlink()
    content, networks = bench.table(tmp_path)
    assert networks == 6
    text = gzip.decompress(content).decode().splitlines()
    assert "seconds: of the processor, of a training" in text[0]
    row = next(csv.DictReader(text[6:]))
    own = [line for line in read_results(out, "part") if line["hash"] == row["hash"]]
    assert float(row["seconds"]) == pytest.approx(sum(line["seconds"] for line in own) / 2, abs=1e-3)
    assert float(row["latency_ms"]) == min(line["latency_ms"] for line in own) > 0


def test_missing_results_and_damaged_lines_are_errors(finished, tmp_path):
    bench, out, _ = finished
    with pytest.raises(InputError, match="no network is trained and timed yet; run nas_agg bench"):
        bench.table(tmp_path)
    part = copy_results(out, tmp_path) / "part-2-of-2.jsonl"
    part.write_text("{nonsense\n" + part.read_text())
    with pytest.raises(NasAggError, match=r"part-2-of-2\.jsonl: line 1 is damaged"):
        bench.table(tmp_path)
    with pytest.raises(InputError, match="points are too many for a table of up to 20,000"):
        next(all_points(Space({**TEXT, "open": {**TEXT["open"], "width": {"from": 1, "to": 9000}}}, "large")))


def test_a_seed_draws_the_order_of_training(tmp_path):
    space, lines = Space(TEXT, "small"), []
    orders = [list(TableBuilder(space, TableSettings(order_seed=seed)).networks) for seed in (None, 0, 0, 1)]
    assert orders[0] == sorted(orders[0]) and orders[1] == orders[2]
    assert len({tuple(order) for order in orders}) == 3 and all(set(order) == set(orders[0]) for order in orders)
    settings = TableSettings(order_seed=1, seeds=1, epochs=2)
    TableBuilder(space, settings, limit=2).train(tmp_path, 1, (1, 1), lines.append)
    TableBuilder(space, settings, limit=3).train(tmp_path, 1, (1, 1), lines.append, minutes=0)
    assert [line["hash"] for line in read_results(tmp_path, "part")] == orders[3][:2]
    assert lines[1:] == [
        "3 networks; 3 trainings in this part, 1 remaining",
        "0 of 1; timeout reached, rerun the command to resume",
    ]
    text = gzip.decompress(TableBuilder(space, settings).table(tmp_path)[0]).decode()
    assert "2 of 6 networks; trained in an order drawn by seed 1; seeds 0;" in text


def test_only_the_best_by_the_first_seed_get_more_seeds(finished, tmp_path):
    _, out, _ = finished
    first = [line for line in read_results(out, "part") if line["seed"] == 0]
    write_lines(tmp_path / "part-1-of-1.jsonl", first)
    bench, lines = TableBuilder(Space(TEXT, "small"), TableSettings(seeds=2, epochs=2), best=2), []
    for _ in range(2):  # what the second seeds have changes nothing of who is best
        bench.train(tmp_path, 1, (1, 1), lines.append)
    more = [line for line in read_results(tmp_path, "part") if line["seed"] == 1]
    best = sorted(first, key=lambda line: (-line["right"][-1], line["hash"]))[:2]
    assert [line["hash"] for line in more] == [line["hash"] for line in best]
    assert lines == [f"2 networks; 4 trainings in this part, {remaining} remaining" for remaining in (2, 0)]
    counted = {(line["hash"], line["seed"]): line["right"] for line in read_results(out, "part")}
    assert all(line["right"] == counted[line["hash"], 1] for line in more)


def test_trainings_follow_the_settings(tmp_path):
    settings = TableSettings(
        image_size=4, train_images=96, validation_images=200, split_seed=5, batch_size=48, epochs=2, recipe="search"
    )
    bench = TableBuilder(Space(TEXT, "small"), settings)
    assert bench.points[-1].macs == 16 * (54 + 324) + 60  # counted on the images that are trained on
    entry = bench.points[-1]
    data = load_data("digits", 5, image_size=4, train_images=96, validation_images=200)
    assert (len(data.train), len(data.validation)) == (96, 200)
    genotype = bench.space.genotype(entry.values, data.input)
    recipe = open_recipe("search").model_copy(update={"batch_size": 48})
    for seed in (0, 3):
        model = compile(genotype, seed)
        history = train(model, data, recipe, seed=seed, epochs=2).history
        line = train_network(entry.hash, seed, genotype.to_json(), settings)
        assert line["right"] == [round(200 * epoch["validation_accuracy"]) for epoch in history]
        assert line["loss"] == [round(epoch["validation_loss"], 4) for epoch in history]
        assert line["test"] == evaluate(model, data.test, data)["correct"]
        assert (line["images"], line["test_images"]) == (200, len(data.test))


def test_the_header_describes_the_trainings(tmp_path):
    settings = TableSettings(
        image_size=4, train_images=96, validation_images=200, split_seed=5, batch_size=48, epochs=2, seeds=1
    )
    bench = TableBuilder(Space(TEXT, "small"), settings, limit=1)
    bench.train(tmp_path, 1, (1, 1), lambda line: None)
    header = gzip.decompress(bench.table(tmp_path)[0]).decode().splitlines()[0]
    assert header.startswith(
        "# recipe: small on digits at 4x4; recipe bench with batches of 48; 2 epochs; 1 of 6 networks; seeds 0; "
        "200 images validate, 96 others train, drawn once, by seed 5; right: how many"
    )


def test_counts_by_running_statistics_have_columns_of_their_own(finished, tmp_path):
    history = [{"validation_accuracy": 0.5, "validation_loss": 1.23456, "validation_accuracy_running_statistics": 0.1}]
    assert _metrics_by_epoch(history, 10) == {"right": [5], "right_running": [1], "loss": [1.2346]}
    bench, out, _ = finished
    path = copy_results(out, tmp_path) / "part-1-of-2.jsonl"
    (line, *others) = read_results(out, "part-1")
    changed = [line | {"right_running": [7, 8]}, *others]
    write_lines(path, changed)
    text = gzip.decompress(bench.table(tmp_path)[0]).decode().splitlines()
    row = next(row for row in csv.DictReader(text[6:]) if row["hash"] == line["hash"])
    assert row["right_running0"] == "7 8" and row["right0"] == " ".join(map(str, line["right"]))


def test_trainings_with_other_settings_are_not_mixed(finished, tmp_path):
    bench, out, _ = finished
    copy_results(out, tmp_path)
    other = TableBuilder(bench.space, bench.settings.model_copy(update={"epochs": 3}))
    with pytest.raises(InputError, match=r"settings\.json: trainings with epochs 2, not 3; choose another --out"):
        other.train(tmp_path, 1, (1, 1), lambda line: None)
    with (tmp_path / "part-2-of-2.jsonl").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another process is writing to it"):
            bench.train(tmp_path, 1, (2, 2), lambda line: None)


def test_shipped_tables_match_the_settings_of_their_spaces():
    for name in list_spaces():
        space = open_space(name)
        if space.table is not None:
            file, bench = space.table[0], TableBuilder(space, space.table_settings)
            lines = gzip.decompress(file.read_bytes()).decode().splitlines()
            settings = bench.settings
            size = f" at {settings.image_size}x{settings.image_size}" if settings.image_size else ""
            assert lines[0].startswith(f"# recipe: {name} on {settings.dataset}{size}; recipe {settings.recipe}")
            assert f"; {settings.epochs} epochs; " in lines[0]


def test_the_command_trains_and_writes_the_table(run, tmp_path, monkeypatch):
    monkeypatch.setattr(bench_results, "PROGRESS_INTERVAL", 1e9)
    (tmp_path / "small.json").write_text(json.dumps({**TEXT, "table": {"epochs": 2, "seeds": 1}}))
    words = ("bench", "--space", "small.json", "--out", "out", "--workers", "2", "--limit", "2")
    status, out, err = run(*words)
    assert (status, out, err) == (0, "2 networks; 2 trainings in this part, 2 remaining\n", "")
    status, out, _ = run(*words, "--table", "small.csv.gz")
    digest = hashlib.sha256((tmp_path / "small.csv.gz").read_bytes()).hexdigest()
    assert status == 0
    assert out.startswith("small.csv.gz: 2 of 6 networks, ") and out.endswith(f"sha256 {digest}\n")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content[:-9] + b"123456789", "the checksum is not the one that the space small specifies"),
        (lambda content: None, "cannot be read"),
    ],
)
def test_a_table_with_another_checksum_is_rejected(finished, tmp_path, change, message):
    bench, out, _ = finished
    content, _ = bench.table(out)
    table = {"file": "small.csv.gz", "sha256": hashlib.sha256(content).hexdigest()}
    if (changed := change(content)) is not None:
        (tmp_path / "small.csv.gz").write_bytes(changed)
    space = Space({**TEXT, "table": table}, "small", tmp_path)
    with pytest.raises(InputError, match=message):
        search(space, searcher="random", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_table_of_other_points_is_rejected(finished, tmp_path):
    bench, out, _ = finished
    text = gzip.decompress(bench.table(out)[0]).decode()
    other = gzip.compress(text.replace("\n6,", "\n7,").encode())
    (tmp_path / "small.csv.gz").write_bytes(other)
    table = {"file": "small.csv.gz", "sha256": hashlib.sha256(other).hexdigest()}
    with pytest.raises(InputError, match="7 is not a value of the space"):
        TabularSpace(Space({**TEXT, "table": table}, "small", tmp_path))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("small.csv.gz", "is not a table; write {file: NAME, sha256: DIGEST}"),
        ({"file": "../small.csv.gz", "sha256": "0"}, "is not the name of a file in the folder"),
        ({"file": 3, "sha256": "0"}, "is not a table"),
        ({"file": "small.csv.gz"}, "is not a table"),
        ({"data": "digits"}, "table.data: unknown field; did you mean 'dataset'"),
        ({"epochs": 1}, "table.epochs: input should be greater than or equal to 2, not 1"),
        ({"image_size": "16"}, "table.image_size: input should be a valid integer, not '16'"),
    ],
)
def test_invalid_table_settings_are_rejected(table, message, tmp_path):
    with pytest.raises(InputError, match=message):
        Space({**TEXT, "table": table}, "small", tmp_path)


@pytest.mark.parametrize(
    ("setting", "message"),
    [({"recipe": "final"}, "recipe: small has a table"), ({"epochs": 3}, "epochs: the table has 2; omit it")],
)
def test_training_settings_are_rejected_for_a_table(finished, tmp_path, setting, message):
    bench, out, _ = finished
    content, _ = bench.table(out)
    (tmp_path / "small.csv.gz").write_bytes(content)
    table = {"file": "small.csv.gz", "sha256": hashlib.sha256(content).hexdigest()}
    with pytest.raises(InputError, match=message):
        search(Space({**TEXT, "table": table}, "small", tmp_path), out=tmp_path / "run", **setting)
