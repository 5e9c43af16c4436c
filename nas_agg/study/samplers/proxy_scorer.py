"""Proxies by name, and networks scored by them on images of a data set; torch only once something is scored.

How each is computed stands in `nas_agg.training.proxies`.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from nas_agg.common.errors import InputError, did_you_mean, out_of_memory
from nas_agg.study.definition.task import MACS_A_THREAD
from nas_agg.study.samplers.searcher import derive_seed, describe_exception

if TYPE_CHECKING:
    from torch import Tensor

    from nas_agg.expansion.costs import Cost
    from nas_agg.language.genotype import Genotype
    from nas_agg.training.data import Data

BATCH = 64


class ProxyInfo(NamedTuple):
    """What a proxy is, in a few words.

    Attributes:
        measures: What it measures; of each proxy more is better.
        price: What it takes to compute.
        paper: Where it comes from.
        kept: Images of a batch of which backward keeps something; 0: none, -1: all.
    """

    measures: str
    price: str
    paper: str = ""
    kept: int = 0


PROXIES = {
    "params": ProxyInfo("trainable parameters", "free"),
    "macs": ProxyInfo("multiply-adds an image", "free"),
    "grad-norm": ProxyInfo(
        "length of the loss's gradient, added up over layers",
        "one backward",
        "Abdelfattah et al., Zero-Cost Proxies, ICLR 2021",
        kept=-1,
    ),
    "snip": ProxyInfo(
        "weight times gradient of the loss, absolute, added up", "one backward", "Lee et al., SNIP, ICLR 2019", kept=-1
    ),
    "synflow": ProxyInfo(
        "flow through all paths of absolute weights, without norms; its logarithm",
        "one backward of an image",
        "Tanaka et al., SynFlow, NeurIPS 2020",
        kept=2,  # in double precision
    ),
    "jacob-cov": ProxyInfo(
        "how unlike the Jacobians of different images are",
        "one backward",
        "Mellor et al., NAS without Training, arXiv 2006.04647v1",
        kept=-1,
    ),
    "naswot": ProxyInfo(
        "how unlike the patterns of active units of different images are",
        "one forward",
        "Mellor et al., NAS without Training, ICML 2021",
    ),
    "zen": ProxyInfo(
        "how much the last feature maps change with the image, norms' scales put back in",
        "eight forwards",
        "Lin et al., Zen-NAS, ICCV 2021",
    ),
    "one-epoch": ProxyInfo(
        "validation loss after the first epoch of recipe search, negated",
        "an epoch of training",
        kept=64,  # the recipe's batch
    ),
}
COST_PROXIES = ("params", "macs")
ZERO_COST_PROXIES = tuple(name for name in PROXIES if name != "one-epoch")
_NO_ROOM = "memory runs out; a smaller batch takes less"


def check_proxies(names: Iterable[str]) -> None:
    """Refuses what is no proxy.

    Raises:
        InputError: With one line, of the first that is unknown.
    """
    for name in names:
        if name not in PROXIES:
            hint = did_you_mean(str(name), PROXIES) or f"; there are {', '.join(PROXIES)}"
            raise InputError(f"no proxy is called '{name}'{hint}")


def with_cost_proxies(names: Sequence[str]) -> tuple[str, ...]:
    """The proxies of some names, the zero-cost ones if there are none; params and MACs always stand before them."""
    check_proxies(names)
    return tuple(dict.fromkeys([*COST_PROXIES, *(names or ZERO_COST_PROXIES)]))


@dataclass
class ProxyScorer:
    """Scores networks on a data set: on one batch of its training images, or after an epoch on all of them.

    A score depends on these fields and on the genotype alone; torch's global random state stays as it is.

    Args:
        data: The data set; its images are normalised, and not varied.
        seed: Draws the images, and the networks' weights.
        batch: Images, from 2 on; all training images where they are fewer.
        input: What the images are scaled to (channels, height, width), and the networks made for; the data set's own
            if unsaid.
        classes: Of the networks, not fewer than the data set's; as many if unsaid.
        threads: Most threads a network may take; small ones take one.
        room: Bytes that may be taken; a network of which a proxy is predicted to take more is not scored by it.

    Attributes:
        failed: The last reason why a proxy could not be computed, by its name.
        seconds: Processor time that each score took, by the proxy's name.

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
            raise InputError(f"input: {self.input[0]} channels, and {data.name} has {data.input[0]}")
        if self.classes < data.classes:
            raise InputError(f"classes: {self.classes}, and {data.name} has {data.classes}")
        if min(self.batch, len(data.train)) < 2:
            raise InputError(f"batch {self.batch} of {len(data.train)} training images: at least 2 are needed")
        self.images, self.labels = self._draw()

    def _draw(self) -> tuple[Tensor, Tensor]:
        import torch
        from torch.nn import functional

        from nas_agg.training.augment import normalise

        assert self.input is not None
        train = self.data.train
        generator = torch.Generator().manual_seed(derive_seed(self.seed, 0, "proxy images"))
        chosen = torch.randperm(len(train), generator=generator)[: self.batch]
        images = normalise(train.images[chosen], self.data.mean, self.data.std).contiguous()
        if images.shape[2:] != self.input[1:]:
            images = functional.interpolate(images, self.input[1:], mode="bilinear", antialias=True)
        return images, train.labels[chosen]

    def scores(self, genotype: Genotype, names: Sequence[str], init: int = 0) -> dict[str, float]:
        """A network's scores; not a number where one cannot be computed, and why is in `failed`.

        Args:
            genotype: Made for the batch's images and classes first.
            names: Of proxies.
            init: The number of the weights' initialisation, from 0.

        Raises:
            InputError: It is no network on such images.
        """
        from nas_agg.expansion.costs import Cost
        from nas_agg.expansion.expansion import expand

        check_proxies(names)
        cost = Cost(expand(genotype.with_task(self.input, self.classes)))
        known = {"params": float(cost.params), "macs": float(cost.macs)}
        if set(names) <= set(COST_PROXIES):
            return {name: known[name] for name in names}
        seed = derive_seed(self.seed, init, "proxy weights")
        with _apart(max(1, min(self.threads, cost.macs // MACS_A_THREAD))):
            return {name: known[name] if name in known else self._score(name, cost, seed) for name in names}

    def _score(self, name: str, cost: Cost, seed: int) -> float:
        from nas_agg.training import proxies

        if self.memory_limit is not None and self._need(name, cost) > self.memory_limit:
            return self._fail(name, _NO_ROOM)
        start = time.process_time()
        try:
            sample = proxies.Sample(self.images, self.labels, self.data)
            score = proxies.PROXIES[name].score(cost.graph, sample, seed)
            self.seconds.setdefault(name, []).append(time.process_time() - start)
            return score
        except Exception as error:  # whatever torch makes of a network that nobody has tried
            return self._fail(name, _NO_ROOM if out_of_memory(error) else describe_exception(error))

    def _need(self, name: str, cost: Cost) -> int:
        """Bytes that a proxy is predicted to take."""
        from nas_agg.training.memory import step_bytes

        batch, kept = len(self.labels), PROXIES[name].kept
        if kept:
            return step_bytes(cost, "plain", batch if kept < 0 else kept)
        return 2 * batch * cost.peak_bytes_inference

    def _fail(self, name: str, reason: str) -> float:
        self.failed[name] = reason
        return float("nan")

    def scores_or_nan(self, genotype: Genotype, names: Sequence[str], init: int = 0) -> dict[str, float]:
        """The same, where a genotype that is no network on such images has no scores."""
        try:
            return self.scores(genotype, names, init)
        except InputError as error:
            return {name: self._fail(name, str(error)) for name in names}


def genotype_digest(genotype: Genotype) -> str:
    """What scores of a genotype are kept by: its text, and not its hash, as weights are drawn in the text's order."""
    return hashlib.blake2b(genotype.to_json().encode(), digest_size=16).hexdigest()


@contextlib.contextmanager
def _apart(threads: int) -> Iterator[None]:
    """Within, torch has so many threads and a random state of its own, and keeps gradients."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            yield
    finally:
        torch.set_num_threads(before)
