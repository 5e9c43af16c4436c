"""Performance proxies: scores of untrained networks, or after one epoch of training. More is better.

Each proxy is one class with its paper; `nas_agg.study.samplers.proxy_scorer` describes them without torch. A network is
given as its graph and built with the weights of a seed, so that its score does not depend on where it is computed.
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
from nas_agg.expansion.passes import GraphRewriter
from nas_agg.graph.graph import Graph
from nas_agg.graph.primitives import ACTIVATIONS, Dropout, Gap, Norm, Primitive
from nas_agg.training.data import Data
from nas_agg.training.loop import train
from nas_agg.training.recipes import open_recipe

RECIPE = "search"  # of one-epoch trainings

#: Activation functions except sigmoids, which serve as gates.
_ACTIVATIONS = {getattr(functional, name) for word, (name, _) in ACTIVATIONS.items() if "sigmoid" not in word}


@dataclass(frozen=True)
class Sample:
    """Images on which networks are scored.

    Attributes:
        images: A batch of at least 2 normalised training images ``(N, C, H, W)`` of the networks' input shape.
        labels: Their labels, ``(N,)``.
        data: Their data set.
    """

    images: Tensor
    labels: Tensor
    data: Data


class Proxy(ABC):
    """A performance proxy: a score that is cheaper than training."""

    @abstractmethod
    def score(self, graph: Graph, sample: Sample, seed: int) -> float:
        """Score a network; more is better.

        Args:
            graph: The network.
            sample: The images.
            seed: Seed of the weights and of all other randomness.
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
    """The norm of the gradient, summed over layers (Abdelfattah et al., "Zero-Cost Proxies", ICLR 2021)."""

    def score(self, graph: Graph, sample: Sample, seed: int) -> float:
        return math.fsum(float(g.norm()) for _, g in _weight_gradients(_build_with_gradient(graph, sample, seed)))


class Snip(Proxy):
    """The sensitivity of the loss to each weight, summed (Lee et al., "SNIP", ICLR 2019)."""

    def score(self, graph: Graph, sample: Sample, seed: int) -> float:
        network = _build_with_gradient(graph, sample, seed)
        return math.fsum(float((weight * gradient).abs().sum()) for weight, gradient in _weight_gradients(network))


class Synflow(Proxy):
    """The logarithm of the synaptic flow through absolute weights (Tanaka et al., "SynFlow", NeurIPS 2020).

    Norms are removed, since they would cancel the flow; the image is all ones. Where the flow overflows double
    precision, as in very deep networks, the score is infinite.
    """

    def score(self, graph: Graph, sample: Sample, seed: int) -> float:
        images = sample.images[:1]
        network = _build(remove_operations(graph, Norm), images, seed).double().eval()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.abs_()
        network(torch.ones_like(images, dtype=torch.float64)).sum().backward()
        flow = math.fsum(float((weight * gradient).sum()) for weight, gradient in _weight_gradients(network))
        return math.log(flow) if flow > 0 else -math.inf if flow == 0 else math.inf


class JacobCov(Proxy):
    """Dissimilarity of the network's local linear maps at different images.

    A score of the eigenvalues of the correlation matrix of the images' Jacobians (Mellor et al., "Neural Architecture
    Search without Training", first version, 2020).
    """

    def score(self, graph: Graph, sample: Sample, seed: int) -> float:
        network = _build(graph, sample.images, seed).train()
        x = sample.images.clone().requires_grad_(True)
        network(x).sum().backward()
        assert x.grad is not None
        correlation = torch.corrcoef(x.grad.flatten(1).double())
        if not correlation.isfinite().all():  # an image with a constant gradient
            return -math.inf
        eigenvalues = torch.linalg.eigvalsh(correlation)
        k = 1e-5
        score = -float((torch.log(eigenvalues + k) + 1 / (eigenvalues + k)).sum())
        return score if math.isfinite(score) else -math.inf


