"""Rank correlations of proxies: the statistics, the reading of runs, and the cache of scores."""

from __future__ import annotations

import csv
import itertools
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest
from damage import edit_sealed
from scipy import stats

import nas_agg
from nas_agg.common.errors import InputError, NasAggError
from nas_agg.language.genotype import Genotype
from nas_agg.search_space.space import Space, open_space
from nas_agg.study import proxy_ranking as ranking
from nas_agg.study.proxy_ranking import Correlation, correlations, rank_genotypes, rank_run, rank_table
from nas_agg.study.records import proxy_score_cache
from nas_agg.study.records.journal import JOURNAL
from nas_agg.study.records.run_folder import RunFolder
from nas_agg.study.samplers.proxy_scorer import ZERO_COST_PROXIES, ProxyScorer
from nas_agg.study.tables.results_table import TabularSpace
from nas_agg.training.data import Data, load_data

# ---- statistics


def test_scores_that_rise_with_results_rank_perfectly() -> None:
    results = [0.1, 0.5, 0.2, 0.9, 0.4]
    up, down, flat = correlations(
        {"params": [math.exp(9 * y) for y in results], "zen": [-y for y in results], "macs": [3.0] * 5}, results
    )
    assert (up.kendall, up.spearman, down.kendall, down.spearman) == pytest.approx((1, 1, -1, -1))
    assert up.kendall_interval == pytest.approx((1, 1)) and down.spearman_interval == pytest.approx((-1, -1))
    assert (flat.kendall, flat.kendall_interval, flat.spearman, flat.spearman_interval) == (None,) * 4
    assert correlations({"params": results}, [0.5] * 5)[0].kendall is None


def test_ties_count_as_in_tau_b_and_mean_ranks() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(6, size=30), rng.integers(6, size=30)
    (result,) = correlations({"snip": x}, y)
    signs = [(np.sign(x[j] - x[i]), np.sign(y[j] - y[i])) for i, j in itertools.combinations(range(30), 2)]
    lengths = [sum(abs(pair[k]) for pair in signs) for k in (0, 1)]
    assert result.kendall == pytest.approx(sum(a * b for a, b in signs) / math.sqrt(lengths[0] * lengths[1]))
    ranks = [[np.mean(np.flatnonzero(np.sort(v) == one)) for one in v] for v in (x, y)]
    assert result.spearman == pytest.approx(np.corrcoef(ranks)[0, 1])


def test_intervals_are_percentiles_of_resampled_networks() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=20)
    y = np.round(x + rng.normal(size=20), 1)
    (result,) = correlations({"snip": x}, y, seed=4)
    draws = np.random.default_rng(99).integers(20, size=(1000, 20))
    for low_high, function in (
        (result.kendall_interval, stats.kendalltau),
        (result.spearman_interval, stats.spearmanr),
    ):
        expected = np.percentile([function(x[draw], y[draw]).statistic for draw in draws], (2.5, 97.5))
        assert low_high == pytest.approx(expected, abs=0.06), "of other draws"
    same, other = correlations({"snip": x}, y, seed=4)[0], correlations({"snip": x}, y, seed=5)[0]
    assert same == result
    assert other.kendall == result.kendall and other.kendall_interval != result.kendall_interval


def test_intervals_cover_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "RESAMPLES", 150)
    rng, truth, covered = np.random.default_rng(2), 2 / math.pi * math.asin(0.6), 0
    for seed in range(60):
        x, noise = rng.normal(size=(2, 40))
        (result,) = correlations({"snip": x}, 0.6 * x + 0.8 * noise, seed)
        low, high = result.kendall_interval or (1, 0)
        covered += low <= truth <= high
    assert 50 <= covered <= 60


def test_scores_that_are_not_finite_are_excluded() -> None:
    results = [1.0, 2.0, 3.0, 4.0, 5.0]
    some, few = correlations(
        {"zen": [1, math.nan, 3, math.inf, 9], "snip": [1, math.nan, 3, -math.inf, math.nan]}, results
    )
    assert (some.networks, some.excluded, some.kendall) == (3, 2, pytest.approx(1))
    assert few == Correlation("snip", 2, 3, None, None, None, None)
    with pytest.raises(InputError, match="2 networks: at least 3 are needed"):
        correlations({"zen": [1, 2]}, [1, 2])
    with pytest.raises(InputError, match="results: a result is not finite"):
        correlations({"zen": [1, 2, 3]}, [1, 2, math.nan])


