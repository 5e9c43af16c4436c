"""Candidates screened by a proxy: who is picked, and that nothing but genotype, seed and data decides it."""

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
    """A network of digits; ``first`` is said of its first convolution."""
    net = [{"conv": kernel, "out": width, **first}, "bn", "relu", "gap", {"linear": "classes"}]
    return Genotype.read({"input": [1, 8, 8], "classes": 10, "net": net})


WIDTHS = (3, 12, 5, 8)
NETWORKS = [network(width) for width in WIDTHS]
BROKEN = network(9, 20, padding=0)  # no pixel of 8x8 is left of it


@pytest.mark.parametrize("proxy", ["params", "macs", "synflow", "naswot"])
def test_the_widest_is_picked_by_proxies_that_prefer_width(proxy: str) -> None:
    assert ProxyScreener(proxy, 4, DIGITS, 0).best(NETWORKS) == 1


@pytest.mark.parametrize("proxy", PROXIES)
def test_scores_are_those_of_the_data_set_in_any_order(proxy: str) -> None:
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
        return {"snip": genotype.text()["net"][0]["out"]}

    monkeypatch.setattr(ProxyScorer, "scores_or_nan", scores_or_nan)
    screen = ProxyScreener("snip", 3, DIGITS, 0)
    assert screen.best(NETWORKS) == screen.best([*NETWORKS, network(4)]) == 1
    assert scored == [*NETWORKS, network(4)]


@pytest.mark.parametrize("score", [math.inf, -math.inf, math.nan])
def test_what_is_no_finite_number_ranks_last(score: float, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = dict(zip(NETWORKS, [score, -5.0, score, -9.0], strict=True))
    monkeypatch.setattr(ProxyScreener, "_score", lambda self, genotype: scores[genotype])
    assert ProxyScreener("zen", 4, DIGITS, 0).best(NETWORKS) == 1
    assert ProxyScreener("zen", 4, DIGITS, 0).best([NETWORKS[2], NETWORKS[0]]) == 0


@pytest.mark.parametrize("proxy", PROXIES)
def test_what_cannot_be_computed_ranks_last_and_of_equals_the_first_is_picked(proxy: str) -> None:
    screen = ProxyScreener(proxy, 4, DIGITS, 0)
    assert screen.score(BROKEN) == -math.inf
    assert screen.best([BROKEN, NETWORKS[0], NETWORKS[0]]) == 1
    assert screen.best([BROKEN, BROKEN]) == 0


def test_memory_that_runs_out_ends_no_search(monkeypatch: pytest.MonkeyPatch) -> None:
    from nas_agg.training import proxies

    class Hungry(proxies.Proxy):
        def score(self, graph, sample, seed):
            if graph.shapes[1][0] == 12:
                raise MemoryError
            return float(graph.shapes[1][0])

    monkeypatch.setitem(proxies.PROXIES, "zen", Hungry())
    assert ProxyScreener("zen", 4, DIGITS, 0).best(NETWORKS) == 3


def test_what_is_wrong_is_one_line() -> None:
    for arguments, line in (
        (("synflo", 4, DIGITS, 0), "unknown proxy 'synflo'; did you mean 'synflow'\\?"),
        (("synflow", 0, DIGITS, 0), "candidates: 0 is not 1 or more"),
        (("synflow", 4, None, 0), "proxy: synflow needs images; specify a data set, or use params or macs"),
    ):
        with pytest.raises(InputError, match=line):
            ProxyScreener(*arguments)
    assert ProxyScreener("params", 4, None, 0).best(NETWORKS) == 1


def test_torch_waits_for_the_first_score() -> None:
    code = f"""
import sys
from nas_agg.language.genotype import Genotype
from nas_agg.study.samplers.screening import ProxyScreener
network = Genotype.read({NETWORKS[0].text()})
screens = [ProxyScreener(proxy, 4, {DIGITS}, 0) for proxy in ("params", "macs", "zen")]
screens[0].best([network]), screens[1].best([network])
print("torch" in sys.modules, "sklearn" in sys.modules)
screens[2].best([network])
print("torch" in sys.modules)
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told == "False False\nTrue\n"


def test_the_screen_reads_its_data_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    monkeypatch.setattr("nas_agg.training.data.load_data", lambda **said: read.append(said) or load_data(**said))
    screen = screening.ProxyScreener("synflow", 4, DIGITS, 0)
    assert not read
    screen.best(NETWORKS)
    assert read == [DIGITS]


def test_a_search_trains_the_best_of_its_candidates(wide, score):
    settings = {"searcher": "random", "seed": 2}
    plain = search(wide, score, budget=8, **settings)
    screened = search(wide, score, budget=8, proxy="params", proxy_candidates=6, **settings)
    params = [sorted(trial.params for trial in result.trials) for result in (plain, screened)]
    assert params[1][0] > params[0][0]
    assert params[1][3] > 1.5 * params[0][3]
    assert len({trial.hash for trial in screened.trials}) == 8
    again = search(wide, score, budget=8, proxy="params", proxy_candidates=6, **settings)
    assert [trial.labels for trial in again.trials] == [trial.labels for trial in screened.trials]


def test_what_the_user_starts_from_is_not_screened(wide, score):
    start = [{"width": 3, "deep": 0, "kernel": 1, "end": "relu"}]
    result = search(wide, score, budget=2, proxy="params", proxy_candidates=10, start=start, searcher="random")
    assert wide.values(result.trials[0].labels) == start[0]


def test_a_screened_search_ends_with_its_space(tiny, score):
    result = search(tiny, score, budget=1000, proxy="macs", proxy_candidates=4, searcher="random")
    assert len({trial.hash for trial in result.trials}) == len(result.trials) > 40
    assert "no other network" in result.reason


def test_what_needs_images_is_refused_without(tiny, score, tmp_path):
    with pytest.raises(InputError, match="proxy: naswot needs images; specify a data set"):
        search(tiny, score, proxy="naswot", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
