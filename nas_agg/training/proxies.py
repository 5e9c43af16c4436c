"""Scores of networks that were not trained, or for one epoch only: of each more is better.

Every proxy is one small class: what it computes, and from which paper; `nas_agg.study.samplers.proxy_scorer` describes
them without torch. A network comes as its graph and is built with weights of a seed, so that a score is the same
wherever it is computed.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from nas_agg.compiler.network import Network, build
from nas_agg.expansion.costs import Cost
from nas_agg.expansion.passes import Copy
from nas_agg.graph.graph import Graph
from nas_agg.graph.primitives import ACTIVATIONS, Dropout, Gap, Norm, Primitive
from nas_agg.training.data import Data
from nas_agg.training.loop import train
from nas_agg.training.recipes import get_recipe

RECIPE = "search"  # of trainings of an epoch

#: Sigmoids are left out, since they gate.
_ACTIVATIONS = {getattr(functional, name) for word, (name, _) in ACTIVATIONS.items() if "sigmoid" not in word}


@dataclass(frozen=True)
class Sample:
    """Images that networks are scored on.

    Attributes:
        images: A batch of training images ``(N, C, H, W)``, normalised, of the networks' input; at least 2.
        labels: Theirs, ``(N,)``.
        data: The data set that they are from.
    """

    images: Tensor
    labels: Tensor
    data: Data


class Proxy(ABC):
    """A score that costs less than a training."""

    @abstractmethod
    def score(self, graph: Graph, sample: Sample, seed: int) -> float:
        """The score; more is better.

        Args:
            graph: The network.
            sample: What it is scored on.
            seed: Of the weights, and of what else is random.
        """


class Params(Proxy):
    """The number of parameters."""

    def score(self, graph: Graph, sample: Sample, seed: int) -> float:
        return float(Cost(graph).params)


class Macs(Proxy):
    """The number of multiply-adds."""

    def score(self, graph: Graph, sample: Sample, seed: int) -> float:
        return float(Cost(graph).macs)


class GradNorm(Proxy):
    """The length of the gradient, added up over layers (Abdelfattah et al., "Zero-Cost Proxies", ICLR 2021)."""

    def score(self, graph: Graph, sample: Sample, seed: int) -> float:
        return math.fsum(float(g.norm()) for _, g in _gradients(_with_gradient(graph, sample, seed)))


class Snip(Proxy):
    """How much the loss would change without each weight (Lee et al., "SNIP", ICLR 2019), added up."""

    def score(self, graph: Graph, sample: Sample, seed: int) -> float:
        network = _with_gradient(graph, sample, seed)
        return math.fsum(float((weight * gradient).abs().sum()) for weight, gradient in _gradients(network))


class Synflow(Proxy):
    """What flows through all paths of absolute weights (Tanaka et al., "SynFlow", NeurIPS 2020); its logarithm.

    Norms are left out, as they would undo what is measured; the image is all ones. Where the flow is beyond double
    precision, as it is in very deep networks, the score is infinite.
    """

    def score(self, graph: Graph, sample: Sample, seed: int) -> float:
        images = sample.images[:1]
        network = _network(without(graph, Norm), images, seed).double().eval()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.abs_()
        network(torch.ones_like(images, dtype=torch.float64)).sum().backward()
        flow = math.fsum(float((weight * gradient).sum()) for weight, gradient in _gradients(network))
        return math.log(flow) if flow > 0 else -math.inf if flow == 0 else math.inf


class JacobCov(Proxy):
    """How differently the network answers to small changes of different images.

    The eigenvalues of the correlation of images' Jacobians (Mellor et al., "Neural Architecture Search without
    Training", first version, 2020).
    """

    def score(self, graph: Graph, sample: Sample, seed: int) -> float:
        network = _network(graph, sample.images, seed).train()
        x = sample.images.clone().requires_grad_(True)
        network(x).sum().backward()
        assert x.grad is not None
        correlation = torch.corrcoef(x.grad.flatten(1).double())
        if not correlation.isfinite().all():  # an image that nothing comes of
            return -math.inf
        eigenvalues = torch.linalg.eigvalsh(correlation)
        k = 1e-5
        score = -float((torch.log(eigenvalues + k) + 1 / (eigenvalues + k)).sum())
        return score if math.isfinite(score) else -math.inf


class Naswot(Proxy):
    """How differently the activations fire for different images.

    The log-determinant of the kernel of their binary codes (Mellor et al., "Neural Architecture Search without
    Training", ICML 2021).
    """

    def score(self, graph: Graph, sample: Sample, seed: int) -> float:
        network = _network(graph, sample.images, seed).train()
        with torch.no_grad(), _Codes(len(sample.images)) as codes:
            network(sample.images)
        return float(torch.linalg.slogdet(codes.kernel).logabsdet)


class _Codes(TorchFunctionMode):
    """For each pair of images in how many units they agree on being active."""

    def __init__(self, count: int):
        super().__init__()
        self.kernel = torch.zeros(count, count, dtype=torch.float64)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _ACTIVATIONS and len(args[0]) == len(self.kernel):
            code = (args[0] > 0).flatten(1).double()
            self.kernel += (code @ code.T + (1 - code) @ (1 - code).T).cpu()
        return func(*args, **(kwargs or {}))


class Zen(Proxy):
    """How much the feature maps change with the image, at random weights, norms' scales put back in.

    The Zen-score (Lin et al., "Zen-NAS", ICCV 2021, Algorithm 1): the logarithm of the mean change of the last feature
    map when noise of 0.01 is added to noise, plus that of each batch norm's deviation; the mean of 4 draws.
    """

    def score(self, graph: Graph, sample: Sample, seed: int) -> float:
        images = sample.images
        network = _network(features(graph), images, seed).train()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0  # so that its statistics are those of the last batch
        generator = torch.Generator().manual_seed(seed)

        def noise(shape: torch.Size) -> Tensor:
            return torch.randn(shape, generator=generator).to(images.device)

        scores = []
        with torch.no_grad():
            for _ in range(4):
                for weight in _weights(network):
                    weight.copy_(noise(weight.shape))
                x = noise(images.shape)
                change = (network(x) - network(x + 0.01 * noise(images.shape))).abs().flatten(1).sum(1).mean()
                scores.append(float(change.log()) + self._scales(network))
        score = sum(scores) / len(scores)
        return score if math.isfinite(score) else -math.inf

    @staticmethod
    def _scales(network: Network) -> float:
        """The logarithms of the batch norms' deviations in the last batch, added up."""
        total = 0.0
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d) and module.running_var is not None:
                total += 0.5 * math.log(max(float(module.running_var.mean()), 1e-30))
        return total


