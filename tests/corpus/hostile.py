"""Random malformed and hostile files of genotypes and spaces.

``python -m corpus.hostile SEED COUNT [genotypes|spaces]`` reads many and reports as JSON.
"""

from __future__ import annotations

import contextlib
import json
import random
import re
import resource
import sys
import tempfile
import time
import traceback
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from corpus import NETWORKS
from corpus.hostile_values import EXPRESSIONS, KEYS, NUMBERS, PLAUSIBLE, VALUES, WORDS
from nas_agg.common.errors import GenotypeError, InputError
from nas_agg.common.files import parse_document, read_document
from nas_agg.expansion.costs import cost
from nas_agg.language.genotype import Genotype
from nas_agg.search_space import space as space_module
from nas_agg.search_space.space import open_space
from nas_agg.study.tables.results_table import TabularSpace

SMALL_SPACES = (
    "agg-bench",
    "aggregation",
    "densenet",
    "dsnet",
    "fractal",
    "microdense",
    "mixed",
    "shuffle",
    "sparsenet",
)
TABLE = "results.csv.gz"

#: The location in an error: the path of a field of a genotype, or a place in the file.
PLACE = re.compile(r"\S.{0,400}?: |a genotype must be an object", re.DOTALL)


def base_genotypes() -> list[dict[str, Any]]:
    """Return the genotypes that are mutated: those of `NETWORKS`, and a few with the remaining fields."""
    found = [network["genotype"] for network in NETWORKS]
    gather = {
        "pattern": {"edges": [[0], [0, 1]]},
        "operator": {"mixed": 2, "onto": "back"},
        "norm": "ln",
        "weight": True,
        "raw": True,
        "match": "fit",
    }
    found.append(
        {
            "version": 1,
            "input": [3, 8, 8],
            "classes": 4,
            "let": {"k": 4, "fit": [{"avgpool": "s"}, {"conv": 1}], "steps": [{"conv": 3, "out": "k"}, "relu"]},
            "net": [
                "steps",
                {
                    "nodes": 2,
                    "growth": ["k", "2*k"],
                    "unit": ["bn", {"se": 2}, {"conv": 3}, "join"],
                    "shortcut": gather,
                    "let": {"j": "l*k"},
                },
                {
                    "units": [["scale"], [{"shuffle": 2}, {"dropout": 0.1}]],
                    "reads": {"pattern": "dense", "operator": "gated"},
                },
                "gap",
                {"linear": "classes"},
            ],
        }
    )
    found.append(
        {**deepcopy(found[-1]), "open": {"k": [2, 4], "wires": ["dense", {"window": 2}], "depth": {"from": 1, "to": 6}}}
    )
    return found


