"""Broken and hostile genotype files, made by chance: `python hostile.py SEED COUNT` reads many and reports as JSON."""

from __future__ import annotations

import json
import random
import re
import resource
import sys
import time
import traceback
from copy import deepcopy
from pathlib import Path
from typing import Any

from corpus import NETWORKS
from corpus.hostile_values import EXPRESSIONS, KEYS, NUMBERS, PLAUSIBLE, VALUES, WORDS
from nas_agg.common.errors import GenotypeError, InputError
from nas_agg.common.files import parse_document
from nas_agg.expansion.costs import cost
from nas_agg.language.genotype import Genotype

#: The place of a fault: a field of a genotype with its path, or a place in the text.
PLACE = re.compile(r"\S.{0,400}?: |a genotype must be an object", re.DOTALL)


def bases() -> list[dict[str, Any]]:
    """What is mutated: the networks of the specification, and a few that say what those do not."""
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
    """Every (container, key) in a value."""
    for key in value if isinstance(value, dict) else range(len(value)):
        found.append((value, key))
        if isinstance(value[key], (dict, list)):
            places(value[key], found)
    return found


def plausible(rng: random.Random, value: dict[str, Any]) -> None:
    """Another value of a field that might be right."""
    everywhere = [
        (container, key) for container, key in places(value, []) if isinstance(container, dict) and key in PLAUSIBLE
    ]
    if everywhere:
        container, key = rng.choice(everywhere)
        container[key] = deepcopy(rng.choice(PLAUSIBLE[key]))


def mutate(rng: random.Random, value: dict[str, Any]) -> None:
    """One change anywhere in a value."""
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


def broken(rng: random.Random, text: str) -> str:
    """A text that is perhaps no JSON any more."""
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


def case(rng: random.Random, known: list[dict[str, Any]]) -> str:
    """The text of one file."""
    value = deepcopy(rng.choice(known))
    for _ in range(rng.choice((0, 1, 1, 2, 4))):
        plausible(rng, value)
    for _ in range(rng.choice((0, 1, 1, 1, 2, 2, 3, 15))):
        mutate(rng, value)
    if rng.random() < 0.1:
        value["version"] = rng.choice((0, 2, -1, "1", 1.0, True, None, [1], 10**30))
    text = json.dumps(value, ensure_ascii=rng.random() < 0.5)
    return (broken(rng, text) if rng.random() < 0.15 and text else text)[:2_000_000]


def first(choice: Any) -> Any:
    """The first value of an open name, or None if it has none."""
    if isinstance(choice, dict):
        return choice.get("from")
    return choice[0] if isinstance(choice, tuple) and choice else None


def read(text: str) -> str:
    """Reads, expands and counts a file; "" if it is a network, else what is said."""
    try:
        value = parse_document(text, "net.json")
        genotype = Genotype.from_dict(value)
        values = {name: first(choice) for name, choice in (genotype.open or {}).items()}
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


def most_memory() -> int:
    """The most bytes that this process has held."""
    status = Path("/proc/self/status")
    if status.exists():  # what getrusage says includes the process that started this one
        found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text(encoding="utf-8"))
        if found:
            return 1024 * int(found[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def campaign(seed: int, count: int) -> dict[str, Any]:
    """Reads many files: how many are networks, the slowest, the memory, and what should not have been."""
    rng, known = random.Random(seed), bases()
    report: dict[str, Any] = {"networks": 0, "refused": 0, "slowest": 0.0, "slow": "", "faults": []}
    for _ in range(count):
        text = case(rng, known)
        began = time.process_time()
        try:
            report["refused" if read(text) else "networks"] += 1
        except BaseException:
            report["faults"].append([traceback.format_exc()[-1500:], text[:3000]])
        took = time.process_time() - began
        if took > report["slowest"]:
            report["slowest"], report["slow"] = took, text[:3000]
    report["bytes"] = most_memory()
    return report


if __name__ == "__main__":
    print(json.dumps(campaign(int(sys.argv[1]), int(sys.argv[2]))))
