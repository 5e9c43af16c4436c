"""What a draw of a searcher turns out to be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from nas_agg.language.genotype import Genotype


@dataclass(frozen=True)
class Candidate:
    """A network within the limits.

    Attributes:
        genotype: The network; for bare parameters their values.
        params, macs, hash: Its cost and canonical hash.
        activation_bytes: Bytes per image kept for backward, if the search needs them.
    """

    genotype: Genotype
    params: int
    macs: int
    hash: str
    activation_bytes: int | None = None


@dataclass(frozen=True)
class Rejection:
    """Why a draw is not a candidate.

    Attributes:
        reason: A limit that it exceeds, or why it is not a network.
    """

    reason: str


class Proposal(NamedTuple):
    """A trial that was created.

    Attributes:
        number: Number of the trial.
        candidate: Its network.
    """

    number: int
    candidate: Candidate


@dataclass(frozen=True)
class Promotion:
    """A paused trial that continues.

    Attributes:
        number: Number of the trial.
    """

    number: int


@dataclass(frozen=True)
class NoProposal:
    """Why no trial was created.

    Attributes:
        reason: The space is exhausted, or the searcher proposes nothing new, at least while other trials run.
    """

    reason: str
