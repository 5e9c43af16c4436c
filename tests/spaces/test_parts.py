"""Subspaces of other spaces."""

from __future__ import annotations

import numpy as np
import pytest
import yaml

from nas_agg.common.errors import InputError
from nas_agg.expansion.expansion import expand
from nas_agg.graph.canonical import canonical_hash
from nas_agg.search_space.space import open_space

PART = {
    "about": "short chains",
    "like": "densenet",
    "open": {},
    "values": {},
}


@pytest.fixture
def part(tmp_path):
    """A function that writes and opens a subspace of `densenet`, with two values for each of two variables."""
    parent = open_space("densenet")
    first = parent.sample(np.random.default_rng(0))
    restricted = parent.names[:2]
    domains = {name: parent.domains[name] for name in restricted}
    text = {
        **PART,
        "open": {name: [domain.at(0), domain.at(domain.size - 1)] for name, domain in domains.items()},
        "values": {name: value for name, value in first.items() if name not in restricted},
    }

    def write(**changes):
        file = tmp_path / "part.yaml"
        file.write_text(yaml.safe_dump({**text, **changes}, sort_keys=False))
        return open_space(file)

    write.text, write.parent = text, parent
    return write


def test_every_point_of_a_subspace_is_a_point_of_its_parent(part):
    space = part()
    assert (space.name, space.family, space.size()) == ("part", "part", 4)
    assert space.names == part.parent.names[:2]
    assert space.points == {}
    rng = np.random.default_rng(1)
    for _ in range(4):
        values = space.sample(rng)
        own = space.genotype(values)
        other = part.parent.genotype(values | part.text["values"], own.input, own.classes)
        assert canonical_hash(expand(own)) == canonical_hash(expand(other))
        assert space.values_of(own) == values


def test_a_subspace_inherits_fields_that_it_does_not_specify(part):
    assert part().search_text == part.parent.search_text
    space = part(input=[1, 8, 8], search={"epochs": 3}, min_input=8)
    assert (space.template.input, space.search_text, space.min_input) == ((1, 8, 8), {"epochs": 3}, 8)


def test_a_subspace_without_values_or_open_has_all_points_of_its_parent(tmp_path):
    file = tmp_path / "same.yaml"
    file.write_text("like: agg-bench\ninput: [3, 16, 16]\ntable: {dataset: cifar10}\n")
    space, parent = open_space(file), open_space("agg-bench")
    assert {name: str(domain) for name, domain in space.domains.items()} == {
        name: str(domain) for name, domain in parent.domains.items()
    }
    assert (space.template.input, space.table, space.points) == ((3, 16, 16), None, {})
    values = space.sample(np.random.default_rng(0))
    assert space.genotype(values) == parent.genotype(values, (3, 16, 16))


def test_the_bench_space_is_a_subspace_of_aggregation():
    space, parent = open_space("agg-bench"), open_space("aggregation")
    assert space.size() == 2160
    rng = np.random.default_rng(2)
    for _ in range(5):
        genotype = space.genotype(space.sample(rng))
        assert parent.values_of(genotype)["stem"] == 16


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"like": "dense"}, "part: like: .dense. is not an installed space"),
        ({"like": 3}, "part: like: 3 is not an installed space"),
        ({"net": ["gap"]}, "part: net: inherited from the space under 'like'"),
        ({"let": {}}, "part: let: inherited from the space under 'like'"),
        ({"values": {}}, "part: open: search variable '.*' is missing here and under 'values'"),
        ({"open": {"nothing": [1, 2]}}, "part: open.nothing: not a search variable of densenet"),
        ({"values": 3}, "part: values: 3 is not an object"),
    ],
)
def test_invalid_subspaces_are_rejected(part, changes, message):
    with pytest.raises(InputError, match=f"^{message}"):
        part(**changes)


def test_values_that_the_parent_lacks_are_rejected(part):
    name = part.parent.names[0]
    with pytest.raises(InputError, match=rf"^part: open\.{name}: .* is not one of"):
        part(open={**part.text["open"], name: ["nonsense", "other"]})
    fixed = part.parent.names[3]
    with pytest.raises(InputError, match=rf"^part: values\.{fixed}: .* is not one of"):
        part(values={**part.text["values"], fixed: "nonsense"})
    with pytest.raises(InputError, match=r"also under 'values'"):
        part(values={**part.text["values"], name: 1})