def test_overlap() -> None:
    def of(*interval: float) -> Correlation:
        return Correlation("zen", 9, 0, 0.0, interval or None, None, None)  # type: ignore[arg-type]

    assert of(0.1, 0.4).overlaps(of(0.3, 0.5)) and of(0.3, 0.5).overlaps(of(0.1, 0.4))
    assert of(0.1, 0.9).overlaps(of(0.3, 0.5)) and of().overlaps(of(0.3, 0.5))
    assert not of(0.1, 0.2).overlaps(of(0.3, 0.5)) and not of(0.6, 0.7).overlaps(of(0.3, 0.5))


# ---- networks


@pytest.fixture(scope="module")
def data() -> Data:
    return load_data("digits")


def network(width: int, deep: int = 1) -> Genotype:
    unit = [{"conv": 3, "out": width}, "bn", "relu"]
    return Genotype.from_dict({"input": [1, 8, 8], "classes": 10, "net": [*unit * deep, "gap", {"linear": "classes"}]})


def test_genotypes_are_ranked(data: Data) -> None:
    networks = [network(width) for width in (2, 64, 8, 24)]
    progress = []
    result = rank_genotypes(
        networks, [0.2, 0.9, 0.4, 0.6], data, ["synflow"], report=lambda *done: progress.append(done)
    )
    assert [c.proxy for c in result] == ["params", "macs", "synflow"]
    assert [c.kendall for c in result] == pytest.approx([1, 1, 1])
    assert progress == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert [c.proxy for c in rank_genotypes(networks, [1, 2, 3, 4], data)] == list(ZERO_COST_PROXIES)
    with pytest.raises(InputError, match="4 genotypes and 3 accuracies"):
        rank_genotypes(networks, [1, 2, 3], data)


def test_scores_are_averaged_over_initializations(data: Data) -> None:
    networks, results = [network(width, deep) for width, deep in ((2, 3), (3, 1), (4, 2), (5, 1))], [4, 2, 1, 3]
    scorer = ProxyScorer(data, 3)
    means = [np.mean([scorer.scores(one, ["snip"], init)["snip"] for init in range(3)]) for one in networks]
    (expected,) = correlations({"snip": means}, results, 3)
    assert rank_genotypes(networks, results, data, ["snip"], seed=3, inits=3)[2] == expected


# ---- runs


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a user's function: 12 networks, some of which were stopped early."""
    unit = [{"conv": 3, "out": "width"}, "bn", "relu"]
    names = {"width": {"from": 2, "to": 6}, "kernel": [1, 3, 5]}
    net = [{"conv": "kernel", "out": "width"}, *unit, "gap", {"linear": "classes"}]
    path = tmp_path_factory.mktemp("made") / "run"
    space = Space({"input": [1, 8, 8], "classes": 10, "open": names, "net": net}, "small")

    def score(genotype: Genotype, trial: optuna.Trial) -> float:
        if trial.number % 4 == 3:
            trial.report(0.0, 1)
            raise optuna.TrialPruned
        return 1 / (1 + abs(genotype.to_dict()["let"]["width"] - 4)) + trial.number / 100

    nas_agg.search(space, score, searcher="random", budget=12, out=path)
    return path


