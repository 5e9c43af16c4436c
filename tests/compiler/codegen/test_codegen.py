"""An emitted file is the compiled module: the same names, the same function, in plain PyTorch that reads well."""

from __future__ import annotations

import ast
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from corpus.points import FIRST_POINTS, POINTS, at_smallest_input, randomized
from corpus.random_genotypes import random_genotype

import nas_agg
from nas_agg.compiler import codegen as emission
from nas_agg.compiler import compile, save_weights
from nas_agg.compiler.codegen import emit
from nas_agg.compiler.codegen.ir.tree import NotExpressible
from nas_agg.expansion.costs import Cost
from nas_agg.expansion.expansion import expand
from nas_agg.graph.primitives import Scale
from nas_agg.language.genotype import Genotype
from nas_agg.search_space.space import list_spaces, open_space

VARIED = ("microdense", "aggregation", "residual", "dsnet")  # whose nodes differ most
PLAIN = "def put("  # of the plain form, which writes out each operation
MAX_OPERATIONS = 600  # of a sample
READ = ("densenet/121", "sparsenet/100-k24", "microdense/30a64", "dsnet/ds2net50", "efficientnet/b0-mdconv")


def imported(text: str) -> SimpleNamespace:
    """A file's names, without its part that runs as a script."""
    scope: dict = {"__name__": "model"}
    exec(text, scope)
    return SimpleNamespace(**scope)


