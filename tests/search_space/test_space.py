"""Search spaces: operations on points of random spaces; space files and their errors."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas_agg.common.errors import InputError
from nas_agg.common.files import canonical_json
from nas_agg.common.manifest import write_manifest
from nas_agg.expansion.costs import cost
from nas_agg.search_space.references import open_genotype
from nas_agg.search_space.space import Space, list_spaces, open_space
from nas_agg.search_space.space_fields import Point

TEXT: dict[str, Any] = {
    "about": "A small space.",
    "input": [1, 8, 8],
    "classes": 10,
    "open": {
        "depth": {"from": 1, "to": 6, "step": 2},
        "width": [16, 8, 12.5],
        "wires": ["dense", "previous", {"window": 2}],
        "body": [["bn", {"conv": 3}], [{"conv": 1}]],
    },
    "let": {"k": 4},
    "net": [
        {
            "nodes": "depth",
            "growth": "floor(width) + k",
            "reads": {"pattern": "wires", "operator": "concat"},
            "unit": "body",
        },
        "gap",
        {"linear": "classes"},
    ],
    "points": {
        "small": {"values": {"depth": 1, "width": 8, "wires": "dense", "body": [{"conv": 1}]}},
        "121": {
            "values": {"depth": 5, "width": 12.5, "wires": {"window": 2}, "body": [{"conv": 1}]},
            "classes": 100,
            "input": [3, 32, 32],
        },
    },
    "min_input": 8,
    "search": {"max_macs": 1000, "epochs": 3},
}

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from([0.5, 1.0, 2.5, "dense", "a", "1", "l + 1"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=3,
)
NUMBERS = st.integers(-9, 9) | st.sampled_from([0.5, 0.25, -1.5])
RANGES = st.builds(
    lambda low, extra, step: {"from": low, "to": low + extra, "step": step},
    st.integers(-9, 9),
    st.integers(0, 9),
    st.integers(1, 4),
)


def value_key(value: Any) -> Any:
    """A key that is equal for equal values of a list: 1 and 1.0 are equal, 1 and true are not."""
    return value if isinstance(value, float) or type(value) is int else canonical_json(value)


LISTS = st.lists(NUMBERS | JSON, min_size=1, max_size=4, unique_by=value_key) | st.lists(
    NUMBERS, min_size=1, max_size=5, unique=True
)


@st.composite
def spaces(draw: st.DrawFn) -> Space:
    names = draw(st.lists(st.sampled_from(["alpha", "beta", "depth", "wires"]), min_size=1, max_size=4, unique=True))
    text = {"input": [1, 8, 8], "classes": 10, "net": ["gap", {"linear": "classes"}]}
    return Space(text | {"open": {name: draw(RANGES | LISTS) for name in names}}, "random")


SEEDS = st.integers(0, 2**32 - 1)


def changed(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    return [name for name in a if canonical_json(a[name]) != canonical_json(b[name])]


@given(spaces(), SEEDS)
def test_a_sample_is_valid_and_depends_on_the_seed(space: Space, seed: int) -> None:
    values = space.sample(np.random.default_rng(seed))
    assert list(values) == list(space.names) and space.validate(values) == values
    assert values == space.sample(np.random.default_rng(seed))


@given(spaces(), SEEDS)
def test_labels_and_values_are_inverse_and_optuna_accepts_the_labels(space: Space, seed: int) -> None:
    values = space.sample(np.random.default_rng(seed))
    labels = space.labels(values)
    assert canonical_json(space.values(labels)) == canonical_json(values)
    for name, label in labels.items():
        distribution = space.distributions[name]
        assert distribution._contains(distribution.to_internal_repr(label))
    assert space.values(json.loads(json.dumps(labels))) == values


@given(spaces(), SEEDS)
def test_neighbours_are_all_points_that_differ_in_one_variable(space: Space, seed: int) -> None:
    values = space.sample(np.random.default_rng(seed))
    neighbours = list(space.neighbours(values))
    assert all(len(changed(values, other)) == 1 for other in neighbours)
    assert len({canonical_json(other) for other in neighbours}) == len(neighbours)
    cards = [len(list(_all(distribution))) for distribution in space.distributions.values()]
    assert len(neighbours) == sum(card - 1 for card in cards)
    assert space.size() == np.prod(cards)


def _all(distribution: optuna.distributions.BaseDistribution) -> Any:
    if isinstance(distribution, optuna.distributions.IntDistribution):
        return range(distribution.low, distribution.high + 1, distribution.step)
    assert isinstance(distribution, optuna.distributions.CategoricalDistribution)
    return distribution.choices


@given(spaces(), SEEDS, st.integers(1, 5))
def test_a_mutant_differs_in_the_specified_number_of_variables(space: Space, seed: int, changes: int) -> None:
    rng = np.random.default_rng(seed)
    values = space.sample(rng)
    before = copy.deepcopy(values)
    mutant = space.mutate(values, rng, changes)
    free = sum(domain.size > 1 for domain in space.domains.values())
    assert len(changed(values, mutant)) == min(changes, free)
    assert values == before and space.validate(mutant) == mutant


@given(spaces(), SEEDS)
def test_a_child_has_each_value_from_a_parent(space: Space, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = space.sample(rng), space.sample(rng)
    child = space.crossover(a, b, rng)
    assert all(
        canonical_json(child[name]) in (canonical_json(a[name]), canonical_json(b[name])) for name in space.names
    )


@given(spaces(), SEEDS)
def test_vectors_have_one_length_and_distinguish_points(space: Space, seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = [space.sample(rng) for _ in range(6)]
    codes = [space.encode(point) for point in points]
    assert len({code.shape for code in codes}) == 1
    for code, point in zip(codes, points, strict=True):
        assert code.min() >= 0 and code.max() <= 1
        for other_code, other in zip(codes, points, strict=True):
            assert np.array_equal(code, other_code) == (canonical_json(point) == canonical_json(other))


def test_values_are_drawn_uniformly() -> None:
    space, rng = Space(TEXT, "mine"), np.random.default_rng(0)
    drawn = [space.sample(rng) for _ in range(3000)]
    mutants = [space.mutate(TEXT["points"]["small"]["values"], rng) for _ in range(3000)]
    for values in (1, 3, 5):
        assert sum(point["depth"] == values for point in drawn) == pytest.approx(1000, abs=100)
    small = TEXT["points"]["small"]["values"]
    for name, share in (("depth", 750), ("width", 750), ("wires", 750), ("body", 750)):
        assert sum(changed(small, mutant) == [name] for mutant in mutants) == pytest.approx(share, abs=90)


def test_numbers_are_encoded_by_rank_and_other_lists_one_hot() -> None:
    space = Space(TEXT, "mine")
    assert [d.__class__.__name__ for d in space.distributions.values()] == [
        "IntDistribution",
        *["CategoricalDistribution"] * 3,
    ]
    assert space.distributions["wires"].choices == ('"dense"', '"previous"', '{"window":2}')  # type: ignore[attr-defined]
    values = {"depth": 3, "width": 12.5, "wires": {"window": 2}, "body": [{"conv": 1}]}
    assert space.encode(values).tolist() == [0.5, 0.5, 0, 0, 1, 0, 1]
    assert space.labels(values) == {"depth": 3, "width": "12.5", "wires": '{"window":2}', "body": '[{"conv":1}]'}


def test_points_and_their_genotypes() -> None:
    space = Space(TEXT, "mine")
    assert (space.about, space.family, space.min_input, space.size()) == ("A small space.", "mine", 8, 54)
    search = space.search_defaults((3, 8, 8))
    assert (search.max_macs, search.max_params, search.epochs) == (1000, None, 3)
    point = space.point("121")
    assert (point.input, point.classes) == ((3, 32, 32), 100)
    other = space.point("121", input=(1, 8, 8), classes=7)
    assert (other.input, other.classes) == ((1, 8, 8), 7)
    assert space.values_of(point) == space.values_of(other) == TEXT["points"]["121"]["values"]
    assert space.point("small").classes == 10 and not space.point("small").open
    for seed in range(20):
        values = space.sample(np.random.default_rng(seed))
        assert space.values_of(space.genotype(values)) == values


def test_a_point_may_inherit_from_an_earlier_one() -> None:
    like = {"123": {"like": "121", "values": {"depth": 3}}, "124": {"like": "123", "classes": 7}}
    space = Space(TEXT | {"points": TEXT["points"] | like}, "mine")
    values = TEXT["points"]["121"]["values"] | {"depth": 3}
    assert space.points["123"] == Point(values, 100, (3, 32, 32))
    assert space.points["124"] == Point(values, 7, (3, 32, 32))


def test_a_genotype_of_another_space_is_rejected() -> None:
    other = Space(TEXT | {"let": {"k": 5}}, "other")
    with pytest.raises(InputError, match="not in the search space mine"):
        Space(TEXT, "mine").values_of(other.point("small"))


Edit = Callable[[dict[str, Any]], Any]
BROKEN: list[tuple[Edit, str]] = [
    (lambda t: t.pop("open"), "open: a search space needs search variables"),
    (lambda t: t.update(open={}), "open: a search space needs search variables"),
    (lambda t: t["open"].update(width=[]), "open.width: empty list"),
    (lambda t: t["open"].update(width=3), "open.width: 3 is neither a list"),
    (lambda t: t["open"].update(width=[1, 2, 1.0]), "open.width[2]: duplicate value 1.0"),
    (lambda t: t["open"].update(wires=["dense", "dense"]), 'open.wires[1]: duplicate value "dense"'),
    (lambda t: t["open"]["depth"].update(form=1), "open.depth.form: unknown field; did you mean 'from'?"),
    (lambda t: t["open"]["depth"].pop("to"), "open.depth: a range needs 'to'"),
    (lambda t: t["open"]["depth"].update(to=0.5), "open.depth.to: 0.5 is not an integer"),
    (lambda t: t["open"]["depth"].update(to=True), "open.depth.to: true is not an integer"),
    (lambda t: t["open"]["depth"].update(to=0), "open.depth: 'from' 1 is greater than 'to' 0"),
    (lambda t: t["open"]["depth"].update(step=0), "open.depth.step: 0 is not a positive integer"),
    (lambda t: t["open"].update(k=[1]), "open.k: also in 'let'"),
    (lambda t: t["open"].update({"relu": [1]}), "open.relu: 'relu' is a word of the language"),
    (
        lambda t: t["points"]["small"]["values"].update(width=9),
        "points.small.values.width: 9 is not one of 16, 8, 12.5",
    ),
    (lambda t: t["points"]["small"]["values"].update(depth=2), "points.small.values.depth: 2 is not one of 1 to 5 in"),
    (lambda t: t["points"]["small"]["values"].update(depth="1"), 'points.small.values.depth: "1" is not one of'),
    (lambda t: t["points"]["small"]["values"].update(wires="dens"), "did you mean 'dense'?"),
    (lambda t: t["points"]["small"]["values"].pop("body"), "points.small.values.body: missing value; specify one of"),
    (
        lambda t: t["points"]["small"]["values"].update(widht=8),
        "points.small.values.widht: unknown search variable; did",
    ),
    (
        lambda t: t["open"].update(body=[[{"conv": 1}], [{"conv": 1, "growth": 3}]]),
        "open.body[1]: unknown field",
    ),
    (lambda t: t["points"]["small"].pop("values"), "points.small: a point needs 'values'"),
    (
        lambda t: t["points"]["small"].update(clases=3),
        "points.small.clases: unknown field; did you mean 'classes'?",
    ),
    (lambda t: t["points"]["small"].update(classes=0), "points.small.classes: 0 is not a positive integer"),
    (lambda t: t["points"]["small"].update(input=[3, 32]), "points.small.input: [3, 32] is not [channels"),
    (lambda t: t["points"]["small"].update(input=[3, 32, "x"]), 'points.small.input[2]: "x" is not a positive integer'),
    (lambda t: t["points"].update(new={"like": "smal"}), 'points.new.like: "smal" is not an earlier point; did'),
    (lambda t: t["points"].update(new={"like": "new"}), 'points.new.like: "new" is not an earlier point'),
    (lambda t: t["points"].update(new={"like": ["small"]}), 'points.new.like: ["small"] is not an earlier point'),
    (
        lambda t: t["points"].update(new={"like": "small", "values": {"wid": 8}}),
        "points.new.values.wid: unknown search variable",
    ),
    (lambda t: t.update(points=[]), "points: [] is not an object"),
    (lambda t: t["points"].update(small=3), "points.small: 3 is not a point"),
    (lambda t: t["search"].update(max_mac=3), "search.max_mac: unknown field; did you mean 'max_macs'?"),
    (lambda t: t["search"].update(epochs=0), "search.epochs: 0 is not a positive integer"),
    (lambda t: t.update(search=3), "search: 3 is not an object"),
    (lambda t: t.update(min_input="8"), 'min_input: "8" is not a positive integer'),
    (lambda t: t.update(about=3), "about: 3 is not text"),
    (lambda t: t.update(pionts={}), "pionts"),
    (lambda t: t.pop("net"), "net"),
    (lambda t: t["net"][0].update(unti=[]), "net[0].unti"),
    (lambda t: t["net"][0].update(growth="4*+"), "net[0].growth"),
    (lambda t: t["net"].insert(1, "bodi"), "net[1]"),
]


@pytest.mark.parametrize(("edit", "message"), BROKEN, ids=[message for _, message in BROKEN])
def test_an_invalid_space_is_rejected_in_one_line_that_names_the_field(edit: Edit, message: str) -> None:
    text = copy.deepcopy(TEXT)
    edit(text)
    with pytest.raises(InputError) as caught:
        Space(text, "mine")
    assert str(caught.value).startswith("mine: ") and message in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.recursive(JSON, lambda inner: st.lists(inner, max_size=2), max_leaves=4), st.sampled_from(sorted(TEXT)))
def test_any_value_of_a_field_is_accepted_or_rejected_in_one_line(value: Any, field: str) -> None:
    try:
        Space(TEXT | {field: value}, "mine")
    except InputError as error:
        assert "\n" not in str(error)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a space ``mine.json`` and a run."""
    (tmp_path / "mine.json").write_text(json.dumps(TEXT))
    genotype = Space(TEXT, "mine").point("small").to_json()
    for place in ("run/best", "run/trials/0", "run/trials/12", "empty"):
        (tmp_path / place).mkdir(parents=True)
    for place in ("run/best", "run/trials/0", "run/trials/12", ""):
        (tmp_path / place / "genotype.json").write_text(genotype)
    hash = cost(Space(TEXT, "mine").point("small")).hash
    for number in (0, 12):
        write_manifest(tmp_path / f"run/trials/{number}", trial=number, hash=hash)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_spaces_are_opened_by_name_and_by_path(folder: Path) -> None:
    assert "microdense" in list_spaces()
    assert open_space("microdense").name == "microdense"
    assert open_space("./mine.json").name == open_space(folder / "mine.json").name == "mine"
    for name, message in {
        "microdens": "unknown search space 'microdens'; did you mean 'microdense'?",
        "zzz": "unknown search space 'zzz'; installed spaces: ",
        "min.json": "min.json: no such file; did you mean 'mine.json'?",
        "./run": "is a folder",
        "genotype.json": "genotype: open: a search space needs search variables",
    }.items():
        with pytest.raises(InputError) as caught:
            open_space(name)
        assert message in str(caught.value)