@pytest.fixture
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the run, ranked with few resamples."""
    monkeypatch.setattr(ranking, "RESAMPLES", 20)
    return Path(shutil.copytree(made, tmp_path / "run"))


def trials(folder: Path) -> list[dict[str, str]]:
    with (folder / "trials.csv").open() as file:
        return [row for row in csv.DictReader(file) if row["state"] == "complete"]


def rewrite(folder: Path, **changes) -> None:
    edit_sealed(folder / "run.json", **changes)


def test_a_run_is_ranked_like_its_networks(folder: Path, data: Data) -> None:
    done = trials(folder)
    assert len(done) == 10 < len(list((folder / "trials").iterdir()))
    result = rank_run(folder, ["snip"], dataset="digits", seed=2)
    networks = [nas_agg.load(f"{folder}:{row['number']}") for row in done]
    assert result.correlations == rank_genotypes(
        networks, [float(row["value"]) for row in done], data, ["snip"], seed=2
    )
    assert (result.metric, result.networks, result.dataset) == ("value", len(done), "digits")
    assert rank_run(folder, ["snip"], dataset="digits", limit=3).networks == 3


def test_a_run_in_progress_is_only_read(folder: Path) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    held = RunFolder(folder)
    try:
        rank_run(folder, ["zen"], dataset="digits")
    finally:
        held.close()
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert after.pop(folder / "proxies.json")
    assert after == before


def test_scores_are_computed_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = rank_run(folder, ["zen"], dataset="digits", inits=2)
    with monkeypatch.context() as context:
        context.setattr(ranking, "ProxyScorer", None)
        assert rank_run(folder, ["zen"], dataset="digits", inits=2) == first
        assert rank_run(folder, dataset="digits", proxies=["macs"]).correlations == first.correlations[:2]
    requested = count(monkeypatch)
    for more in ({"inits": 3}, {"seed": 1}, {"batch": 32}):
        rank_run(folder, ["zen"], dataset="digits", **more)  # type: ignore[arg-type]
        assert requested.pop(0)[0] == (2 if "inits" in more else 0)
        requested.clear()
    rank_run(folder, ["zen", "snip"], dataset="digits")
    assert {tuple(names) for _, names in requested} == {("snip",)}


def count(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, list[str]]]:
    """The scores that are computed from now on."""
    requested, plainly = [], ProxyScorer.scores_or_nan

    def scores_or_nan(self, genotype, names, init=0):
        requested.append((init, list(names)))
        return plainly(self, genotype, names, init)

    monkeypatch.setattr(ProxyScorer, "scores_or_nan", scores_or_nan)
    return requested


def test_an_interrupted_ranking_is_resumed(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(done: int, count: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rank_run(folder, ["zen"], dataset="digits", report=stop)
    requested = count(monkeypatch)
    result = rank_run(folder, ["zen"], dataset="digits")
    assert len(requested) == result.networks - 2
    (folder / "proxies.json").unlink()
    assert rank_run(folder, ["zen"], dataset="digits") == result


@pytest.mark.parametrize(
    "text",
    ["", "{", "[1]", '{"a": 1}', '{"a": {"b": {"zen": ["x"]}}}', '{"a": {"b": {"zen": 1}}}', "[" * 9999, b"\xff"],
)
def test_damaged_scores_are_computed_again(folder: Path, text: str | bytes) -> None:
    first = rank_run(folder, ["zen"], dataset="digits")
    (folder / "proxies.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert rank_run(folder, ["zen"], dataset="digits") == first
    assert json.loads((folder / "proxies.json").read_text())


def test_infinite_scores_are_saved_and_failures_are_not(tmp_path: Path) -> None:
    path = tmp_path / "proxies.json"
    scores = proxy_score_cache.ScoreCache(path, "a")
    scores.scores["x"] = {"zen": [1.5, math.inf, -math.inf], "snip": [2.0, math.nan, 3.0]}
    scores.write()
    json.loads(path.read_text(), parse_constant=lambda text: pytest.fail(text))
    assert proxy_score_cache.ScoreCache(path, "a").scores == {"x": {"zen": [1.5, math.inf, -math.inf], "snip": [2.0]}}
    other = proxy_score_cache.ScoreCache(path, "b")
    assert other.scores == {}
    other.scores["x"] = {"zen": [7.0]}
    other.write()
    assert proxy_score_cache.ScoreCache(path, "a").scores["x"]["snip"] == [2.0], "of others too"


def test_a_run_of_another_user(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = rank_run(folder, ["zen"], dataset="digits")
    (folder / "proxies.json").unlink()

    def refuse(path, text, **options):
        raise NasAggError(f"{path}: cannot be written: Permission denied")

    monkeypatch.setattr(proxy_score_cache, "write_atomic", refuse)
    result = rank_run(folder, ["zen"], dataset="digits")
    assert result.correlations == expected.correlations
    assert result.cache_error.endswith("proxies.json: cannot be written: Permission denied")


def test_a_run_has_its_data_set_and_metric(folder: Path, data: Data, monkeypatch) -> None:
    with pytest.raises(InputError, match=r"not trained on a data set; specify one with --dataset"):
        rank_run(folder)
    rewrite(folder, evaluate=False, data={"spec": "digits", "seed": 3, "image_size": 16, "min_side": None})
    result = rank_run(folder, ["zen"])
    assert (result.metric, result.dataset) == ("accuracy", "digits")
    networks = [nas_agg.load(f"{folder}:{row['number']}") for row in trials(folder)]
    own = load_data("digits", 3, 16)
    results = [float(row["value"]) for row in trials(folder)]
    assert result.correlations == rank_genotypes(networks, results, own, ["zen"])
    read = ranking.read_saved_trials

    def by_size(*arguments):
        return [replace(trial, accuracy=1 / trial.params) for trial in read(*arguments)]

    monkeypatch.setattr(ranking, "read_saved_trials", by_size)
    assert rank_run(folder, ["zen"]).correlations[0].kendall == pytest.approx(-1), "accuracy, not the weighed value"


def test_a_minimized_value_is_negated(folder: Path) -> None:
    plain = rank_run(folder, ["macs"], dataset="digits").correlations
    settings = json.loads((folder / "run.json").read_text())["settings"]
    rewrite(folder, settings=settings | {"objective": ["error:min"]})
    turned = rank_run(folder, ["macs"], dataset="digits")
    assert turned.metric == "error"
    assert [c.kendall for c in turned.correlations] == pytest.approx([-c.kendall for c in plain])


def test_reasons_of_excluded_scores(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nas_agg.training import proxies

    class Odd(proxies.Proxy):
        def score(self, graph, sample, seed):
            wide = graph.shapes[1][0]
            if wide == 2:
                raise RuntimeError("too narrow")
            return math.inf if wide == 3 else wide

    monkeypatch.setitem(proxies.PROXIES, "zen", Odd())
    result = rank_run(folder, ["zen"], dataset="digits")
    widths = [nas_agg.load(f"{folder}:{row['number']}").to_dict()["let"]["width"] for row in trials(folder)]
    assert {2, 3} < set(widths)
    assert result.correlations[2].excluded == sum(width in (2, 3) for width in widths)
    assert result.correlations[0].excluded == 0
    assert result.failed == {"zen": "RuntimeError: too narrow"}


def test_errors_of_a_ranking_are_one_line(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a run folder"):
        rank_run(tmp_path / "ruin")
    with pytest.raises(InputError, match="unknown proxy 'zem'; did you mean 'zen'"):
        rank_run(folder, ["zem"])
    table = (folder / "trials.csv").read_text()
    (folder / "trials.csv").write_text(table.replace(",complete,", ",pruned,", 1))
    with pytest.raises(InputError, match=r"trials.csv: row \d+ is damaged"):
        rank_run(folder, dataset="digits")
    (folder / "trials.csv").write_text(table)
    journal = (folder / JOURNAL).read_bytes()
    (folder / JOURNAL).write_bytes(journal.split(b'"op_code":4')[0].rpartition(b"\n")[0] + b"\n")
    with pytest.raises(InputError, match=r"study.journal: damaged"):
        rank_run(folder, dataset="digits")
    rewrite(folder, status="stopped")
    (folder / "trials.csv").unlink()
    with pytest.raises(InputError, match="0 networks trained in full so far; at least 3 are needed"):
        rank_run(folder, dataset="digits")
    (folder / JOURNAL).write_bytes(journal)
    shutil.rmtree(folder / "trials")
    with pytest.raises(InputError, match="trial 0 has no genotype"):
        rank_run(folder, dataset="digits")
    rewrite(folder, study=None)
    with pytest.raises(InputError, match="the run folder of a standalone training, not of a search"):
        rank_run(folder)


def test_a_table_is_ranked_like_a_run():
    ranking = rank_table("agg-bench", ["params", "macs"], limit=200)
    assert (ranking.networks, ranking.dataset, ranking.metric) == (200, "digits", "accuracy")
    assert [c.proxy for c in ranking.correlations] == ["params", "macs"]
    space = TabularSpace(open_space("agg-bench"))
    rows = sorted({row.hash: row for row in space.rows.values()}.items())[:200]
    tau = stats.kendalltau([row.params for _, row in rows], [row.value for _, row in rows]).statistic
    assert ranking.correlations[0].kendall == pytest.approx(tau)
    with pytest.raises(InputError, match="densenet: this space has no table"):
        rank_table("densenet")
