"""The documentation is true: its genotypes, counts, tables, errors, commands, Python code and links."""

from __future__ import annotations

import csv
import json
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from nas_agg.cli.main import app
from nas_agg.common.errors import GenotypeError
from nas_agg.common.files import MAX_CHARACTERS, parse_document
from nas_agg.expansion.costs import cost
from nas_agg.expansion.expansion import expand
from nas_agg.graph import primitives
from nas_agg.graph.graph import MAX_OPERATIONS, MAX_READS
from nas_agg.language import expressions, patterns, substitution
from nas_agg.language.genotype import ADAPTERS as TYPES
from nas_agg.language.genotype import MAX_NESTING, Genotype, validate
from nas_agg.language.layers import LAYERS
from nas_agg.language.operators import OPERATORS
from nas_agg.language.patterns import PATTERNS
from nas_agg.search_space.space import Space
from nas_agg.study.network_training import TrainingResult

DOCS = Path(__file__).parents[1] / "docs"
ROOT = DOCS.parent
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in [*ROOT.glob("*.md"), *DOCS.rglob("*.md")]
}
TEXT = (DOCS / "language.md").read_text(encoding="utf-8")
BLOCKS = list(re.finditer(r"^```(\w+)\n(.*?)^```$", TEXT, re.M | re.S))
WRITTEN = {match[2]: parse_document(match[2], "language.md") for match in BLOCKS if match[1] in ("yaml", "json")}
GENOTYPES = {text: value for text, value in WRITTEN.items() if "net" in value and "open" not in value}
SPACES = {text: value for text, value in WRITTEN.items() if "open" in value}


def block(after: str) -> str:
    """The first block of plain text after a phrase."""
    return next(match[2] for match in BLOCKS if match[1] == "text" and match.start() > TEXT.index(after))


def genotype_of(title: str) -> dict[str, Any]:
    (text,) = [text for text in GENOTYPES if text.startswith(f"# {title}")]
    return json.loads(json.dumps(GENOTYPES[text]))


def params(value: Any) -> int:
    return cost(Genotype.from_dict(value)).params


def ids(texts: Any) -> list[str]:
    return [text.splitlines()[0].strip("# ")[:40] for text in texts]


def test_blocks_are_found() -> None:
    assert len(GENOTYPES) == 16 and len(SPACES) == 1
    assert len(WRITTEN) == 17, "every YAML or JSON block is a complete genotype or space"


@pytest.mark.parametrize("text", GENOTYPES, ids=ids(GENOTYPES))
def test_counts_of_genotypes(text: str) -> None:
    counted = cost(Genotype.from_dict(GENOTYPES[text]))
    written = {unit: int(number.replace(",", "")) for number, unit in re.findall(r"([\d,]+) (parameters|MACs)", text)}
    assert written["parameters"] == counted.params
    assert written.get("MACs", counted.macs) == counted.macs


def test_the_first_two_genotypes_are_one_network() -> None:
    first, second = list(GENOTYPES)[:2]
    assert "the same hash" in second
    assert cost(Genotype.from_dict(GENOTYPES[first])).hash == cost(Genotype.from_dict(GENOTYPES[second])).hash


@pytest.mark.parametrize("text", SPACES, ids=ids(SPACES))
def test_counts_of_points(text: str) -> None:
    space = Space(SPACES[text], "written")
    written = re.findall(r"^  (\w+): \{values.*# ([\d,]+) parameters$", text, re.M)
    assert [name for name, _ in written] == list(space.points)
    for name, number in written:
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
    written = re.search(rf"{name}\s+\(([\d,]+)\)", TEXT)
    assert written and int(written[1].replace(",", "")) == params(value)


@pytest.mark.parametrize("word", sorted({*LAYERS, *PATTERNS, *OPERATORS}))
def test_every_word_is_documented(word: str) -> None:
    assert re.search(rf"`(\{{{word}: [^`]*|{word})`", TEXT)


@pytest.mark.parametrize("words", [LAYERS, PATTERNS, OPERATORS], ids=["layers", "patterns", "operators"])
def test_every_field_is_documented(words: dict) -> None:
    for kind in words.values():
        for name, field in kind.model_fields.items():
            field_text = field.alias or name
            assert re.search(rf"`{field_text}`|[{{ ]{field_text}: ", TEXT), f"{kind.__name__}.{field_text}"


def test_table_of_patterns() -> None:
    table = TEXT[TEXT.index("| pattern | 1 | 2 |") :].split("\n\n")[0].splitlines()[2:]
    assert len(table) == len(PATTERNS) - 1  # all but edges
    for line in table:
        word, *cells = [cell.strip() for cell in line.strip("|").split("|")]
        pattern = validate(TYPES["pattern"], parse_document(word.strip("`"), "table", "yaml"))
        kind = PATTERNS[pattern] if isinstance(pattern, str) else type(pattern)
        values = {} if isinstance(pattern, str) else pattern.model_dump(by_alias=True)
        for position, cell in enumerate(cells, 1):
            assert kind.sources(position, **values) == [int(source) for source in cell.split()], f"{word} {position}"


