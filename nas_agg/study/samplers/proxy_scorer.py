"""Scores networks by zero-cost and other proxies on images of a data set; imports torch only to score.

`nas_agg.training.proxies` computes the proxies.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from nas_agg.common.errors import InputError, did_you_mean, is_out_of_memory
from nas_agg.study.definition.task import MACS_PER_THREAD
from nas_agg.study.samplers.searcher import derive_seed, describe_exception

if TYPE_CHECKING:
    from torch import Tensor

    from nas_agg.expansion.costs import Cost
    from nas_agg.language.genotype import Genotype
    from nas_agg.training.data import Data

BATCH = 64


class ProxyInfo(NamedTuple):
    """Description of a proxy.

    Attributes:
        measures: The quantity; a larger score is better.
        cost: The computation that it takes.
        paper: Its reference.
        backward_images: The number of images per batch that a backward pass needs activations of, for the memory
            estimate; 0: no backward pass, -1: all images.
    """

    measures: str
    cost: str
    paper: str = ""
    backward_images: int = 0


PROXIES = {
    "params": ProxyInfo("trainable parameters", "free"),
    "macs": ProxyInfo("multiply-adds per image", "free"),
    "grad-norm": ProxyInfo(
        "norm of the loss gradient, summed over layers",
        "one backward pass",
        "Abdelfattah et al., Zero-Cost Proxies, ICLR 2021",
        backward_images=-1,
    ),
    "snip": ProxyInfo(
        "absolute product of weight and loss gradient, summed",
        "one backward pass",
        "Lee et al., SNIP, ICLR 2019",
        backward_images=-1,
    ),
    "synflow": ProxyInfo(
        "logarithm of the synaptic flow through absolute weights, without norms",
        "one backward pass of one image",
        "Tanaka et al., SynFlow, NeurIPS 2020",
        backward_images=2,  # of single precision; it takes one in double precision
    ),
    "jacob-cov": ProxyInfo(
        "decorrelation of the Jacobians of different images",
        "one backward pass",
        "Mellor et al., NAS without Training, arXiv 2006.04647v1",
        backward_images=-1,
    ),
    "naswot": ProxyInfo(
        "dissimilarity of the activation patterns of different images",
        "one forward pass",
        "Mellor et al., NAS without Training, ICML 2021",
    ),
    "zen": ProxyInfo(
        "expected sensitivity of the last feature maps to the image, corrected for batch norm",
        "eight forward passes",
        "Lin et al., Zen-NAS, ICCV 2021",
    ),
    "one-epoch": ProxyInfo(
        "negative validation loss after the first epoch of recipe search",
        "one epoch of training",
        backward_images=64,  # the batch size of the recipe
    ),
}
COST_PROXIES = ("params", "macs")
ZERO_COST_PROXIES = tuple(name for name in PROXIES if name != "one-epoch")
_OUT_OF_MEMORY = "out of memory; a smaller batch needs less"


def check_proxies(names: Iterable[str]) -> None:
    """Check that proxies exist.

    Raises:
        InputError: A name is unknown.
    """
    for name in names:
        if name not in PROXIES:
            hint = did_you_mean(str(name), PROXIES) or f"; available: {', '.join(PROXIES)}"
            raise InputError(f"unknown proxy '{name}'{hint}")


def with_cost_proxies(names: Sequence[str]) -> tuple[str, ...]:
    """Params and MACs, as baselines, and the proxies of these names; all zero-cost proxies if there are no names."""
    check_proxies(names)
    return tuple(dict.fromkeys([*COST_PROXIES, *(names or ZERO_COST_PROXIES)]))


@dataclass
class ProxyScorer:
    """Scores networks by proxies, on one batch of training images of a data set or after one epoch on all of them.

    A score depends on these arguments and the genotype alone; torch's global random state is not changed.

    Args:
        data: The data set. Images are normalized, and not augmented.
        seed: The seed of the choice of images and of the weights.
        batch: Images per batch, 2 or more; all training images if there are fewer.
        input: Shape that images are scaled to and networks are built for (channels, height, width); None: the data
            set's own.
        classes: The number of classes of the networks, not fewer than the data set's; None: as many.
        threads: The maximum number of threads per network; small ones take one.
        memory_limit: Bytes; a proxy that is predicted to need more for a network is not computed. None: no limit.

    Attributes:
        failed: The latest reason why a proxy could not be computed, by its name.
        seconds: Processor time of each score, by the proxy's name.

    Raises:
        InputError: The batch, the input or the classes do not fit the data set.
    """

    data: Data
    seed: int = 0
    batch: int = BATCH
    input: tuple[int, int, int] | None = None
    classes: int | None = None
    threads: int = 1
    memory_limit: int | None = None
    failed: dict[str, str] = field(default_factory=dict, init=False)
    seconds: dict[str, list[float]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        data = self.data
        self.input, self.classes = self.input or data.input, self.classes or data.classes
        if self.input[0] != data.input[0]:
            raise InputError(f"input: {self.input[0]} channels, but {data.name} has {data.input[0]}")
        if self.classes < data.classes:
            raise InputError(f"classes: {self.classes}, but {data.name} has {data.classes}")
        if min(self.batch, len(data.train)) < 2:
            raise InputError(f"batch: {self.batch} of {len(data.train)} training images; at least 2 are needed")
        self.images, self.labels = self._draw_batch()

    def _draw_batch(self) -> tuple[Tensor, Tensor]:
        import torch
        from torch.nn import functional

        from nas_agg.training.augment import normalise

        assert self.input is not None
        train = self.data.train
        generator = torch.Generator().manual_seed(derive_seed(self.seed, 0, "proxy images"))
        chosen = torch.randperm(len(train), generator=generator)[: self.batch]
        images = normalise(train.rows(chosen), self.data.mean, self.data.std).contiguous()
        if images.shape[2:] != self.input[1:]:
            images = functional.interpolate(images, self.input[1:], mode="bilinear", antialias=True)
        return images, train.labels[chosen]

    def scores(self, genotype: Genotype, names: Sequence[str], init: int = 0) -> dict[str, float]:
        """The scores of a network by the proxies' names; NaN where one cannot be computed (`failed` has the reason).

        Args:
            genotype: The network; its input and classes are replaced by the scorer's.
            names: The proxies.
            init: The number of the weight initialisation, from 0.

        Raises:
            InputError: The genotype makes no valid network on these images.
        """
        from nas_agg.expansion.costs import Cost
        from nas_agg.expansion.expansion import expand

        check_proxies(names)
        cost = Cost(expand(genotype.with_task(self.input, self.classes)))
        known = {"params": float(cost.params), "macs": float(cost.macs)}
        if set(names) <= set(COST_PROXIES):
            return {name: known[name] for name in names}
        seed = derive_seed(self.seed, init, "proxy weights")
        with _isolated_torch_state(max(1, min(self.threads, cost.macs // MACS_PER_THREAD))):
            return {name: known[name] if name in known else self._score(name, cost, seed) for name in names}

    def _score(self, name: str, cost: Cost, seed: int) -> float:
        from nas_agg.training import proxies

        if self.memory_limit is not None and self._predicted_bytes(name, cost) > self.memory_limit:
            return self._fail(name, _OUT_OF_MEMORY)
        start = time.process_time()
        try:
            sample = proxies.Sample(self.images, self.labels, self.data)
            score = proxies.PROXIES[name].score(cost.graph, sample, seed)
            self.seconds.setdefault(name, []).append(time.process_time() - start)
            return score
        except Exception as error:  # torch may raise anything for an untested network
            return self._fail(name, _OUT_OF_MEMORY if is_out_of_memory(error) else describe_exception(error))

    def _predicted_bytes(self, name: str, cost: Cost) -> int:
        """The memory that a proxy is predicted to need, in bytes."""
        from nas_agg.training.memory import step_bytes

        batch, backward_images = len(self.labels), PROXIES[name].backward_images
        if backward_images:
            return step_bytes(cost, "plain", batch if backward_images < 0 else backward_images)
        return 2 * batch * cost.peak_bytes_inference

    def _fail(self, name: str, reason: str) -> float:
        self.failed[name] = reason
        return float("nan")

    def scores_or_nan(self, genotype: Genotype, names: Sequence[str], init: int = 0) -> dict[str, float]:
        """The scores as by `scores`; all NaN where the genotype makes no valid network on these images."""
        try:
            return self.scores(genotype, names, init)
        except InputError as error:
            return {name: self._fail(name, str(error)) for name in names}


def genotype_digest(genotype: Genotype) -> str:
    """A key of a genotype's scores: a digest of its text, since weights are drawn in the order of the text.

    Genotypes of equal canonical hash may have different weights, and therefore different scores.
    """
    return hashlib.blake2b(genotype.to_json().encode(), digest_size=16).hexdigest()


@contextlib.contextmanager
def _isolated_torch_state(threads: int) -> Iterator[None]:
    """Context in which torch uses a number of threads and a copy of its random state, and computes gradients."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            yield
    finally:
        torch.set_num_threads(before)
