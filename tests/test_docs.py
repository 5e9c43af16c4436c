"""docs/language.md says what is so: its genotypes, counts, tables, names and errors; the schema is the code's."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import Any

import pytest

from nas_agg.common.errors import GenotypeError
from nas_agg.common.files import MAX_CHARACTERS, parse_document
from nas_agg.expansion.costs import cost
from nas_agg.expansion.expansion import expand
from nas_agg.graph import primitives
from nas_agg.graph.graph import MAX_READS, MAX_STEPS
from nas_agg.language import expressions, patterns
from nas_agg.language import resolver as names
from nas_agg.language.genotype import ADAPTERS as TYPES
from nas_agg.language.genotype import MAX_NESTING, Genotype, typed
from nas_agg.language.layers import LAYERS
from nas_agg.language.operators import OPERATORS
from nas_agg.language.patterns import PATTERNS
from nas_agg.search_space.space import Space

DOCS = Path(__file__).parents[1] / "docs"
TEXT = (DOCS / "language.md").read_text(encoding="utf-8")
BLOCKS = list(re.finditer(r"^```(\w+)\n(.*?)^```$", TEXT, re.M | re.S))
WRITTEN = {match[2]: parse_document(match[2], "language.md") for match in BLOCKS if match[1] in ("yaml", "json")}
GENOTYPES = {text: value for text, value in WRITTEN.items() if "net" in value and "open" not in value}
SPACES = {text: value for text, value in WRITTEN.items() if "open" in value}


def block(after: str) -> str:
    """The first block of plain text after some words."""
    return next(match[2] for match in BLOCKS if match[1] == "text" and match.start() > TEXT.index(after))


def genotype_of(title: str) -> dict[str, Any]:
    (text,) = [text for text in GENOTYPES if text.startswith(f"# {title}")]
    return json.loads(json.dumps(GENOTYPES[text]))


def params(value: Any) -> int:
    return cost(Genotype.read(value)).params


def ids(texts: Any) -> list[str]:
    return [text.splitlines()[0].strip("# ")[:40] for text in texts]


def test_blocks_are_found() -> None:
    assert len(GENOTYPES) == 16 and len(SPACES) == 1
    assert len(WRITTEN) == 17, "every YAML or JSON block is a complete genotype or space"


@pytest.mark.parametrize("text", GENOTYPES, ids=ids(GENOTYPES))
def test_counts_of_genotypes(text: str) -> None:
    found = cost(Genotype.read(GENOTYPES[text]))
    said = {what: int(number.replace(",", "")) for number, what in re.findall(r"([\d,]+) (parameters|MACs)", text)}
    assert said["parameters"] == found.params
    assert said.get("MACs", found.macs) == found.macs


def test_the_first_two_genotypes_are_one_network() -> None:
    first, second = list(GENOTYPES)[:2]
    assert "the same hash" in second
    assert cost(Genotype.read(GENOTYPES[first])).hash == cost(Genotype.read(GENOTYPES[second])).hash


@pytest.mark.parametrize("text", SPACES, ids=ids(SPACES))
def test_counts_of_points(text: str) -> None:
    space = Space(SPACES[text], "written")
    said = re.findall(r"^  (\w+): \{values.*# ([\d,]+) parameters$", text, re.M)
    assert [name for name, _ in said] == list(space.points)
    for name, number in said:
        assert int(number.replace(",", "")) == cost(space.point(name)).params


def wrn() -> dict[str, Any]:
    value = genotype_of("ResNet-50")
    for i in (0, 3):
        value["let"]["stage"]["unit"][i]["out"] = "2*w"
    return value


def resnext() -> dict[str, Any]:
    value = wrn()
    value["let"]["stage"]["unit"][3]["groups"] = "g"
    value["let"]["stage"]["cardinality"] = 32
    return value


def dsnet() -> dict[str, Any]:
    value = genotype_of("DS2Net-50")
    value["let"]["inner"] = [{"conv": 3, "stride": "s"}, "bn"]
    return value


def efficientnet() -> dict[str, Any]:
    value = genotype_of("EfficientNet-B0")
    (stage,) = [
        step for steps in value["net"] for step in steps if isinstance(step, dict) and step.get("unit") == "mdconv"
    ]
    del stage["unit"]
    stage["let"] = {"k": 5}
    return value


@pytest.mark.parametrize(
    ("name", "value"),
    [("WRN-50-2", wrn()), ("ResNeXt-50 32x4d", resnext()), ("DSNet-50", dsnet()), ("EfficientNet-B0", efficientnet())],
    ids=["WRN-50-2", "ResNeXt-50", "DSNet-50", "EfficientNet-B0"],
)
def test_counts_of_variants(name: str, value: dict[str, Any]) -> None:
    said = re.search(rf"{name}\s+\(([\d,]+)\)", TEXT)
    assert said and int(said[1].replace(",", "")) == params(value)


@pytest.mark.parametrize("word", sorted({*LAYERS, *PATTERNS, *OPERATORS}))
def test_every_word_is_said(word: str) -> None:
    assert re.search(rf"`(\{{{word}: [^`]*|{word})`", TEXT)


@pytest.mark.parametrize("words", [LAYERS, PATTERNS, OPERATORS], ids=["layers", "patterns", "operators"])
def test_every_field_is_said(words: dict) -> None:
    for kind in words.values():
        for name, field in kind.model_fields.items():
            field_text = field.alias or name
            assert re.search(rf"`{field_text}`|[{{ ]{field_text}: ", TEXT), f"{kind.__name__}.{field_text}"


def test_table_of_patterns() -> None:
    table = TEXT[TEXT.index("| pattern | 1 | 2 |") :].split("\n\n")[0].splitlines()[2:]
    assert len(table) == len(PATTERNS) - 1  # all but edges
    for line in table:
        word, *cells = [cell.strip() for cell in line.strip("|").split("|")]
        pattern = typed(TYPES["pattern"], parse_document(word.strip("`"), "table", "yaml"))
        kind = PATTERNS[pattern] if isinstance(pattern, str) else type(pattern)
        values = {} if isinstance(pattern, str) else pattern.model_dump(by_alias=True)
        for position, cell in enumerate(cells, 1):
            assert kind.sources(position, **values) == [int(source) for source in cell.split()], f"{word} {position}"


def test_names_of_parameters() -> None:
    graph = expand(Genotype.read(next(v for text, v in GENOTYPES.items() if "fit: [{conv: 1}, bn]" in text)))
    stateful = {path: op for path, op in zip(graph.paths, graph.ops, strict=True) if op.stateful}
    said = block("Names of parameters").split()
    assert len(said) == 9
    for name in said:
        owner, _, own = name.rpartition(".")
        if name in stateful:
            assert stateful[name].module() is None, f"{name} is a module, not a parameter"
        else:
            assert own in ("weight", "bias") and stateful[owner].module() is not None


CONV = {"conv": 3, "out": 16}
END = ["gap", {"linear": "classes"}]
PLAIN = ["bn", "relu", {"conv": 3}, "join"]
FAULTS = [
    ({"unit": ["bn", "relu", {"conv": 3, "ot": 64}]}, {"like": "block"}),
    ({}, {"growth": "4*+", "unit": PLAIN[:3]}),
    ({"unit": [{"conv": 1}, "relu", {"conv": 3, "groups": 3}]}, {"like": "block", "growth": 64}),
    ({"unit": PLAIN, "shortcut": {}}, {"like": "block", "growth": 64}),
    ({}, {"growth": "in/3", "unit": PLAIN[:3]}),
]


@pytest.mark.parametrize(("said", "fault"), list(zip(block("An error is one line").splitlines(), FAULTS, strict=True)))
def test_errors(said: str, fault: tuple) -> None:
    aggregate, step = fault
    with pytest.raises(GenotypeError) as error:
        expand(
            Genotype.read({"input": [3, 32, 32], "classes": 10, "let": {"block": aggregate}, "net": [CONV, step, *END]})
        )
    assert str(error.value) == said


def test_limits() -> None:
    section = TEXT[TEXT.index("## 13.") : TEXT.index("## 14.")]
    for limit in (
        MAX_CHARACTERS, MAX_NESTING, names.MAX_VALUES, patterns.MAX_NODES, MAX_STEPS, MAX_READS,
        primitives.MAX_CHANNELS, primitives.MAX_SIDE, primitives.MAX_KERNEL, expressions.MAX_BITS,
    ):  # fmt: skip
        assert f"{limit:,}" in section
    assert expressions.MAX_RESULT == 10**9 and "10^9" in section
    assert f"at most {expressions.MAX_TEXT} characters" in TEXT


def test_hazards() -> None:
    """What section 14 says of strides, odd maps and even kernels."""
    pooled = {"avgpool": "s", "padding": "0 if h % s == 0 else s//2"}
    assert f"{{avgpool: s, padding: {pooled['padding']}}}" in TEXT

    def last(net: list, side: int) -> tuple[int, ...]:
        graph = expand(Genotype.read({"input": [3, side, side], "classes": 10, "net": [CONV, *net, *END]}))
        return graph.shapes[graph.inputs[-2][0]]

    def stage(match: list) -> dict:
        return {
            "nodes": 2,
            "stride": 2,
            "growth": 32,
            "unit": [{"conv": 3, "stride": "s"}, "join"],
            "shortcut": {"match": match},
        }

    assert last([stage([pooled, {"pad": "w"}])], 7) == (32, 4, 4)
    with pytest.raises(GenotypeError, match="does not fit 32x4x4"):
        last([stage([{"avgpool": "s"}, {"pad": "w"}])], 7)
    assert last([{"nodes": 2, "stride": "2 + 0*l", "growth": 8, "unit": [{"conv": 3, "stride": "s"}]}], 32) == (8, 8, 8)
    assert last([{"conv": 4, "out": 8}], 32) == (8, 31, 31)
    assert last([{"conv": 4, "out": 8, "stride": 2}], 32) == (8, 16, 16)


def test_schema_is_up_to_date() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        schema = Genotype.model_json_schema(by_alias=True)
    kept = json.loads((DOCS / "genotype.schema.json").read_text(encoding="utf-8"))
    assert kept == schema, "make it anew with the line in section 15 of docs/language.md"
