"""The space `efficientnet`: B0, its Micro-Dense variants, and that untouched blocks stay as they are."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from corpus import NETWORKS
from corpus.variants import variant

from nas_agg.expansion.costs import cost
from nas_agg.expansion.expansion import expand
from nas_agg.graph.canonical import canonical_hash
from nas_agg.language.genotype import Genotype
from nas_agg.search_space.space import open_space

SPACE = open_space("efficientnet")
network = partial(variant, "efficientnet")
STAGES = ((1,), (2, 3), (4, 5), (6, 7, 8), (9, 10, 11), (12, 13, 14, 15), (16,))
PLACES = {b: f"stage{s}.{k}.unit" for s, blocks in enumerate(STAGES, 1) for k, b in enumerate(blocks)}
REPLACED = {"b0-mdconv": (8, 9, 10), "b0-mdconv-stage": (9, 10, 11)}


def parts(point: str, place: str) -> dict[str, Any]:
    """The operations with parameters at a place, by path."""
    graph = expand(SPACE.point(point))
    return {
        path: op for op, path in zip(graph.ops, graph.paths, strict=True) if op.params and path.startswith(f"{place}.")
    }


def spent(point: str, blocks: tuple[int, ...]) -> tuple[int, int]:
    """Parameters and MACs of some blocks."""
    graph, places = expand(SPACE.point(point)), tuple(f"{PLACES[b]}." for b in blocks)
    inside = [i for i, path in enumerate(graph.paths) if path.startswith(places)]
    return sum(graph.ops[i].params for i in inside), sum(graph.ops[i].macs(graph.shapes[i]) for i in inside)


@pytest.mark.parametrize(
    ("point", "params", "gmacs"),
    [("b0", 5_288_548, 0.386), ("b0-mdconv", 5_285_894, 0.401), ("b0-mdconv-stage", 5_281_115, 0.404)],
)
def test_counts(point: str, params: int, gmacs: float) -> None:
    counted = cost(SPACE.point(point))
    assert (counted.params, round(counted.macs / 1e9, 3)) == (params, gmacs)


def test_two_of_them_are_those_written_by_hand() -> None:
    hashes = {one["name"]: canonical_hash(expand(Genotype.from_dict(one["genotype"]))) for one in NETWORKS}
    assert canonical_hash(expand(SPACE.point("b0"))) == hashes["EfficientNet-B0"]
    assert canonical_hash(expand(SPACE.point("b0-mdconv-stage"))) == hashes["EfficientNet-B0 with MDConv-3"]


@pytest.mark.parametrize("name", REPLACED)
def test_all_other_blocks_keep_their_names_and_shapes(name: str) -> None:
    for block, place in PLACES.items():
        before, after = parts("b0", place), parts(name, place)
        assert before and (before == after) == (block not in REPLACED[name])
    for place in ("stem", "head"):
        assert parts("b0", place) == parts(name, place)


@pytest.mark.parametrize(
    ("name", "params", "mmacs"), [("b0-mdconv", 437_476, 69.2), ("b0-mdconv-stage", 543_148, 86.1)]
)
def test_what_the_replaced_blocks_had(name: str, params: int, mmacs: float) -> None:
    removed = spent("b0", REPLACED[name])
    assert (removed[0], round(removed[1] / 1e6, 1)) == (params, mmacs)
    added, before, after = spent(name, REPLACED[name]), cost(SPACE.point("b0")), cost(SPACE.point(name))
    assert (after.params - before.params, after.macs - before.macs) == (added[0] - removed[0], added[1] - removed[1])
    assert abs(after.params / before.params - 1) < 0.01 and abs(after.macs / before.macs - 1) < 0.05


@pytest.mark.parametrize("point", REPLACED)
@pytest.mark.parametrize(
    ("n", "ratios"),
    [(1, (0.62, 0.66)), (2, (0.4, 0.43)), (3, (0.277, 0.312)), (4, (0.215, 0.237)), (5, (0.17, 0.187)),
     (6, (0.134, 0.151))],
)  # fmt: skip
def test_other_n_fit_the_same_budget(point: str, n: int, ratios: tuple[float, float]) -> None:
    for ratio in ratios:
        let = {f"{name}{b}": value for b in REPLACED[point] for name, value in (("layers", n), ("ratio", ratio))}
        counted = cost(network(point, **let))
        assert (f"{counted.params / 1e6:.1f}", f"{counted.macs / 1e9:.1f}") == ("5.3", "0.4")


def test_other_readings_of_the_block_are_other_text_for_its_names() -> None:
    base = cost(SPACE.point("b0-mdconv")).params
    assert cost(network("b0-mdconv", micro_act="swish")).params == base
    own = {"unit": ["compress", "micro", "project", "join"], "shortcut": {"match": [{"avgpool": "s"}, {"pad": "w"}]}}
    padded = expand(network("b0-mdconv", mdconv=[own]))  # a zero-padded identity where 80 channels become 112
    adds = [sum(op.word == "add" for op in graph.ops) for graph in (padded, expand(SPACE.point("b0-mdconv")))]
    assert adds[0] == adds[1] + 1 and padded.ops[[op.word for op in padded.ops].index("pad")].extra == 32  # type: ignore[attr-defined]
    assert cost(network("b0-mdconv", block8="mdconv_se")).params > base


def test_b0_is_within_a_default_search_s_limit() -> None:
    limit = SPACE.search_defaults((3, 224, 224)).max_macs
    assert limit is not None and cost(SPACE.point("b0")).macs <= limit


def test_each_block_is_chosen_for_itself() -> None:
    chosen = ("block", "kernel", "layers", "ratio")
    assert SPACE.names == ("width", "joined", "ends", *(f"{name}{b}" for b in PLACES for name in chosen))
    values = SPACE.points["b0"].values | {"width": 0.25}
    md = values | {f"block{b}": "mdconv" for b in PLACES}
    # A kernel is an MBConv's, the layers and the ratio are an MDConv's.
    before = {name: md if name in ("layers", "ratio") else values for name in chosen}
    after = {"block": "plain3", "kernel": 7, "layers": 1, "ratio": 0.64}
    made = {
        canonical_hash(expand(SPACE.genotype(before[name] | {f"{name}{b}": after[name]})))
        for name in chosen
        for b in PLACES
    }
    assert len(made - {canonical_hash(expand(SPACE.genotype(whole))) for whole in (values, md)}) == 4 * len(PLACES)


def test_table_1_to_the_letter_has_a_relu_behind_each_output_layer() -> None:
    """Table 1 of the Micro-Dense Nets: the output layer is C1-BR."""
    today, letter = (expand(SPACE.point(name)) for name in ("b0-mdconv", "b0-mdconv-letter"))
    more = [path for path in letter.paths if path not in set(today.paths)]
    assert more == [f"{PLACES[b]}.relu" for b in (8, 9, 10)]
    assert (cost(SPACE.point("b0-mdconv-letter")).params, len(letter)) == (5_285_894, len(today) + 3)


def test_shortcuts_may_be_weighted() -> None:
    extra = cost(network("b0", joined="weighted")).params - cost(network("b0")).params
    repeats = {24: 1, 40: 1, 80: 2, 112: 2, 192: 3}  # blocks behind the first of each stage
    assert extra == sum(width * blocks for width, blocks in repeats.items())
