"""Candidates screened by a proxy: the selection, which depends on genotype, seed and data set alone."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest

from nas_agg.common.errors import InputError
from nas_agg.language.genotype import Genotype
from nas_agg.study.api import search
from nas_agg.study.samplers import screening
from nas_agg.study.samplers.proxy_scorer import PROXIES, ProxyScorer
from nas_agg.study.samplers.screening import ProxyScreener
from nas_agg.training.data import load_data

DIGITS = {"spec": "digits", "seed": 0, "image_size": None, "min_side": None}


def network(width: int, kernel: int = 3, **first) -> Genotype:
    """A network for the digits; ``first`` are fields of its first convolution."""
    net = [{"conv": kernel, "out": width, **first}, "bn", "relu", "gap", {"linear": "classes"}]
    return Genotype.from_dict({"input": [1, 8, 8], "classes": 10, "net": net})


WIDTHS = (3, 12, 5, 8)
NETWORKS = [network(width) for width in WIDTHS]
BROKEN = network(9, 20, padding=0)  # larger than 8x8 images


@pytest.mark.parametrize("proxy", ["params", "macs", "synflow", "naswot"])
def test_proxies_that_prefer_width_select_the_widest(proxy: str) -> None:
    assert ProxyScreener(proxy, 4, DIGITS, 0).best(NETWORKS) == 1


@pytest.mark.parametrize("proxy", PROXIES)
def test_scores_do_not_depend_on_the_order_of_candidates(proxy: str) -> None:
    screen = ProxyScreener(proxy, 4, DIGITS, 7)
    scores = [screen.score(genotype) for genotype in NETWORKS]
    later = ProxyScreener(proxy, 4, DIGITS, 7)
    assert [later.score(genotype) for genotype in reversed(NETWORKS)] == scores[::-1]
    assert screen.best(NETWORKS) == int(np.argmax(scores)) == later.best(NETWORKS)
    direct = ProxyScorer(load_data("digits"), 7).scores(NETWORKS[2], [proxy])[proxy]
    assert scores[2] == direct
    if proxy not in ("params", "macs"):
        assert ProxyScreener(proxy, 4, DIGITS, 8).score(NETWORKS[2]) != scores[2]


def test_a_network_is_scored_once(monkeypatch: pytest.MonkeyPatch) -> None:
    scored = []

    def scores_or_nan(self, genotype, names):
        scored.append(genotype)
        return {"snip": genotype.to_dict()["net"][0]["out"]}

    monkeypatch.setattr(ProxyScorer, "scores_or_nan", scores_or_nan)
    screen = ProxyScreener("snip", 3, DIGITS, 0)
    assert screen.best(NETWORKS) == screen.best([*NETWORKS, network(4)]) == 1
    assert scored == [*NETWORKS, network(4)]


@pytest.mark.parametrize("score", [math.inf, -math.inf, math.nan])
def test_scores_that_are_not_finite_rank_last(score: float, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = dict(zip(NETWORKS, [score, -5.0, score, -9.0], strict=True))
    monkeypatch.setattr(ProxyScreener, "_score", lambda self, genotype: scores[genotype])
    assert ProxyScreener("zen", 4, DIGITS, 0).best(NETWORKS) == 1
    assert ProxyScreener("zen", 4, DIGITS, 0).best([NETWORKS[2], NETWORKS[0]]) == 0


@pytest.mark.parametrize("proxy", PROXIES)
def test_invalid_networks_rank_last_and_the_first_of_equals_is_selected(proxy: str) -> None:
    screen = ProxyScreener(proxy, 4, DIGITS, 0)
    assert screen.score(BROKEN) == -math.inf
    assert screen.best([BROKEN, NETWORKS[0], NETWORKS[0]]) == 1
    assert screen.best([BROKEN, BROKEN]) == 0


def test_running_out_of_memory_does_not_end_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    from nas_agg.training import proxies

    class Hungry(proxies.Proxy):
        def score(self, graph, sample, seed):
            if graph.shapes[1][0] == 12:
                raise MemoryError
            return float(graph.shapes[1][0])

    monkeypatch.setitem(proxies.PROXIES, "zen", Hungry())
    assert ProxyScreener("zen", 4, DIGITS, 0).best(NETWORKS) == 3


def test_invalid_arguments_are_rejected_in_one_line() -> None:
    for arguments, line in (
        (("synflo", 4, DIGITS, 0), "unknown proxy 'synflo'; did you mean 'synflow'\\?"),
        (("synflow", 0, DIGITS, 0), "candidates: must be 1 or more, not 0"),
        (("synflow", 4, None, 0), "proxy: synflow needs images; specify a data set, or use params or macs"),
    ):
        with pytest.raises(InputError, match=line):
            ProxyScreener(*arguments)
    assert ProxyScreener("params", 4, None, 0).best(NETWORKS) == 1


def test_torch_is_imported_at_the_first_score() -> None:
    code = f"""
import sys
from nas_agg.language.genotype import Genotype
from nas_agg.study.samplers.screening import ProxyScreener
network = Genotype.from_dict({NETWORKS[0].to_dict()})
screens = [ProxyScreener(proxy, 4, {DIGITS}, 0) for proxy in ("params", "macs", "zen")]
screens[0].best([network]), screens[1].best([network])
print("torch" in sys.modules, "sklearn" in sys.modules)
screens[2].best([network])
print("torch" in sys.modules)
"""
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output == "False False\nTrue\n"


def test_the_data_set_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    monkeypatch.setattr(
        "nas_agg.training.data.load_data", lambda **arguments: read.append(arguments) or load_data(**arguments)
    )
    screen = screening.ProxyScreener("synflow", 4, DIGITS, 0)
    assert not read
    screen.best(NETWORKS)
    assert read == [DIGITS]


def test_a_search_trains_the_best_of_its_candidates(wide, score):
    settings = {"searcher": "random", "seed": 2}
    unscreened = search(wide, score, budget=8, **settings)
    screened = search(wide, score, budget=8, proxy="params", proxy_candidates=6, **settings)
    params = [sorted(trial.params for trial in result.trials) for result in (unscreened, screened)]
    assert params[1][0] > params[0][0]
    assert params[1][3] > 1.5 * params[0][3]
    assert len({trial.hash for trial in screened.trials}) == 8
    repeated = search(wide, score, budget=8, proxy="params", proxy_candidates=6, **settings)
    assert [trial.labels for trial in repeated.trials] == [trial.labels for trial in screened.trials]


def test_initial_points_are_not_screened(wide, score):
    start = [{"width": 3, "deep": 0, "kernel": 1, "end": "relu"}]
    result = search(wide, score, budget=2, proxy="params", proxy_candidates=10, start=start, searcher="random")
    assert wide.values(result.trials[0].labels) == start[0]


def test_a_screened_search_ends_when_the_space_is_exhausted(tiny, score):
    result = search(tiny, score, budget=1000, proxy="macs", proxy_candidates=4, searcher="random")
    assert len({trial.hash for trial in result.trials}) == len(result.trials) > 40
    assert "no other network" in result.reason


def test_a_proxy_that_needs_images_is_rejected_without_a_data_set(tiny, score, tmp_path):
    with pytest.raises(InputError, match="proxy: naswot needs images; specify a data set"):
        search(tiny, score, proxy="naswot", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
