"""Networks scored on a batch of a data set: what a score depends on, and what becomes of one that is not computed."""

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
from nas_agg.training.recipes import get_recipe

SMALL = Genotype.read(
    {
        "input": [3, 16, 16],
        "classes": 4,
        "net": [{"conv": 3, "out": 6}, "bn", "relu", "gap", {"linear": "classes"}],
    }
)
#: On 8x8 images its second convolution has none left.
LARGE = Genotype.read(
    {"input": [1, 32, 32], "classes": 4, "net": [*[{"conv": 7, "out": 4, "padding": 0}] * 2, "gap", {"linear": 4}]}
)
RANDOM = [name for name in PROXIES if name not in ("params", "macs")]


@pytest.fixture(scope="module")
def data() -> Data:
    return load_data("digits")


def test_what_is_told_is_what_there_is() -> None:
    assert list(PROXIES) == list(proxies.PROXIES)
    assert [name for name, about in PROXIES.items() if about.cost == "free"] == ["params", "macs"]
    assert all(about.paper for name, about in PROXIES.items() if name in RANDOM and name in ZERO_COST_PROXIES)
    assert set(PROXIES) - set(ZERO_COST_PROXIES) == {"one-epoch"}
    assert PROXIES["one-epoch"].backward_images == get_recipe(proxies.RECIPE).batch_size


def test_params_and_macs_stand_before_what_is_asked_for() -> None:
    assert with_cost_proxies(()) == ZERO_COST_PROXIES
    assert with_cost_proxies(["zen", "macs", "snip", "zen"]) == ("params", "macs", "zen", "snip")
    with pytest.raises(InputError, match=r"unknown proxy 'nas-wot'; did you mean 'naswot'\?"):
        check_proxies(["params", "nas-wot"])


def test_scores_are_the_proxies_own_on_training_images(data: Data) -> None:
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
def test_a_score_follows_from_seed_and_initialisation(name: str, data: Data) -> None:
    first = ProxyScorer(data).scores(SMALL, [name])[name]
    others = [other for other in PROXIES if other != name]
    assert ProxyScorer(data).scores(SMALL, [*others, name])[name] == first, "whatever was scored before"
    assert ProxyScorer(data).scores(SMALL, [name], init=1)[name] != first
    assert ProxyScorer(data, seed=1).scores(SMALL, [name])[name] != first


def test_the_seed_draws_the_images_too(data: Data) -> None:
    same, other = ProxyScorer(data, 5), ProxyScorer(data, 6)
    assert torch.equal(ProxyScorer(data, 5).images, same.images)
    assert not torch.equal(same.images, other.images)


def test_torch_is_left_as_it_was(data: Data) -> None:
    torch.manual_seed(3)
    state = torch.get_rng_state()
    torch.set_num_threads(2)
    with torch.no_grad():
        scores = ProxyScorer(data).scores(SMALL, list(PROXIES))
        assert not torch.is_grad_enabled()
    assert all(map(math.isfinite, scores.values()))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == 2


def test_images_are_scaled_to_what_is_asked_for(data: Data) -> None:
    scorer = ProxyScorer(data, input=(1, 20, 24), classes=12, batch=4)
    assert scorer.images.shape == (4, 1, 20, 24)
    assert abs(float(scorer.images.mean()) - float(ProxyScorer(data, batch=4).images.mean())) < 0.1
    assert scorer.scores(SMALL, ["params"])["params"] == nas_agg.cost(SMALL.with_task((1, 20, 24), 12)).params


def test_what_does_not_fit_is_refused(data: Data) -> None:
    for wrong, line in (
        ({"batch": 1}, "batch: 1 of 1151 training images; at least 2 are needed"),
        ({"input": (3, 8, 8)}, "input: 3 channels, but digits has 1"),
        ({"classes": 9}, "classes: 9, but digits has 10"),
    ):
        with pytest.raises(InputError, match=line):
            ProxyScorer(data, **wrong)  # type: ignore[arg-type]


def test_what_cannot_be_computed_is_no_number_and_says_why(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(proxies.Proxy):
        def score(self, graph, sample, seed):  # type: ignore[no-untyped-def]
            raise RuntimeError("no such kernel\nat all")

    monkeypatch.setitem(proxies.PROXIES, "zen", Broken())
    scorer = ProxyScorer(data)
    found = scorer.scores(SMALL, ["zen", "naswot"])
    assert math.isnan(found["zen"]) and math.isfinite(found["naswot"])
    assert scorer.failed == {"zen": "RuntimeError: no such kernel"}


def test_what_would_not_fit_the_memory_is_not_tried(data: Data) -> None:
    scorer = ProxyScorer(data, memory_limit=1)
    found = scorer.scores(SMALL, list(PROXIES))
    assert [name for name, score in found.items() if math.isfinite(score)] == ["params", "macs"]
    assert scorer.failed == dict.fromkeys(RANDOM, "out of memory; a smaller batch needs less")
    assert all(map(math.isfinite, ProxyScorer(data, memory_limit=10**9).scores(SMALL, RANDOM).values()))


def test_what_is_no_network_on_such_images(data: Data) -> None:
    scorer = ProxyScorer(data)
    with pytest.raises(InputError):
        scorer.scores(LARGE, ["params"])
    assert all(map(math.isnan, scorer.scores_or_nan(LARGE, ["params", "snip"]).values()))
    assert list(scorer.failed) == ["params", "snip"]