def places(value: Any, found: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """Collect every (container, key) in a value."""
    for key in value if isinstance(value, dict) else range(len(value)):
        found.append((value, key))
        if isinstance(value[key], (dict, list)):
            places(value[key], found)
    return found


def plausible(rng: random.Random, value: dict[str, Any]) -> None:
    """Replace a field by another plausible value."""
    everywhere = [
        (container, key) for container, key in places(value, []) if isinstance(container, dict) and key in PLAUSIBLE
    ]
    if everywhere:
        container, key = rng.choice(everywhere)
        container[key] = deepcopy(rng.choice(PLAUSIBLE[key]))


def mutate(rng: random.Random, value: dict[str, Any]) -> None:
    """Change a random place in a value."""
    everywhere = places(value, [])
    if not everywhere or len(everywhere) > 20_000:
        return
    container, key = rng.choice(everywhere)
    kind = rng.randrange(12)
    if kind == 0:
        del container[key]
    elif kind == 1:
        container[key] = rng.choice(NUMBERS)
    elif kind == 2:
        container[key] = rng.choice(EXPRESSIONS)
    elif kind == 3:
        container[key] = rng.choice(WORDS)
    elif kind == 4:
        container[key] = deepcopy(rng.choice(VALUES))
    elif kind == 5:
        for _ in range(rng.choice((1, 3, 20, 60))):
            container[key] = [container[key]] if rng.random() < 0.7 else {rng.choice(KEYS): container[key]}
    elif kind == 6 and isinstance(container, dict):
        container[rng.choice(KEYS)] = container.pop(key)
    elif kind == 7 and isinstance(container, dict):
        container[rng.choice(KEYS)] = deepcopy(rng.choice([*VALUES, *NUMBERS, *EXPRESSIONS, *WORDS]))
    elif kind == 8:
        other, place = rng.choice(everywhere)
        container[key] = deepcopy(other[place]) if place in other or not isinstance(other, dict) else None
    elif kind == 9 and isinstance(container, list):
        container[key:key] = [deepcopy(container[key])] * rng.choice((1, 10, 500))
    elif kind == 10:
        numbers = [(c, k) for c, k in everywhere if isinstance(c[k], (int, float)) and not isinstance(c[k], bool)]
        if numbers:
            container, key = rng.choice(numbers)
            container[key] = rng.choice(
                (-container[key], container[key] * 10**6, container[key] + 1, str(container[key]), container[key] / 3)
            )
    else:
        container[key] = rng.choice((None, True, [], {}, "k", -1))


def corrupt_text(rng: random.Random, text: str) -> str:
    """Corrupt a text, which may then not be JSON."""
    at = rng.randrange(len(text))
    piece = rng.choice(
        [
            "NaN",
            "Infinity",
            "-",
            "[" * 100_000,
            "{",
            "}",
            '"',
            "\x00",
            "\\",
            ",",
            "1e999",
            "9" * 5000,
            "é",
            ": ",
            "nul",
            "//",
            "&a ",
            "- ",
        ]
    )
    kind = rng.randrange(4)
    if kind == 0:
        return text[:at]
    if kind == 1:
        return text[:at] + piece + text[at:]
    if kind == 2:
        return re.sub(r"\d+", lambda found: piece[:9] if rng.random() < 0.2 else found[0], text)
    return text[:at] + text[at + rng.randrange(1, 9) :]


def random_file(rng: random.Random, known: list[dict[str, Any]]) -> str:
    """Return the text of a random file."""
    value = deepcopy(rng.choice(known))
    for _ in range(rng.choice((0, 1, 1, 2, 4))):
        plausible(rng, value)
    for _ in range(rng.choice((0, 1, 1, 1, 2, 2, 3, 15))):
        mutate(rng, value)
    if rng.random() < 0.1:
        value["version"] = rng.choice((0, 2, -1, "1", 1.0, True, None, [1], 10**30))
    text = json.dumps(value, ensure_ascii=rng.random() < 0.5)
    return (corrupt_text(rng, text) if rng.random() < 0.15 and text else text)[:2_000_000]


def first_value(choice: Any) -> Any:
    """Return the first value of a search variable, or None if it has none."""
    if isinstance(choice, dict):
        return choice.get("from")
    return choice[0] if isinstance(choice, tuple) and choice else None


def read_outcome(text: str) -> str:
    """Read and expand a file and compute its cost; return "" if it is a network, else the error message."""
    try:
        value = parse_document(text, "net.json")
        genotype = Genotype.from_dict(value)
        values = {name: first_value(choice) for name, choice in (genotype.open or {}).items()}
        if values and None not in values.values():
            genotype = genotype.fill(values)
        counted = cost(genotype)
        assert (
            min(
                counted.params,
                counted.macs,
                counted.activation_bytes,
                counted.peak_bytes_inference,
                counted.connections,
                counted.gradient_path or 0,
                counted.depth,
            )
            >= 0
        )
    except InputError as error:
        message = str(error)
        assert len(message.splitlines()) == 1 and len(message) < 1000, f"not one short line: {message[:2000]!r}"
        assert isinstance(error, GenotypeError) or message.startswith("net.json: "), message
        assert PLACE.match(message), f"no place: {message}"
        return message
    return ""


def base_spaces() -> list[dict[str, Any]]:
    """Return the spaces that are mutated: installed ones whose networks are small, and one with a table."""
    folder = Path(space_module.__file__).parents[2] / "spaces"
    found = [read_document(folder / f"{name}.yaml") for name in SMALL_SPACES]
    small = {"input": [1, 8, 8], "classes": 3, "open": {"k": {"from": 1, "to": 9}, "steps": [["relu"], ["bn", "relu"]]}}
    small["net"] = [{"conv": 3, "out": "4*k"}, "steps", "gap", {"linear": "classes"}]
    small["table"] = {"file": TABLE, "sha256": "0" * 64, "epochs": 3}
    small["points"] = {"a": {"values": {"k": 1, "steps": ["relu"]}}, "b": {"like": "a", "values": {"k": 2}}}
    return [*found, small, {**small, "search": {"max_macs": "h**2", "max_params": 10**6, "epochs": 3}, "min_input": 8}]


def random_space(rng: random.Random, known: list[dict[str, Any]]) -> str:
    """Return the text of a random space file, JSON or YAML."""
    value = deepcopy(rng.choice(known))
    for _ in range(rng.choice((0, 1, 1, 2, 4))):
        mutate(rng, value)
    for _ in range(rng.choice((0, 0, 1, 2))):  # those of spaces alone are few beside the text of the network
        part = value.get(rng.choice(("open", "points", "search", "table", "values")))
        if isinstance(part, dict) and part:
            mutate(rng, part)
    if rng.random() < 0.5:
        text = json.dumps(value, ensure_ascii=rng.random() < 0.5)
    else:
        text = yaml.safe_dump(
            value, allow_unicode=rng.random() < 0.5, default_flow_style=rng.choice((None, True, False))
        )
    return (corrupt_text(rng, text) if rng.random() < 0.15 else text)[:2_000_000]


def read_space_outcome(text: str, folder: Path) -> str:
    """Open a space file and use it as a search does; return "" if it is a space, else the error message."""
    path = folder / "net.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    try:
        space = open_space(path)
        space.search_defaults((3, 32, 32))
        for name in list(space.points)[:2]:
            space.describe(space.points[name].values, 1)
            cost(space.point(name))
        rng = np.random.default_rng(0)
        values = space.sample(rng)
        space.values_of(space.genotype(values))
        with contextlib.suppress(GenotypeError):  # networks of a space may be invalid
            cost(space.genotype(space.mutate(values, rng)))
        if space.table is not None:
            (folder / TABLE).write_bytes(b"")
            TabularSpace(space)
    except InputError as error:
        message = str(error)
        assert len(message.splitlines()) == 1 and len(message) < 1000, f"not one short line: {message[:2000]!r}"
        assert message.startswith(("net: ", str(folder))) or isinstance(error, GenotypeError), message
        return message
    return ""


def peak_memory() -> int:
    """Return the peak memory of this process in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # what getrusage says includes the process that started this one
        found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text(encoding="utf-8"))
        if found:
            return 1024 * int(found[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def campaign(seed: int, count: int, kind: str = "genotypes") -> dict[str, Any]:
    """Read many files; report the numbers of valid and refused ones, the slowest file, memory, and exceptions.

    Args:
        seed: Seed of the files.
        count: Their number.
        kind: ``genotypes`` or ``spaces``.
    """
    rng, known = random.Random(seed), base_genotypes()
    report: dict[str, Any] = {"valid": 0, "refused": 0, "slowest": 0.0, "slow": "", "faults": []}
    with tempfile.TemporaryDirectory() as folder:
        spaces = base_spaces() if kind == "spaces" else []
        for _ in range(count):
            text = random_space(rng, spaces) if kind == "spaces" else random_file(rng, known)
            began = time.process_time()
            try:
                outcome = read_space_outcome(text, Path(folder)) if kind == "spaces" else read_outcome(text)
                report["refused" if outcome else "valid"] += 1
            except BaseException:
                report["faults"].append([traceback.format_exc()[-1500:], text[:3000]])
            took = time.process_time() - began
            if took > report["slowest"]:
                report["slowest"], report["slow"] = took, text[:3000]
    report["bytes"] = peak_memory()
    return report


if __name__ == "__main__":
    print(json.dumps(campaign(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])))
