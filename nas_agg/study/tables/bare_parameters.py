"""Search variables without networks, for functions that score anything else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nas_agg.common.errors import GenotypeError, InputError
from nas_agg.common.files import canonical_json
from nas_agg.common.values import json_values
from nas_agg.language.genotype import format_value
from nas_agg.search_space.domains import parse_domain
from nas_agg.search_space.parameters import SearchVariables, Values
from nas_agg.study.tables.table_file import Row


class ParameterSpace(SearchVariables):
    """Search variables and their domains, written as under ``open`` of a space file.

    Args:
        text: For each name a list of values, or ``{"from": 1, "to": 9}``.

    Raises:
        InputError: A name or a domain is invalid.
    """

    name = "names"

    def __init__(self, text: Mapping[str, Any]):
        if not text:
            raise InputError(
                "space: no search variables; use for example {name: [values]} or {name: {'from': 1, 'to': 9}}"
            )
        try:
            for key in text:
                if not isinstance(key, str) or not key:
                    raise GenotypeError(f"{format_value(key)} is not a name")
            domains = {str(key): parse_domain(json_values(values, key), key) for key, values in text.items()}
            super().__init__(domains)
        except GenotypeError as error:
            raise InputError(f"space: {error}") from None

    def genotype(self, values: Mapping[str, Any], input: Any = None, classes: Any = None) -> Values:
        """The point itself."""
        return self.validate(values)

    def network(self, values: Values) -> Row:
        """A row without costs, whose hash identifies the point."""
        return Row(0.0, (), canonical_json(values))