class Naswot(Proxy):
    """Dissimilarity of activation patterns for different images.

    The log-determinant of the kernel of binary activation codes (Mellor et al., "Neural Architecture Search without
    Training", ICML 2021).
    """

    def score(self, graph: Graph, sample: Sample, seed: int) -> float:
        network = _build(graph, sample.images, seed).train()
        with torch.no_grad(), _ActivationCodes(len(sample.images)) as codes:
            network(sample.images)
        return float(torch.linalg.slogdet(codes.kernel).logabsdet)


class _ActivationCodes(TorchFunctionMode):
    """Accumulates, for each pair of images, the number of units with equal activation pattern."""

    def __init__(self, count: int):
        super().__init__()
        self.kernel = torch.zeros(count, count, dtype=torch.float64)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _ACTIVATIONS and len(args[0]) == len(self.kernel):
            code = (args[0] > 0).flatten(1).double()
            self.kernel += (code @ code.T + (1 - code) @ (1 - code).T).cpu()
        return func(*args, **(kwargs or {}))


class Zen(Proxy):
    """Sensitivity of the last feature map to its input at random weights, with the scales of norms restored.

    The Zen-score (Lin et al., "Zen-NAS", ICCV 2021, Algorithm 1): the logarithm of the mean change of the last feature
    map when noise of scale 0.01 is added to Gaussian input, plus the logarithm of each batch norm's standard deviation;
    averaged over 4 draws.
    """

    def score(self, graph: Graph, sample: Sample, seed: int) -> float:
        images = sample.images
        network = _build(trunk(graph), images, seed).train()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0  # running statistics are those of the last batch
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
                scores.append(float(change.log()) + self._log_deviations(network))
        score = sum(scores) / len(scores)
        return score if math.isfinite(score) else -math.inf

    @staticmethod
    def _log_deviations(network: Network) -> float:
        """Sum of the logarithms of the batch norms' standard deviations in the last batch."""
        total = 0.0
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d) and module.running_var is not None:
                total += 0.5 * math.log(max(float(module.running_var.mean()), 1e-30))
        return total


class OneEpoch(Proxy):
    """The negated validation loss after the first epoch of a training, with batch-norm statistics of current weights.

    The epoch is the first of the recipe, including its warm-up, as in a search. The loss ranks networks better than the
    accuracy, and also with few validation images.
    """

    def score(self, graph: Graph, sample: Sample, seed: int) -> float:
        _, *size = graph.shapes[0]
        data = sample.data.shaped((size[0], size[1]), graph.shapes[graph.output][0])
        result = train(build(graph, seed), data, open_recipe(RECIPE), seed=seed, pause_after=1)
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


def remove_operations(graph: Graph, *kinds: type[Primitive]) -> Graph:
    """The graph without some kinds of operations."""
    copy = GraphRewriter(graph)
    for i, op, inputs in copy.operations():
        copy.new_tensors.append(inputs[0] if isinstance(op, kinds) else copy.add(i, op, inputs))
    return copy.graph()


def trunk(graph: Graph) -> Graph:
    """The graph up to the map that its head averages; the whole graph if there is no such map."""
    end = at = graph.output
    while graph.shapes[at][1:] == (1, 1) and len(graph.inputs[at]) == 1:
        op, (at,) = graph.ops[at], graph.inputs[at]
        if isinstance(op, Gap):
            end = at
            break
    part = slice(0, end + 1)
    return Graph(graph.ops[part], graph.inputs[part], graph.shapes[part], graph.paths[part], end)


def _build(graph: Graph, images: Tensor, seed: int) -> Network:
    """Build the network without dropout, which would make its score random."""
    return build(remove_operations(graph, Dropout), seed).to(images.device)


def _weights(network: Network) -> list[Tensor]:
    """The weights of convolutions and linear layers."""
    return [module.weight for module in network.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]


def _weight_gradients(network: Network) -> list[tuple[Tensor, Tensor]]:
    """Pairs of weight and gradient, of the weights that have one."""
    return [(weight.detach(), weight.grad) for weight in _weights(network) if weight.grad is not None]


def _build_with_gradient(graph: Graph, sample: Sample, seed: int) -> Network:
    """Build the network and compute the gradient of the loss on the sample."""
    network = _build(graph, sample.images, seed).train()
    functional.cross_entropy(network(sample.images), sample.labels).backward()
    return network