def assert_equal(genotype: Genotype, text: str) -> None:
    """The outputs in eval mode are equal bit for bit, outputs and gradients in training mode in float64."""
    own = randomized(compile(genotype, seed=0))
    other = imported(text).build()
    assert {name: value.shape for name, value in own.state_dict().items()} == {
        name: value.shape for name, value in other.state_dict().items()
    }
    graph = expand(genotype)
    for op, path in zip(graph.ops, graph.paths, strict=True):
        if isinstance(op, Scale):
            assert torch.equal(other.state_dict()[path], torch.full((op.channels, 1, 1), op.start)), path
    other.load_state_dict(own.state_dict())
    images = torch.randn(2, *genotype.input, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        wanted, found = own.eval()(images), other.eval()(images)
    assert wanted.isfinite().all()
    assert torch.equal(wanted, found)

    results = []
    for network in (own.double().train(), other.double().train()):
        torch.manual_seed(3)  # of dropout
        logits = network(images.double())
        logits.square().mean().backward()
        results.append((logits, {name: p.grad for name, p in network.named_parameters()}, network.state_dict()))
    (logits, gradients, state), (others, their_gradients, their_state) = results
    torch.testing.assert_close(others, logits, rtol=1e-9, atol=1e-9)
    # What is nothing but rounding, as ahead of a norm, is as large as the gradients it comes of.
    rounding = 1e-14 * max(float(gradient.abs().max()) for gradient in gradients.values() if gradient is not None)
    for name, gradient in gradients.items():
        theirs = their_gradients[name]
        assert (gradient is None) == (theirs is None), name
        if gradient is not None:
            atol = max(1e-9 * max(1.0, float(gradient.abs().max())), rounding)
            torch.testing.assert_close(theirs, gradient, rtol=1e-7, atol=atol, msg=name)
    for name, value in state.items():
        torch.testing.assert_close(their_state[name].double(), value.double(), rtol=1e-9, atol=1e-9, msg=name)


@pytest.mark.parametrize(("space", "point"), FIRST_POINTS)
def test_a_point_of_every_space(space, point):
    genotype = at_smallest_input(space, point)
    assert_equal(genotype, emit(genotype))


@pytest.mark.parametrize("count", [3, pytest.param(12, marks=pytest.mark.slow)])
@pytest.mark.parametrize("space", list_spaces())
def test_samples_of_spaces(space, count):
    """Networks as searches find them, in other places of a space than its points."""
    written = [(genotype, emit(genotype)) for genotype in sampled(space, 1, count)]
    for genotype, text in written[: count if count > 3 else 2 if space in VARIED else 1]:
        assert_equal(genotype, text)
    # A weighted state of mixed links is written plainly.
    texts = [text for genotype, text in written if genotype.to_dict()["let"].get("state") != "weighted_norm"]
    assert sum(PLAIN in text for text in texts) <= 1
    assert max(text.count("\n") for text in texts if PLAIN not in text) <= 320


def sampled(space: str, seed: int, count: int) -> Iterator[Genotype]:
    """Some small networks of a space on its smallest images."""
    opened, generator = open_space(space), np.random.default_rng(seed)
    side = opened.min_input or 8
    samples = (opened.genotype(opened.sample(generator), input=(3, side, side), classes=5) for _ in range(200))
    return islice((one for one in samples if is_small(one, side)), count)


def is_small(genotype: Genotype, side: int) -> bool:
    graph = expand(genotype)
    return len(graph) <= MAX_OPERATIONS and Cost(graph).macs < 20_000 * side**2


@pytest.mark.parametrize("word", ["sum", "mean", "weighted", "gated"])
@pytest.mark.parametrize("pattern", ["dense", {"window": 2}, {"exponential": 2}, {"micro-dense": 2}])
def test_sources_that_are_made_to_fit(pattern, word):
    """Widths that rise, fall and come back; maps that halve; in reads, in shortcuts and in what leaves."""
    around = {"pattern": pattern, "operator": word, "match": [{"conv": 1, "stride": "s"}]}
    unit = ["bn", "relu", {"conv": 3, "stride": "s"}]
    joined = {
        "nodes": 7,
        "growth": "4 + l",
        "stride": "2 if l == 3 else 1",
        "unit": [*unit, "join"],
        "shortcut": around,
    }
    read = {"nodes": 6, "growth": "8 if l % 3 != 0 else 12", "unit": unit, "reads": around}
    left = {"nodes": 5, "growth": "4 + l//2", "unit": unit, "output": around}
    text = {"input": [3, 8, 8], "classes": 4,
            "net": [{"conv": 3, "out": 8}, joined, read, left, "gap", {"linear": "classes"}]}  # fmt: skip
    genotype = Genotype.from_dict(text)
    found = emit(genotype)
    assert PLAIN not in found
    assert_equal(genotype, found)


@pytest.mark.parametrize("start", [1, 0.3, "2/k", "l/k", "1 if k < 3 else 0", "1/3"])
@pytest.mark.parametrize("pattern", ["dense", {"window": 2}, {"edges": [[0], [0, 1], [1, 2], [2, 3], [1, 4]]}])
def test_weights_that_start_at_something_else(pattern, start):
    """In reads, in shortcuts, in what leaves and where sources are made to fit, by loops and node by node."""
    around = {"pattern": pattern, "operator": "weighted", "norm": "none", "start": start}
    unit = ["bn", {"conv": 3}]
    nets: list[dict] = [{"nodes": 4, "growth": 8, "unit": unit, "reads": around}]
    if "edges" not in pattern:
        match = {**around, "match": [{"conv": 1}]}
        nets += [
            {"nodes": 4, "growth": 8, "unit": [*unit, "join"], "shortcut": around},
            {"nodes": 4, "growth": 8, "unit": unit, "output": around},
            {"nodes": 9, "growth": "4 + l", "unit": [*unit, "join"], "shortcut": match},
            {"nodes": 9, "growth": "4 + l", "unit": unit, "reads": match},
        ]
    for net in nets:
        text = {"input": [3, 8, 8], "classes": 4, "net": [{"conv": 3, "out": 8}, net, "gap", {"linear": "classes"}]}
        genotype = Genotype.from_dict(text)
        found = emit(genotype)
        assert PLAIN not in found
        assert_equal(genotype, found)


def test_numbers_that_floating_point_does_not_hold():
    """0.29*100 is 28.999... to Python; a quarter of a width need not be whole."""
    inner = {"let": {"u": "planes/4"}, "nodes": 2, "growth": "floor(2*u)", "unit": [{"conv": "3"}, "bn"]}
    stage = {
        "nodes": 3,
        "growth": "100*l",
        "let": {"planes": "w"},
        "unit": [{"conv": 1, "out": "floor(0.29*in)"}, inner, {"conv": 1}],
    }
    text = {"input": [3, 8, 8], "classes": 4, "net": [{"conv": 3, "out": 8}, stage, "gap", {"linear": "classes"}]}
    genotype = Genotype.from_dict(text)
    found = emit(genotype)
    assert PLAIN not in found
    assert_equal(genotype, found)


@pytest.mark.slow
@pytest.mark.parametrize(("space", "point"), POINTS)
def test_every_point(space, point):
    genotype = at_smallest_input(space, point)
    assert_equal(genotype, emit(genotype))


@pytest.mark.parametrize("first", range(0, 120, 10))
def test_random_genotypes(first):
    for seed in range(first, first + 10):
        genotype = Genotype.from_dict(random_genotype(random.Random(seed)))
        try:
            assert_equal(genotype, emit(genotype))
        except AssertionError as error:
            raise AssertionError(f"genotype {seed}") from error


def test_edges_that_are_gated_and_leave():
    edges = {"pattern": {"edges": [[0], [0, 1], [0, 1, 2], [2, 3]]}, "operator": "gated"}
    genotype = Genotype.from_dict(
        {
            "input": [3, 8, 8],
            "classes": 4,
            "net": [{"conv": 3, "out": 8}, {"nodes": 3, "growth": 8, "reads": edges, "unit": ["bn", {"conv": 3}]},
                    {"conv": 1, "out": "classes"}, "gap"],
        }
    )  # fmt: skip
    assert_equal(genotype, emit(genotype))


@pytest.mark.parametrize("seed", [306, 315, 435, 808, 1394, 1432, 2011])
def test_random_genotypes_that_were_hard(seed):
    genotype = Genotype.from_dict(random_genotype(random.Random(seed), recent_words=False))
    assert_equal(genotype, emit(genotype))


def test_other_genotypes():
    """What neither points nor random genotypes have: names that Python has, joins dealt out inside."""
    inner = {"nodes": 2, "growth": 4, "reads": {"pattern": "dense", "operator": "concat"},
             "unit": [{"conv": 3}, "join", "bn", "relu"],
             "output": {"pattern": "nodes", "operator": "concat"}}  # fmt: skip
    genotype = {
        "input": [3, 8, 8],
        "classes": 4,
        "let": {
            "half": ["bn", "relu"],
            "float": {"nodes": 2, "growth": "print*4", "let": {"print": "l"}, "unit": ["half", {"conv": 3}]},
            "self": {"nodes": 1, "growth": 8, "unit": [inner], "shortcut": {"raw": True, "match": [{"conv": 1}]}},
            "maybe": {"nodes": "1 if w > 4 else 0", "unit": ["in", "relu"]},
        },
        "net": [{"conv": 3, "out": 8}, "float", "self", "self", {"like": "float", "unit": ["maybe", {"conv": 3}]},
                "gap", {"linear": "classes"}],
    }  # fmt: skip
    read = Genotype.from_dict(genotype)
    assert_equal(read, emit(read))


# ---------------------------------------------------------------------- how it reads


@pytest.mark.parametrize("point", READ)
def test_networks_of_the_papers_read_as_if_written_by_hand(point, tmp_path):
    genotype = nas_agg.load(point)
    text = emit(genotype, point, "A line on what it is.")
    assert PLAIN not in text
    assert f"{nas_agg.cost(genotype).params:,} parameters" in text
    assert tidy([text], tmp_path) == ""


@pytest.mark.parametrize(("space", "point"), [
    pytest.param(*case, marks=[] if case in FIRST_POINTS else pytest.mark.slow) for case in POINTS
])  # fmt: skip
def test_points_are_at_most_200_lines(space, point, monkeypatch):
    monkeypatch.setattr(emission, "matches_graph", lambda *_: True)  # which the tests above see to
    text = emit(open_space(space).point(point), f"{space}/{point}", "A line on what it is.")
    assert text.count("\n") <= 200
    assert PLAIN not in text


def test_random_genotypes_are_tidy(tmp_path):
    texts = [emit(Genotype.from_dict(random_genotype(random.Random(seed)))) for seed in range(12)]
    assert tidy(texts, tmp_path) == ""


@pytest.mark.parametrize("space", VARIED)
def test_samples_are_tidy(space, tmp_path):
    assert tidy([emit(genotype) for genotype in sampled(space, 2, 3)], tmp_path) == ""


def tidy(texts: Sequence[str], folder: Path) -> str:
    """What ruff reports on texts."""
    ruff = shutil.which("ruff", path=str(Path(sys.executable).parent)) or shutil.which("ruff")
    if ruff is None:
        pytest.skip("ruff is not here")
    files = [str(folder / f"model{number}.py") for number in range(len(texts))]
    for file, text in zip(files, texts, strict=True):
        Path(file).write_text(text)
    reports = ""
    for command in (["check", "--isolated"], ["format", "--isolated", "--line-length", "120", "--diff"]):
        done = subprocess.run([ruff, *command, *files], capture_output=True, text=True, check=False)
        reports += done.stdout if done.returncode else ""
    return reports


def test_only_torch_is_imported():
    for point in READ:
        for node in ast.walk(ast.parse(emit(nas_agg.load(point)))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert {name.split(".")[0] for name in names} <= {"torch", *sys.stdlib_module_names}


def test_alternatives_that_are_not_taken_do_not_appear():
    text = emit(nas_agg.load("efficientnet/b0"))
    assert "Mbconv6" in text
    assert "Mdconv" not in text
    assert "Mbconv3" not in text


def test_a_title_cannot_leave_its_docstring():
    genotype = nas_agg.load("residual/resnet-110")
    text = emit(genotype, 'a """ \\" title', 'about\n""" it \\')
    assert isinstance(ast.parse(text).body[0], ast.Expr)
    assert "title" in (ast.get_docstring(ast.parse(text)) or "")


def test_control_characters_are_escaped_in_the_docstring():
    genotype = nas_agg.load({"input": [1, 4, 4], "classes": 2, "net": ["gap", {"linear": "classes"}]})
    odd = [
        "\x00",
        "\x07",
        "\x1b[31m",
        "\u202e",
        "\u2066",
        "\u200b",
        "\ud800",
        "\U000e0001",
        "\xad",
        "\\",
        '"""',
        "x" * 118,
    ]
    for about in (*odd, "".join(odd), " ".join(reversed(odd))):
        text = emit(genotype, title=about, about=about)
        assert all(character.isprintable() for character in text.replace("\n", ""))
        assert all(character.isprintable() for character in ast.get_docstring(ast.parse(text)).replace("\n", ""))


# ---------------------------------------------------------------------- it is proven before it is given


@pytest.mark.parametrize(
    "wrong",
    [
        ("nn.Conv2d(3, 16,", "nn.Conv2d(3, 15,"),  # another shape
        ("self.linear =", "self.other = self.linear ="),  # another name
        ("nn.Linear(64, 10)", "nn.Linear(64, 9)"),
        ("return self.linear(", "return self.liner("),
        ("class Network", "class class"),
    ],
)
def test_a_text_that_is_wrong_is_not_given(monkeypatch, wrong):
    genotype = nas_agg.load("residual/resnet-110").with_task(input=(3, 8, 8))
    right = emission.write_classes

    def write_classes(trace):
        found = [part.replace(*wrong) for part in right(trace)]
        assert found != right(trace)
        return found

    monkeypatch.setattr(emission, "write_classes", write_classes)
    text = emit(genotype)
    assert PLAIN in text
    assert_equal(genotype, text)


def test_what_no_class_expresses_is_written_plainly_and_bugs_are_raised(monkeypatch):
    genotype = nas_agg.load("residual/resnet-110").with_task(input=(3, 8, 8))

    def write_classes(trace):
        raise error

    monkeypatch.setattr(emission, "write_classes", write_classes)
    error: Exception = NotExpressible()
    assert PLAIN in emit(genotype)
    error = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        emit(genotype)


def test_the_proof_takes_no_random_numbers():
    before = torch.random.get_rng_state()
    text = emit(nas_agg.load("residual/wrn-50-2"))
    assert PLAIN not in text
    assert torch.equal(before, torch.random.get_rng_state())


# ---------------------------------------------------------------------- weights and the script


def test_runs_as_a_script_with_weights(tmp_path):
    genotype = nas_agg.load("aggregation/microdense").with_task(input=(3, 8, 8))
    (tmp_path / "model.py").write_text(emit(genotype))
    save_weights(compile(genotype, seed=0), tmp_path / "weights.safetensors")
    command = [sys.executable, "-I", "model.py", "weights.safetensors"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"{nas_agg.cost(genotype).params:,} parameters" in done.stdout
    assert "(2, 10)" in done.stdout


def test_weights_are_read_as_they_were_saved(tmp_path):
    genotype = nas_agg.load("residual/resnet-110").with_task(input=(3, 8, 8))
    own = randomized(compile(genotype, seed=0))
    save_weights(own, tmp_path / "w.safetensors")
    state = imported(emit(genotype)).build(tmp_path / "w.safetensors").state_dict()
    assert all(torch.equal(value, state[name]) for name, value in own.state_dict().items())


@pytest.mark.parametrize("fault", ["cut", "text", "other", "type", "empty"])
def test_weights_that_are_wrong_are_refused(tmp_path, fault):
    genotype = nas_agg.load("residual/resnet-110").with_task(input=(3, 8, 8))
    file = tmp_path / "w.safetensors"
    saved = compile(genotype, seed=0)
    if fault == "other":
        saved = compile(genotype.with_task(classes=7), seed=0)
    save_weights(saved.half() if fault == "type" else saved, file)
    data = file.read_bytes()
    if fault in ("cut", "text", "empty"):
        file.write_bytes({"cut": data[:-100], "text": b"x" * 100, "empty": b""}[fault])
    wanted = {"text": "not a safetensors", "empty": "not a safetensors"}
    with pytest.raises(ValueError, match=wanted.get(fault, "expected .*bytes")) as error:
        imported(emit(genotype)).build(file)
    assert "\n" not in str(error.value)
