"""Tables of a part of a space: missing networks are rejected, and a resumed search stays exact."""

from __future__ import annotations

import gzip
import hashlib
import itertools

import numpy as np
import pytest

from nas_agg.common.errors import InputError
from nas_agg.search_space.encoding import Encoding
from nas_agg.search_space.space import Space
from nas_agg.study.api import search
from nas_agg.study.definition.objectives import Objectives
from nas_agg.study.proxy_ranking import rank_table
from nas_agg.study.samplers.acquisition import ExpectedImprovement
from nas_agg.study.samplers.searcher import find_searcher, installed_searchers, make_searcher
from nas_agg.study.samplers.surrogate import EncodedTrials
from nas_agg.study.tables.results_table import TabularSpace
from nas_agg.study.workers.table_lookup import TableLookupBackend

TEXT = {
    "input": [1, 8, 8],
    "classes": 10,
    "open": {"width": [2, 3, 4, 5, 6, 7, 8, 9], "kernel": [1, 3, 5], "end": ["relu", ["bn", "relu"]]},
    "net": [{"conv": "kernel", "out": "width"}, "end", "gap", {"linear": "classes"}],
}
LABELS = ('"""relu"""', '"[""bn"",""relu""]"')
POINTS = [dict(zip(TEXT["open"], point, strict=True)) for point in itertools.product(*TEXT["open"].values())]
KNOWN = 20  # of 48


def space_with_table(folder, size=KNOWN, **settings):
    """A space of 48 networks with a table of some of them, in which wide ones are best."""
    lines = ["# genes: width, kernel, end", "# value: accuracy", "# costs: params, macs", "# curve: curve"]
    lines.append("width,kernel,end,params,macs,accuracy,curve")
    points = list(itertools.product(TEXT["open"]["width"], (1, 3, 5), (0, 1)))
    for place in np.random.default_rng(0).permutation(len(points))[:size]:
        width, kernel, end = points[place]
        value = 0.3 + width / 20 + kernel / 50 - end / 100
        curve = " ".join(f"{value * epoch / 3:.4f}" for epoch in (1, 2, 3))
        costs = f"{width * kernel**2},{64 * width * kernel**2}"
        lines.append(f"{width},{kernel},{LABELS[end]},{costs},{value:.4f},{curve}")
    content = gzip.compress("\n".join(lines).encode())
    (folder / "t.csv.gz").write_bytes(content)
    table = {"file": "t.csv.gz", "sha256": hashlib.sha256(content).hexdigest(), **settings}
    return Space({**TEXT, "table": table}, "partial", folder)


def scores(result):
    return [(one.number, one.state, one.labels, one.values, one.rejected_draws, one.rungs) for one in result.trials]


@pytest.mark.parametrize("searcher", [*installed_searchers()])
def test_every_searcher_exhausts_the_table(tmp_path, searcher):
    space = space_with_table(tmp_path)
    budget = KNOWN if searcher != "gp" else 12  # its asks are slow
    result = search(space, searcher=searcher, budget=budget, out=tmp_path / "run")
    table = TabularSpace(space)
    counted = [trial for trial in result.trials if trial.consumes_budget]
    assert len(counted) == budget
    assert all(trial.value == table.row(space.values(trial.labels)).value for trial in result.trials)
    assert sum(trial.rejected_draws for trial in result.trials) > 0
    if budget == KNOWN:
        assert result.value == table.best == max(row.value for row in table.rows.values())


@pytest.mark.parametrize(
    "settings",
    [
        {"searcher": "random"},
        {"searcher": "predictor"},
        {"searcher": "nsga2", "objective": "accuracy,macs", "pruner": "halving"},
    ],
)
def test_a_resumed_search_equals_an_uninterrupted_one(tmp_path, monkeypatch, settings):
    space, start, started = space_with_table(tmp_path), TableLookupBackend.submit, []
    whole = search(space, budget=16, out=tmp_path / "whole", **settings)

    def killed(self, job, *more):
        started.append(job.number)
        if len(started) in (4, 15):
            raise KeyboardInterrupt
        start(self, job, *more)

    monkeypatch.setattr(TableLookupBackend, "submit", killed)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            search(space, budget=16, out=tmp_path / "broken", **settings)
    assert scores(search(space, budget=16, out=tmp_path / "broken", **settings)) == scores(whole)


def test_a_search_is_not_resumed_with_a_larger_table(tmp_path):
    search(space_with_table(tmp_path), searcher="random", budget=3, out=tmp_path / "run")
    with pytest.raises(InputError, match="the space partial has changed since"):
        search(space_with_table(tmp_path, KNOWN + 1), searcher="random", budget=5, out=tmp_path / "run")


def test_the_first_line_has_the_number_of_networks(tmp_path, capsys):
    search(space_with_table(tmp_path), searcher="random", budget=1, out=tmp_path / "run", show=True)
    assert "searching partial, a table of 20 networks, with random" in capsys.readouterr().out


def test_initial_points_need_a_row(tmp_path):
    space = space_with_table(tmp_path)
    has = TabularSpace(space).contains(Encoding(space).encode_many(POINTS))
    known, unknown = (next(itertools.compress(POINTS, expected)) for expected in (has, ~has))
    result = search(space, searcher="random", budget=1, start=[known], out=tmp_path / "run")
    assert result.values == known
    with pytest.raises(InputError, match=r"^start: network 2: the table has no row for this network$"):
        search(space, start=[known, unknown], out=tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_the_predictor_proposes_no_missing_network(tmp_path):
    table = TabularSpace(space_with_table(tmp_path))
    searcher = make_searcher(find_searcher("predictor"), table, 0, Objectives())
    rows = np.stack([np.frombuffer(key, np.int64) for key in table.rows])
    scores = np.array([[row.value] for row in table.rows.values()])
    none = rows[:0]
    model = ExpectedImprovement(searcher.cache, EncodedTrials(rows[:14], scores[:14], none, none), {})
    every = Encoding(table).encode_many(POINTS)
    values = model.evaluate(every)
    np.testing.assert_array_equal(np.isfinite(values), table.contains(every))
    assert np.isfinite(values).sum() == KNOWN


def test_proxies_are_ranked_on_the_images_of_the_table(tmp_path):
    import yaml

    space = space_with_table(tmp_path, dataset="digits", image_size=16)
    path, digest = space.table
    table = {"file": path.name, "sha256": digest, "dataset": "digits", "image_size": 16}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({**TEXT, "table": table}, sort_keys=False))
    ranking = rank_table(str(tmp_path / "own.yaml"), ["macs"], batch=4)
    assert (ranking.networks, ranking.dataset) == (KNOWN, "digits")
    params, macs = ranking.correlations
    assert macs.networks == params.networks == KNOWN
