"""Interface of everything that can be searched: a space, a table of results, or bare search variables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    from optuna.distributions import BaseDistribution

    from nas_agg.search_space.parameters import Values


class SearchableSpace(Protocol):
    """Search variables, and the networks that their values describe.

    Attributes:
        names: Names of the search variables, in order.
    """

    names: tuple[str, ...]

    @property
    def distributions(self) -> Mapping[str, BaseDistribution]:
        """Optuna's distribution of each search variable."""

    def labels(self, values: Mapping[str, Any]) -> dict[str, int | str]:
        """The values of a point as Optuna stores them."""

    def values(self, labels: Mapping[str, int | str]) -> Values:
        """The point of labels."""

    def size(self) -> int:
        """Number of points."""

    def sample(self, rng: np.random.Generator) -> Values:
        """A random point."""

    def mutate(self, values: Mapping[str, Any], rng: np.random.Generator) -> Values:
        """A random neighbour of a point."""

    def genotype(
        self, values: Mapping[str, Any], input: tuple[int, int, int] | None = None, classes: int | None = None
    ) -> Any:
        """The network of a point for some image shape and number of classes; the point itself if it describes none."""
