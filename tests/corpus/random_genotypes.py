"""Random genotypes over the whole language."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from copy import deepcopy
from typing import Any

from nas_agg.common.errors import GenotypeError
from nas_agg.expansion.expansion import expand
from nas_agg.graph.primitives import ACTIVATIONS
from nas_agg.language.genotype import Genotype

NORMS = ("bn", "bn", "gn", "ln", "in", {"gn": 2}, {"gn": 4})
FITS = ([{"conv": 1, "stride": "s"}], [{"avgpool": "s"}, {"conv": 1}, "bn"], [{"maxpool": "s"}, "relu", {"conv": 1}])


def random_genotype(
    rng: random.Random,
    image: tuple[int, int, int] = (3, 8, 8),
    classes: int = 5,
    depth: int = 2,
    most_ops: int = 150,
    recent_words: bool = True,
) -> dict[str, Any]:
    """Return a small random genotype that is a valid network.

    Every layer, pattern and operator can occur, with every field of theirs, and so can `let`, `like` and `units`.

    Args:
        rng: Where the randomness comes from.
        image: Channels, height and width.
        classes: Number of classes.
        depth: How deep aggregates may nest.
        most_ops: Larger networks are drawn again.
        recent_words: Whether every second network has words that were added to the language later. They draw from
            numbers of their own, so that a seed's network is otherwise what it was.
    """
    while True:
        genotype = _Sampler(rng, depth).genotype(image, classes)
        if _is_network(genotype, most_ops):
            break
    further = random.Random(repr(genotype))
    for _ in range(4 * (recent_words and further.random() < 0.5)):
        if _is_network(fields := _with_recent_words(further, genotype), most_ops):
            return fields
    return genotype


def _is_network(genotype: dict[str, Any], most_ops: int) -> bool:
    try:
        graph = expand(Genotype.from_dict(genotype))
    except GenotypeError:
        return False
    return len(graph) <= most_ops and max(channels for channels, _, _ in graph.shapes) <= 256


def _with_recent_words(rng: random.Random, genotype: dict[str, Any]) -> dict[str, Any]:
    """Return a genotype with starts, products, shared units and further layers inserted at random."""
    fields = deepcopy(genotype)
    eaches = (["bn", "relu"], [{"conv": 1, "out": "c"}], [{"conv": 3, "out": "c", "bias": True}, "ln", "sigmoid"])
    layers = (
        {"times": "1/3"},
        {"times": -1},
        {"drop-path": 0.25},
        "gmp",
        {"gmp": "max(1, h//2)"},
        "channel-mean",
        "channel-max",
    )
    for step in list(aggregates_of(fields)):
        for gather in [step[field] for field in ("reads", "shortcut", "output") if field in step]:
            if gather.get("weight", gather["operator"] == "weighted") is True and rng.random() < 0.5:
                gather["start"] = rng.choice((1, 0.5, "2/k", "1/(k + 1)"))
            if gather["operator"] in ("sum", "mean", "concat") and rng.random() < 0.3:
                gather["operator"] = "product"
            if rng.random() < 0.2:
                gather["each"] = deepcopy(rng.choice(eaches))
        for unit in (step["unit"],) if "unit" in step else step["units"]:
            if rng.random() < 0.5:
                layer = {"drop-path": "0.5*l/(n + 1)"} if rng.random() < 0.3 else deepcopy(rng.choice(layers))
                unit.insert(rng.randint(0, len(unit)), layer)
    return fields


def aggregates_of(value: Any) -> Iterator[dict[str, Any]]:
    """Yield every aggregate in a genotype's text, inner ones first."""
    if isinstance(value, dict):
        for item in list(value.values()):
            yield from aggregates_of(item)
        if "unit" in value or "units" in value:
            yield value
    elif isinstance(value, list):
        for item in value:
            yield from aggregates_of(item)


