"""Networks scored on a batch of a data set: dependencies of a score, and proxies that cannot be computed."""

from __future__ import annotations

import math

import pytest
import torch

import nas_agg
from nas_agg.common.errors import InputError
from nas_agg.expansion.expansion import expand
from nas_agg.language.genotype import Genotype
from nas_agg.study.samplers.proxy_scorer import (
    PROXIES,
    ZERO_COST_PROXIES,
    ProxyScorer,
    check_proxies,
    with_cost_proxies,
)
from nas_agg.study.samplers.searcher import derive_seed
from nas_agg.training import proxies
from nas_agg.training.augment import normalise
from nas_agg.training.data import Data, load_data
from nas_agg.training.recipes import open_recipe

SMALL = Genotype.from_dict(
    {
        "input": [3, 16, 16],
        "classes": 4,
        "net": [{"conv": 3, "out": 6}, "bn", "relu", "gap", {"linear": "classes"}],
    }
)
#: Too large for 8x8 images: nothing is left after its first convolution.
LARGE = Genotype.from_dict(
    {"input": [1, 32, 32], "classes": 4, "net": [*[{"conv": 7, "out": 4, "padding": 0}] * 2, "gap", {"linear": 4}]}
)
RANDOM = [name for name in PROXIES if name not in ("params", "macs")]


@pytest.fixture(scope="module")
def data() -> Data:
    return load_data("digits")


def test_descriptions_match_the_proxies() -> None:
    assert list(PROXIES) == list(proxies.PROXIES)
    assert [name for name, about in PROXIES.items() if about.cost == "free"] == ["params", "macs"]
    assert all(about.paper for name, about in PROXIES.items() if name in RANDOM and name in ZERO_COST_PROXIES)
    assert set(PROXIES) - set(ZERO_COST_PROXIES) == {"one-epoch"}
    assert PROXIES["one-epoch"].backward_images == open_recipe(proxies.RECIPE).batch_size


def test_params_and_macs_come_first() -> None:
    assert with_cost_proxies(()) == ZERO_COST_PROXIES
    assert with_cost_proxies(["zen", "macs", "snip", "zen"]) == ("params", "macs", "zen", "snip")
    with pytest.raises(InputError, match=r"unknown proxy 'nas-wot'; did you mean 'naswot'\?"):
        check_proxies(["params", "nas-wot"])


def test_scores_are_those_of_the_proxies_on_training_images(data: Data) -> None:
    scorer = ProxyScorer(data, batch=16)
    every = normalise(data.train.images, data.mean, data.std)
    places = [int((every == image).flatten(1).all(1).nonzero()[0]) for image in scorer.images]
    assert len(set(places)) == 16
    assert torch.equal(scorer.labels, data.train.labels[places])
    graph = expand(SMALL.with_task(data.input, data.classes))
    seed = derive_seed(0, 2, "proxy weights")
    sample = proxies.Sample(scorer.images, scorer.labels, data)
    direct = {name: proxy.score(graph, sample, seed) for name, proxy in proxies.PROXIES.items()}
    assert scorer.scores(SMALL, list(PROXIES), init=2) == direct


@pytest.mark.parametrize("name", RANDOM)
def test_a_score_depends_on_seed_and_initialisation(name: str, data: Data) -> None:
    first = ProxyScorer(data).scores(SMALL, [name])[name]
    others = [other for other in PROXIES if other != name]
    assert ProxyScorer(data).scores(SMALL, [*others, name])[name] == first, "independent of earlier scores"
    assert ProxyScorer(data).scores(SMALL, [name], init=1)[name] != first
    assert ProxyScorer(data, seed=1).scores(SMALL, [name])[name] != first


def test_the_seed_selects_the_images(data: Data) -> None:
    same, other = ProxyScorer(data, 5), ProxyScorer(data, 6)
    assert torch.equal(ProxyScorer(data, 5).images, same.images)
    assert not torch.equal(same.images, other.images)


def test_the_state_of_torch_is_unchanged(data: Data) -> None:
    torch.manual_seed(3)
    state = torch.get_rng_state()
    torch.set_num_threads(2)
    with torch.no_grad():
        scores = ProxyScorer(data).scores(SMALL, list(PROXIES))
        assert not torch.is_grad_enabled()
    assert all(map(math.isfinite, scores.values()))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == 2


def test_images_are_scaled_to_the_input(data: Data) -> None:
    scorer = ProxyScorer(data, input=(1, 20, 24), classes=12, batch=4)
    assert scorer.images.shape == (4, 1, 20, 24)
    assert abs(float(scorer.images.mean()) - float(ProxyScorer(data, batch=4).images.mean())) < 0.1
    assert scorer.scores(SMALL, ["params"])["params"] == nas_agg.cost(SMALL.with_task((1, 20, 24), 12)).params


def test_mismatching_arguments_are_rejected(data: Data) -> None:
    for wrong, line in (
        ({"batch": 1}, "batch: 1 of 1151 training images; at least 2 are needed"),
        ({"input": (3, 8, 8)}, "input: 3 channels, but digits has 1"),
        ({"classes": 9}, "classes: 9, but digits has 10"),
    ):
        with pytest.raises(InputError, match=line):
            ProxyScorer(data, **wrong)  # type: ignore[arg-type]


def test_a_proxy_that_fails_is_nan_with_a_reason(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(proxies.Proxy):
        def score(self, graph, sample, seed):  # type: ignore[no-untyped-def]
            raise RuntimeError("no such kernel\nat all")

    monkeypatch.setitem(proxies.PROXIES, "zen", Broken())
    scorer = ProxyScorer(data)
    scores = scorer.scores(SMALL, ["zen", "naswot"])
    assert math.isnan(scores["zen"]) and math.isfinite(scores["naswot"])
    assert scorer.failed == {"zen": "RuntimeError: no such kernel"}


def test_proxies_over_the_memory_limit_are_not_computed(data: Data) -> None:
    scorer = ProxyScorer(data, memory_limit=1)
    scores = scorer.scores(SMALL, list(PROXIES))
    assert [name for name, score in scores.items() if math.isfinite(score)] == ["params", "macs"]
    assert scorer.failed == dict.fromkeys(RANDOM, "out of memory; a smaller batch needs less")
    assert all(map(math.isfinite, ProxyScorer(data, memory_limit=10**9).scores(SMALL, RANDOM).values()))


def test_invalid_networks_have_no_scores(data: Data) -> None:
    scorer = ProxyScorer(data)
    with pytest.raises(InputError):
        scorer.scores(LARGE, ["params"])
    assert all(map(math.isnan, scorer.scores_or_nan(LARGE, ["params", "snip"]).values()))
    assert list(scorer.failed) == ["params", "snip"]