def test_genotypes_of_files_points_and_runs(folder: Path) -> None:
    small = Space(TEXT, "mine").point("small")
    for text in (
        "genotype.json",
        "mine.json/small",
        f"{folder}/mine.json/small",
        "run",
        "run/",
        "run:0",
        f"{folder}/run:12",
    ):
        assert open_genotype(text) == small
    assert open_genotype("microdense/30a64") == open_space("microdense").point("30a64")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("microdense", "microdense is a search space, not a genotype: specify one of its points, such as microdense/"),
        ("microdense/30a46", "microdense has no point '30a46'; did you mean '30a64'?"),
        ("microdens/30a64", "did you mean 'microdense/30a64'?"),
        ("nothing", "no genotype 'nothing': no such file, run or space/point"),
        ("genotyp.json", "genotyp.json: no such file; did you mean 'genotype.json'?"),
        ("no/where/x.yaml", "no such file"),
        (
            "mine.json",
            "mine.json: a search space, not a genotype: specify one of its points, such as mine.json/small",
        ),
        ("mine.json/smal", "mine has no point 'smal'; did you mean 'small'?"),
        ("empty", "empty: not a run folder with a best network"),
        ("run:7", "run: no trial '7'; its trials are 0 to 12"),
        ("run:../../run", "run: no trial '../../run'"),
        ("empty:0", "empty: no trial '0'; it has no trials"),
        ("", "no genotype ''"),
        ("a\0b/c", "no"),
        ("a:b:c/d", "no"),
    ],
)
def test_an_unknown_genotype_is_rejected_in_one_line_with_suggestions(folder: Path, text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        open_genotype(text)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_points_of_a_family_in_two_files_are_referred_to_by_the_family(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = TEXT["points"]
    package = tmp_path / "two_spaces_for_a_test"
    package.mkdir()
    (package / "__init__.py").touch()
    for name, point in (("small-net", "small"), ("small-net-imagenet", "121")):
        text = TEXT | {"family": "small-net", "points": {point: points[point]}}
        (package / f"{name}.json").write_text(json.dumps(text))
    about = tmp_path / "two_spaces_for_a_test-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: two-spaces-for-a-test\nVersion: 1\n")
    (about / "entry_points.txt").write_text(
        "[nas_agg.spaces]\ntwo = two_spaces_for_a_test\nbroken = nothing_of_this_name\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.warns(UserWarning, match="nothing_of_this_name cannot be read"):
        assert {"small-net", "small-net-imagenet", "microdense"} <= set(list_spaces())
        assert open_genotype("small-net/121") == Space(TEXT, "x").point("121")
        assert open_genotype("small-net-imagenet/121") == open_genotype("small-net/121")
        with pytest.raises(InputError, match="small-net has no point '212'; did you mean '121'"):
            open_genotype("small-net/212")


def test_opening_a_point_imports_neither_torch_nor_optuna() -> None:
    code = "import sys; from nas_agg.search_space.references import open_genotype; open_genotype('microdense/30a64');"
    code += "print({'torch', 'optuna'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.stdout.strip() == "set()", result.stderr


SMALL_MICRODENSE: dict[str, Any] = {
    "input": [3, 8, 8],
    "classes": 10,
    "open": {
        "blocks": {"from": 1, "to": 6},
        "layers": {"from": 1, "to": 6},
        "ratio": [0.1, 0.15, 0.2, 0.25],
        "alpha": [16, 32, 64, 128],
        "wires": ["dense", "previous", {"window": 2}, {"exponential": 2}, {"micro-dense": 2}],
        "inner": ["concat", "sum"],
        "outer": ["sum", "weighted", "mean"],
        "reach": ["previous", "dense", {"exponential": 2}],
        "rise": ["floor(16 + alpha*l/n)", "16 + alpha//2"],
        "groups_": ["l + 1", "gcd(4, w)", 1],
    },
    "let": {
        "micro": {
            "nodes": "layers",
            "growth": "(l + 1)*in/4",
            "cardinality": "groups_",
            "reads": {"pattern": "wires", "operator": "inner", "match": [{"conv": 1}, "bn"]},
            "unit": [{"conv": 1}, "bn", "relu", {"conv": 3, "groups": "g"}, "bn", "relu"],
        }
    },
    "net": [
        {"conv": 3, "out": 16},
        "bn",
        {
            "nodes": "3*blocks",
            "growth": "rise",
            "stride": "2 if l == blocks + 1 or l == 2*blocks + 1 else 1",
            "unit": [
                {"conv": "4 if s > 1 else 1", "out": "4*max(1, floor(ratio*in))", "stride": "s"},
                "bn",
                "relu",
                "micro",
                {"conv": 1},
                "bn",
                "join",
            ],
            "shortcut": {"pattern": "reach", "operator": "outer", "match": [{"avgpool": "s"}, {"conv": 1}]},
        },
        "bn",
        "gap",
        {"linear": "classes"},
    ],
}


def test_patterns_operators_and_schedules_as_search_variables():
    """Patterns, operators and schedules may be search variables; every point is a valid network."""
    space = Space(SMALL_MICRODENSE, "small")
    assert space.size() == 6 * 6 * 4 * 4 * 5 * 2 * 3 * 3 * 2 * 3
    rng, hashes = np.random.default_rng(0), set()
    for _ in range(100):
        values = space.sample(rng)
        counted = cost(space.genotype(values))
        hashes.add(counted.hash)
        assert space.values_of(space.genotype(values)) == values
    assert len(hashes) > 90


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"open": {"k": list(range(1, 40_000))}}, ""),
        ({"open": {"k": {"from": 1, "to": 10**8}}}, ""),
        ({"points": {f"p{i}": {"values": {"k": 1}} for i in range(15_000)}}, ""),
        ({"points": {"p0": {"values": {"k": 1}}} | {f"p{i}": {"like": f"p{i - 1}"} for i in range(1, 15_000)}}, ""),
        ({"open": {"k": [1], **{f"v{i}": {"from": 0, "to": 10**9} for i in range(15_000)}}}, ""),
        ({"open": {"k": [f"c+{i}" for i in range(20_000)]}}, "open: too many listed values for a text of this length"),
        ({"search": {"max_macs": "9**9**9"}}, "search.max_macs: a power exceeds 1024 bits"),
        ({"open": {"k": [1], "m": [1] * 40_000}}, "open.m[1]: duplicate value 1"),
    ],
)
def test_large_spaces_are_opened_or_rejected_at_once(fields: dict[str, Any], message: str) -> None:
    text = {"input": [1, 8, 8], "classes": 3, "net": [{"conv": 3, "out": "4*k"}, "gap", {"linear": "classes"}]}
    began = time.process_time()
    try:
        space = Space({**text, "open": {"k": [1, 2]}, **fields}, "big")
        space.genotype(space.sample(np.random.default_rng(0)))
        assert not message
    except InputError as error:
        assert message and str(error).startswith(f"big: {message}")
    assert time.process_time() - began < 5


def test_each_listed_step_is_checked() -> None:
    text = {"input": [1, 8, 8], "classes": 3, "net": ["part", "gap", {"linear": "classes"}]}
    wrong = [["relu"], ["bn"], [{"conv": 3, "ot": 1}]]
    with pytest.raises(InputError, match=r"^odd: open\.part\[2\]: unknown field; did you mean 'out'\?"):
        Space({**text, "open": {"part": wrong}}, "odd")