class _Sampler:
    def __init__(self, rng: random.Random, depth: int):
        self.rng, self.depth = rng, depth
        self.names: dict[str, Any] = {}

    def maybe(self, chance: float) -> bool:
        return self.rng.random() < chance

    def genotype(self, image: tuple[int, int, int], classes: int) -> dict[str, Any]:
        rng = self.rng
        if self.maybe(0.5):
            self.names["width"] = rng.choice((4, "2 + 2", 6, 8))
        if self.maybe(0.3):
            self.names["tail"] = [self.norm(), self.act()]
        if self.maybe(0.3):
            self.names["base"] = self.aggregate(1)
        net: list[Any] = [{"conv": rng.choice((1, 3)), "out": rng.choice((4, 8, self.number()))}]
        for _ in range(rng.randint(1, 3)):
            net.append(self.step(0) if self.maybe(0.4) else self.aggregate(0))
        net += rng.choice(
            (["gap", {"linear": "classes"}], [{"linear": "classes"}], [{"conv": 1, "out": "classes"}, "gap"])
        )
        genotype = {"input": list(image), "classes": classes, "net": net}
        return {**genotype, "let": self.names} if self.names else genotype

    # ------------------------------------------------------------------ layers

    def number(self) -> Any:
        return self.rng.choice((4, 6, 8, "2*2", *(["width"] if "width" in self.names else [])))

    def norm(self) -> Any:
        return deepcopy(self.rng.choice(NORMS))

    def act(self) -> str:
        return self.rng.choice(("relu", "relu", *ACTIVATIONS))

    def conv(self, inside: bool) -> dict[str, Any]:
        rng = self.rng
        out = rng.choice(("w", "w", "2*w", "c")) if inside else self.number()
        layer: dict[str, Any] = {"conv": rng.choice((1, 3, 3, 5)), "out": out}
        if self.maybe(0.3):
            layer["groups"] = f"gcd({rng.choice((2, 4, 'g' if inside else 3))}, gcd(c, {out}))"
        if self.maybe(0.1):
            layer |= {"out": "c", "groups": "c"}
        if inside and self.maybe(0.15):
            layer["stride"] = "s"
        if layer["out"] == "w" and self.maybe(0.5):
            del layer["out"]
        if self.maybe(0.2):
            layer["bias"] = True
        if self.maybe(0.05):
            layer["padding"] = layer["conv"] // 2
        return layer

    def layer(self, inside: bool) -> Any:
        rng = self.rng
        further = [
            {"se": rng.choice((0, 2, "max(1, c//2)"))} | rng.choice(({}, {"act": "swish", "gate": "hardsigmoid"})),
            "scale",
            {"slice": "max(1, c//2)"} | rng.choice(({}, {"from": "c - max(1, c//2)"})),
            {"pad": "c + 2"},
            {"shuffle": "gcd(c, 2)"},
            {"dropout": rng.choice((0.1, "1/4"))} | rng.choice(({}, {"channels": True})),
            {"maxpool": 3, "stride": 1},
            {"avgpool": 3, "stride": 1, "padding": 1},
            {rng.choice(("maxpool", "avgpool")): 2},
            {"gap": "max(1, h//2)"},
        ]
        kinds = (self.conv(inside), self.conv(inside), self.norm(), self.act(), rng.choice(further))
        return "tail" if "tail" in self.names and self.maybe(0.1) else rng.choice(kinds)

    def step(self, level: int) -> Any:
        if level < self.depth and self.maybe(0.25):
            return self.aggregate(level)
        if self.maybe(0.1):
            return [self.layer(level > 0) for _ in range(self.rng.randint(1, 2))]
        return self.layer(level > 0)

    def unit(self, level: int, joins: bool) -> list[Any]:
        steps = [self.step(level) for _ in range(self.rng.randint(1, 3))]
        if self.maybe(0.8) and not any(isinstance(step, dict) and "conv" in step for step in steps):
            steps.append(self.conv(True))
        if joins:
            steps.insert(self.rng.choice((len(steps), len(steps), self.rng.randint(0, len(steps)))), "join")
        return steps

    # ------------------------------------------------------------------ aggregates

    def aggregate(self, level: int) -> dict[str, Any]:
        rng = self.rng
        n = rng.choice((0, 1, 2, 2, 3, 3, 4))
        if level == 0 and "base" in self.names and self.maybe(0.4):
            return {"like": "base"} | rng.choice(({}, {"growth": 4}, {"stride": 2}))
        fields: dict[str, Any] = {"nodes": n, "growth": self.schedule(n)}
        if self.maybe(0.3):
            fields["cardinality"] = rng.choice(("l + 1", 2, "gcd(4, w)"))
        if self.maybe(0.15):
            fields["stride"] = rng.choice((2, "2 if l == 1 else 1"))
        if self.maybe(0.1):
            fields["let"] = {"k": rng.choice((2, [1] * n, "l"))}
            fields["growth"] = "4*k"
        if self.maybe(0.75):
            fields["reads"] = self.gather(range(1, n + 2))
        shortcut = self.maybe(0.5)
        if shortcut:
            fields["shortcut"] = self.gather(range(1, n + 1))
        if self.maybe(0.3) or fields.get("reads", {}).get("pattern") == "input":
            fields["output"] = self.gather([n + 1])
        if n and self.maybe(0.25):
            fields["units"] = [self.unit(level + 1, shortcut) for _ in range(n)]
            if self.maybe(0.5):
                del fields["nodes"]
        elif n and self.maybe(0.1) and shortcut and "output" not in fields and "reads" not in fields:
            inner = {
                "nodes": 2,
                "growth": 4,
                "unit": [{"conv": 3}, "join"],
                "output": {"pattern": "nodes", "operator": "concat"},
            }
            fields |= {"growth": 8, "unit": [inner], "shortcut": {"operator": "sum", "match": [{"conv": 1, "out": 8}]}}
        else:
            fields["unit"] = self.unit(level + 1, shortcut)
        return fields

    def schedule(self, n: int) -> Any:
        rng = self.rng
        return rng.choice(
            (4, 8, "4*l", "floor(4 + 4*l/n)", [4 * rng.randint(1, 2) for _ in range(n)], "in", self.number())
        )

    def gather(self, positions: Iterable[int]) -> dict[str, Any]:
        rng = self.rng
        patterns = [
            "previous",
            "dense",
            "dense",
            "nodes",
            "input",
            {"window": 2},
            {"exponential": 2},
            {"micro-dense": 2},
        ]
        fields: dict[str, Any] = {
            "pattern": rng.choice(patterns) if self.maybe(0.8) else {"edges": [self.row(p) for p in positions]}
        }
        mixed = {"mixed": rng.choice((0, 2, 4)), "onto": rng.choice(("front", "back"))}
        fields["operator"] = rng.choice(
            ("sum", "sum", "concat", "concat", "concat", "weighted", "mean", "gated", mixed)
        )
        if fields["operator"] in ("sum", "mean", "concat", "weighted"):
            if self.maybe(0.2):
                fields["norm"] = rng.choice(("gn", "ln", "in", "bn", "none"))
            if self.maybe(0.2):
                fields["weight"] = rng.choice((True, False))
        if self.maybe(0.85):
            fields["match"] = deepcopy(rng.choice(FITS)) if self.maybe(0.85) else "skip"
        if self.maybe(0.15):
            fields["raw"] = True
        return fields

    def row(self, position: int) -> list[int]:
        return sorted(self.rng.sample(range(position), self.rng.randint(1, min(position, 3))))