class OneEpoch(Proxy):
    """The validation loss after the first epoch of a training, negated, with batch-norm statistics of its weights then.

    The epoch is the first of the recipe's, at its rising rate, as it would be in a search. The loss ranks networks
    better than the accuracy, and also where validation images are few.
    """

    def score(self, graph: Graph, sample: Sample, seed: int) -> float:
        _, *size = graph.shapes[0]
        data = sample.data.shaped((size[0], size[1]), graph.shapes[graph.output][0])
        result = train(build(graph, seed), data, get_recipe(RECIPE), seed=seed, until=1)
        return -float(result.metrics["validation_loss"])


PROXIES: dict[str, Proxy] = {
    "params": Params(),
    "macs": Macs(),
    "grad-norm": GradNorm(),
    "snip": Snip(),
    "synflow": Synflow(),
    "jacob-cov": JacobCov(),
    "naswot": Naswot(),
    "zen": Zen(),
    "one-epoch": OneEpoch(),
}


def without(graph: Graph, *kinds: type[Primitive]) -> Graph:
    """The graph with some kinds of operations left out."""
    copy = Copy(graph)
    for i, op, inputs in copy.operations():
        copy.place.append(inputs[0] if isinstance(op, kinds) else copy.add(i, op, inputs))
    return copy.graph()


def features(graph: Graph) -> Graph:
    """The graph up to the map that its head averages; the whole graph where it ends otherwise."""
    end = at = graph.output
    while graph.shapes[at][1:] == (1, 1) and len(graph.inputs[at]) == 1:
        op, (at,) = graph.ops[at], graph.inputs[at]
        if isinstance(op, Gap):
            end = at
            break
    kept = slice(0, end + 1)
    return Graph(graph.ops[kept], graph.inputs[kept], graph.shapes[kept], graph.paths[kept], end)


def _network(graph: Graph, images: Tensor, seed: int) -> Network:
    """The network without dropout, which would make its score a matter of luck."""
    return build(without(graph, Dropout), seed).to(images.device)


def _weights(network: Network) -> list[Tensor]:
    """The weights of convolutions and linear layers."""
    return [module.weight for module in network.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]


def _gradients(network: Network) -> list[tuple[Tensor, Tensor]]:
    """The weights that have a gradient, each with it."""
    return [(weight.detach(), weight.grad) for weight in _weights(network) if weight.grad is not None]


def _with_gradient(graph: Graph, sample: Sample, seed: int) -> Network:
    """The network with the gradient of one batch's loss."""
    network = _network(graph, sample.images, seed).train()
    functional.cross_entropy(network(sample.images), sample.labels).backward()
    return network