def test_names_of_parameters() -> None:
    graph = expand(Genotype.from_dict(next(v for text, v in GENOTYPES.items() if "fit: [{conv: 1}, bn]" in text)))
    stateful = {path: op for path, op in zip(graph.paths, graph.ops, strict=True) if op.stateful}
    names = block("Names of parameters").split()
    assert len(names) == 9
    for name in names:
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


@pytest.mark.parametrize(
    ("message", "fault"), list(zip(block("An error is one line").splitlines(), FAULTS, strict=True))
)
def test_errors(message: str, fault: tuple) -> None:
    aggregate, step = fault
    with pytest.raises(GenotypeError) as error:
        expand(
            Genotype.from_dict(
                {"input": [3, 32, 32], "classes": 10, "let": {"block": aggregate}, "net": [CONV, step, *END]}
            )
        )
    assert str(error.value) == message


def test_limits() -> None:
    section = TEXT[TEXT.index("## 13.") : TEXT.index("## 14.")]
    for limit in (
        MAX_CHARACTERS, MAX_NESTING, substitution.MAX_VALUES, patterns.MAX_NODES, MAX_OPERATIONS, MAX_READS,
        primitives.MAX_CHANNELS, primitives.MAX_SIDE, primitives.MAX_KERNEL, expressions.MAX_BITS,
    ):  # fmt: skip
        assert f"{limit:,}" in section
    assert expressions.MAX_RESULT == 10**9 and "10^9" in section
    assert f"at most {expressions.MAX_TEXT} characters" in TEXT


def test_hazards() -> None:
    """The examples of section 14: strides, odd maps and even kernels."""
    pooled = {"avgpool": "s", "padding": "0 if h % s == 0 else s//2"}
    assert f"{{avgpool: s, padding: {pooled['padding']}}}" in TEXT

    def last(net: list, side: int) -> tuple[int, ...]:
        graph = expand(Genotype.from_dict({"input": [3, side, side], "classes": 10, "net": [CONV, *net, *END]}))
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
    documented = json.loads((DOCS / "genotype.schema.json").read_text(encoding="utf-8"))
    assert documented == schema, "write it again with the command in section 15 of docs/language.md"


# ---------------------------------------------------------------------- all pages


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(page: str) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", PAGES[page]):
        assert (ROOT / page).parent.joinpath(target).exists(), target


@pytest.mark.parametrize("page", PAGES)
def test_commands_have_the_options_that_pages_use(page: str) -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    calls = re.findall(r"^    .*?\bnas_agg ([a-z].*)$|`nas_agg\s+([a-z][^`]*)`", PAGES[page], re.M)
    for line in [" ".join((indented or inline).partition("#")[0].split()) for indented, inline in calls]:
        name = line.split()[0]
        assert name in commands, line
        options = {word for parameter in commands[name].params for word in (*parameter.opts, *parameter.secondary_opts)}
        assert {*re.findall(r"--[a-z-]+", line)} <= {*options, "--help"}, line


@pytest.mark.parametrize("page", PAGES)
def test_python_code_is_valid(page: str) -> None:
    for code in re.findall(r"^```python\n(.*?)^```$", PAGES[page], re.M | re.S):
        compile(code, page, "exec")


@pytest.mark.parametrize("page", ["README.md", "docs/python.md"])
def test_python_code_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with open("table.csv", "w", newline="") as file:
        rows = [(how, rate, rate / 100 + (how == "sum")) for how in ("concat", "sum") for rate in range(4, 33, 4)]
        csv.writer(file).writerows([("how", "rate", "accuracy"), *rows])
    for code in re.findall(r"^```python\n(.*?)^```$", PAGES[page], re.M | re.S):
        names: dict[str, Any] = {}
        exec(compile(code, page, "exec"), names)
        result = names["result"]
        assert (result.metrics if isinstance(result, TrainingResult) else result.value) is not None


def test_the_space_of_the_readme_has_networks() -> None:
    (text,) = re.findall(r"^```yaml\n(.*?)^```$", PAGES["README.md"], re.M | re.S)
    space = Space(parse_document(text, "README.md"), "mine")
    assert cost(space.genotype(space.sample(np.random.default_rng(0)))).params > 0


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/architecture.md", "docs/decisions.md"])
def test_modules_exist(page: str) -> None:
    folders = [ROOT, *(path for path in (ROOT / "nas_agg").rglob("*") if path.is_dir()), ROOT / "nas_agg"]
    for path in re.findall(r"`([\w/]+(?:\.py|/))`", PAGES[page]):
        assert any(folder.joinpath(path).exists() for folder in folders), path
