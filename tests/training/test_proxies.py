"""Each proxy against a direct computation on a small network."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from corpus.formulas import graph_of
from torch import nn
from torch.nn import functional

import nas_agg
from nas_agg.compiler import build
from nas_agg.expansion.expansion import expand
from nas_agg.graph.primitives import Norm
from nas_agg.training import loop
from nas_agg.training.augment import Augmentation
from nas_agg.training.data import Data, Split
from nas_agg.training.proxies import PROXIES, Sample, remove_operations, trunk
from nas_agg.training.recipes import open_recipe

GRAPH = graph_of({"conv": 3, "out": 6}, "bn", "relu", {"conv": 3, "out": 5}, "bn", "relu", image=(4, 8, 8))


def data_of(images: int = 24, input: tuple[int, int, int] = (4, 8, 8), classes: int = 3) -> Data:
    """Images of noise, whose brightness goes by their class."""
    generator = torch.Generator().manual_seed(1)

    def split(count: int) -> Split:
        labels = torch.arange(count) % classes
        noise = torch.randint(60, (count, *input), generator=generator)
        return Split((noise + 60 * labels.view(-1, 1, 1, 1)).to(torch.uint8), labels)

    names = tuple(map(str, range(classes)))
    shares = (0.4,) * input[0], (0.2,) * input[0]
    return Data("noise", classes, names, input, split(images), split(12), split(12), *shares, Augmentation(crop=1))


DATA = data_of()


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(8, 4, 8, 8, generator=generator), torch.arange(8) % 3


def score(name: str, batch, seed: int = 0, graph=GRAPH) -> float:
    return PROXIES[name].score(graph, Sample(*batch, DATA), seed)


def by_hand(seed: int = 0, norms: bool = True) -> nn.Sequential:
    """The same network, written out, with the same weights."""
    layers = [nn.Conv2d(4, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU()]
    layers += [nn.Conv2d(6, 5, 3, padding=1, bias=False), nn.BatchNorm2d(5), nn.ReLU()]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3)]
    own = build(GRAPH, seed)
    mine = [module for module in own.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    for layer, theirs in zip([layers[0], layers[3], layers[8]], mine, strict=True):
        layer.load_state_dict(theirs.state_dict())
    return nn.Sequential(*[layer for layer in layers if norms or not isinstance(layer, nn.BatchNorm2d)])


def weighted(network: nn.Module) -> list[torch.Tensor]:
    return [module.weight for module in network if isinstance(module, (nn.Conv2d, nn.Linear))]


def test_costs(batch):
    network, taken = by_hand(), []
    for layer in network:
        layer.register_forward_hook(lambda layer, inputs, out: taken.append((layer, out.shape[2:].numel())))
    network(batch[0][:2])
    assert score("params", batch) == sum(parameter.numel() for parameter in network.parameters())
    macs = sum(layer.weight.numel() * places for layer, places in taken if isinstance(layer, (nn.Conv2d, nn.Linear)))
    assert score("macs", batch) == macs == 8 * 8 * (4 * 6 * 9 + 6 * 5 * 9) + 5 * 3


def test_gradients_of_a_batch(batch):
    network = by_hand()
    functional.cross_entropy(network(batch[0]), batch[1]).backward()
    both = [(weight.detach(), weight.grad) for weight in weighted(network)]
    assert score("grad-norm", batch) == pytest.approx(sum(float((g**2).sum()) ** 0.5 for _, g in both), rel=1e-5)
    saliency = sum(float((weight * g).abs().sum()) for weight, g in both)
    assert score("snip", batch) == pytest.approx(saliency, rel=1e-5)


def test_synflow(batch):
    network = by_hand(norms=False).double()
    for parameter in network.parameters():
        parameter.data.abs_()
    out = network(torch.ones(1, 4, 8, 8).double()).sum()
    # Without biases the network is linear in each layer's weights, and each layer's share is the whole output.
    assert score("synflow", batch) == pytest.approx(math.log(3 * float(out.detach())), rel=1e-9)


def test_jacob_cov(batch):
    x = batch[0].clone().requires_grad_(True)
    network = by_hand()
    (gradient,) = torch.autograd.grad(network(x).sum(), x)
    eigenvalues = np.linalg.eigvalsh(np.corrcoef(gradient.flatten(1).double().numpy()))
    wanted = -np.sum(np.log(eigenvalues + 1e-5) + 1 / (eigenvalues + 1e-5))
    assert score("jacob-cov", batch) == pytest.approx(wanted, rel=1e-5)


def test_naswot(batch):
    network = by_hand()
    with torch.no_grad():
        first = network[:2](batch[0])
        second = network[2:5](first)
    codes = torch.cat([(first > 0).flatten(1), (second > 0).flatten(1)], 1)
    kernel = np.array([[float((a == b).sum()) for b in codes] for a in codes])
    assert score("naswot", batch) == pytest.approx(np.linalg.slogdet(kernel)[1], rel=1e-9)


def test_zen(batch):
    generator, scores = torch.Generator().manual_seed(0), []
    network = by_hand()[:6].train()
    for _ in range(4):
        for weight in [network[0].weight.data, network[3].weight.data]:
            weight.copy_(torch.randn(weight.shape, generator=generator))
        x = torch.randn(batch[0].shape, generator=generator)
        with torch.no_grad():
            other = x + 0.01 * torch.randn(x.shape, generator=generator)
            change = (network(x) - network(other)).abs().sum((1, 2, 3)).mean().log()
            scale = 0.0
            for module, inputs in ((network[1], network[:1](other)), (network[4], network[:4](other))):
                scale += 0.5 * float(inputs.var((0, 2, 3)).mean().log())
                assert module.training
        scores.append(float(change) + scale)
    assert score("zen", batch) == pytest.approx(np.mean(scores), rel=1e-4)


def test_signs(batch):
    """What each is to prefer has the higher score."""
    images, labels = batch
    conv = {"conv": 3, "out": 6}
    plain, bent = graph_of(conv, conv), graph_of(conv, "relu", conv)
    alike = images[:1] + 1e-4 * images, labels
    for name in ("jacob-cov", "naswot"):
        assert score(name, batch) > score(name, alike), name
    assert score("jacob-cov", batch, graph=bent) > score("jacob-cov", batch, graph=plain), (
        "all images have one Jacobian"
    )
    for name in ("grad-norm", "snip"):
        assert score(name, batch, graph=plain) > score(name, (0 * images, labels), graph=plain), "no weight matters"
    around = graph_of(conv, {"nodes": 1, "unit": [conv, "join"], "shortcut": {}})
    for name in ("synflow", "zen"):
        assert score(name, batch, graph=around) > score(name, batch, graph=plain), "a path less"


def test_one_epoch_is_the_first_of_a_training(batch):
    model = build(GRAPH, 5)
    history = loop.train(model, DATA, open_recipe("search"), seed=5, pause_after=1).history
    assert score("one-epoch", batch, seed=5) == -history[0]["validation_loss"]
    assert history[0]["validation_loss"] != history[0]["validation_loss_running_statistics"]


def test_one_epoch_takes_images_and_classes_of_the_network(batch):
    net = [{"conv": 3, "out": 6}, "bn", "relu", "gap", {"linear": 5}]
    graph = expand(nas_agg.load({"input": [4, 12, 10], "classes": 5, "net": net}))
    score("one-epoch", batch, graph=graph)
    shaped = DATA.shaped((12, 10), 5)
    assert (shaped.input, shaped.classes, shaped.train.images.shape) == ((4, 12, 10), 5, (24, 4, 12, 10))
    assert torch.equal(shaped.train.labels, DATA.train.labels)
    assert (shaped.train.images.float().mean() - DATA.train.images.float().mean()).abs() < 1
    assert DATA.shaped((8, 8), 3) is DATA


@pytest.mark.parametrize("name", PROXIES)
def test_a_score_follows_from_its_seed(name, batch):
    torch.manual_seed(1)
    first = score(name, batch)
    torch.manual_seed(2)
    assert score(name, batch) == first
    if name not in ("params", "macs"):
        assert score(name, batch, seed=1) != first


@pytest.mark.parametrize("name", PROXIES)
def test_every_family_has_finite_scores_and_width_is_more(name):
    images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    labels, small = torch.arange(4), data_of(8, (3, 32, 32), 4)
    for point in ("densenet/40-k12", "dsnet/dsnet26-0.25x", "efficientnet/b0", "seqconv/table5-row3"):
        graph = expand(nas_agg.load(point).with_task(input=(3, 32, 32), classes=4))
        big = torch.nn.functional.interpolate(images, 32)
        assert math.isfinite(PROXIES[name].score(graph, Sample(big, labels, small), 0)), point
    narrow, wide = (
        graph_of({"conv": 3, "out": out}, "bn", "relu", {"conv": 3, "out": out}, "bn", "relu", image=(3, 16, 16))
        for out in (4, 32)
    )
    if name not in ("grad-norm", "jacob-cov", "one-epoch"):  # which do not grow with width on any images
        sample = Sample(images, labels % 3, DATA)
        assert PROXIES[name].score(wide, sample, 0) > PROXIES[name].score(narrow, sample, 0)


@pytest.mark.parametrize("name", PROXIES)
def test_dropout_is_no_luck(name, batch):
    graph = graph_of({"conv": 3, "out": 6}, "bn", "relu", {"dropout": 0.9999}, image=(4, 8, 8))
    assert score(name, batch, graph=graph) == score(name, batch, graph=graph)
    assert math.isfinite(score(name, batch, graph=graph))


def test_infinite_scores(batch):
    graph = expand(nas_agg.load("residual/preact-1001").with_task(input=(4, 8, 8), classes=3))
    assert score("synflow", batch, graph=graph) == math.inf
    dead = torch.zeros_like(batch[0]), batch[1]
    assert score("jacob-cov", dead, graph=graph_of("relu", image=(4, 8, 8))) == -math.inf


def test_graphs_without_norms_and_heads():
    genotype = nas_agg.load("efficientnet/b0").with_task(input=(3, 32, 32))
    graph = expand(genotype)
    assert not [op for op in remove_operations(graph, Norm).ops if op.word == "norm"]
    cut = trunk(graph)
    assert cut.shapes[cut.output] == (1280, 1, 1)
    assert cut.ops[cut.output].word == "act"
    whole = graph_of({"conv": 8, "out": 3, "padding": 0}, "relu", image=(4, 8, 8))
    assert trunk(whole).output < whole.output
