"""Costs of the points of a space, computed without writing their graphs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nas_agg.common.errors import GenotypeError
from nas_agg.expansion.block_expansion import count_network
from nas_agg.expansion.block_figures import BlockCost
from nas_agg.language.frozen import freeze
from nas_agg.language.template import TemplateResolver, exact_number, names_bound_inside
from nas_agg.search_space.domains import Choice
from nas_agg.search_space.encoding import Encoding
from nas_agg.search_space.parameters import Values
from nas_agg.search_space.space import Space


class PointCounter:
    """Counts the networks of a space's points.

    What two points have in common is resolved and counted once, so a mutant of a point that was counted before takes a
    fraction of the time that its graph takes.

    Args:
        space: The space.
        input: Shape of the images (channels, height, width); None: the space's own.
        classes: The number of classes; None: the space's own.
    """

    def __init__(self, space: Space, input: tuple[int, int, int] | None = None, classes: int | None = None):
        template = space.template
        self.input, self.classes = input or template.input, classes or template.classes
        self._encoding = Encoding(space)
        texts: dict[str, list[Any]] = {}
        self._text_columns: list[int] = []
        self._numbers: dict[str, tuple[int, list[Any] | None]] = {}  # column, and values of lists
        bound = names_bound_inside([template.to_dict(), [getattr(d, "values", ()) for d in space.domains.values()]])
        for column, (name, domain) in enumerate(space.domains.items()):
            if name in bound or (isinstance(domain, Choice) and not domain.ordered):
                self._text_columns.append(column)
                texts[name] = [freeze(domain.at(index)) for index in range(domain.size)]
            else:
                listed = [exact_number(value) for value in domain.values] if isinstance(domain, Choice) else None
                self._numbers[name] = column, listed
        self._resolver = TemplateResolver(template, texts, tuple(self._numbers))

    def cost(self, row: Sequence[int]) -> BlockCost:
        """The cost of a point.

        Args:
            row: The point as a row of the space's `Encoding`.

        Raises:
            GenotypeError: It makes no valid network.
        """
        domains, numbers = self._encoding.domains, dict[str, Any]()
        for name, (column, listed) in self._numbers.items():
            index = int(row[column])
            numbers[name] = domains[column].at(index) if listed is None else listed[index]
        try:
            net = self._resolver.at([int(row[column]) for column in self._text_columns], numbers)
            return count_network(net, self.input, self.classes, numbers)
        except RecursionError:
            raise GenotypeError("nested too deeply", "net") from None

    def cost_of(self, values: Values) -> BlockCost:
        """The cost of a point that is given by its values.

        Raises:
            GenotypeError: It makes no valid network.
        """
        return self.cost(self._encoding.encode(values).tolist())
