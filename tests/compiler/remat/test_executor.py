"""Rematerialised training: equal outputs, gradients and statistics, within the predicted bytes."""

from __future__ import annotations

import copy
import json
import pickle
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from corpus.formulas import graph_of
from corpus.random_genotypes import random_genotype
from torch import nn

import nas_agg
from nas_agg.common.errors import InputError
from nas_agg.compiler import Network, build
from nas_agg.compiler.network import memory_of
from nas_agg.expansion.costs import BATCH, Cost
from nas_agg.expansion.expansion import expand
from nas_agg.graph.graph import Graph
from nas_agg.graph.rematerialization import RematerializationPlan
from nas_agg.language.genotype import Genotype
from nas_agg.search_space.space import list_spaces, open_space

DENSE = {"pattern": "dense", "operator": "concat"}
BOTTLENECK = ["bn", "relu", {"conv": 1, "out": 16}, "bn", "relu", {"conv": 3, "out": 8}]
#: Pre-activation with concats, a pooled transition, post-activation with sums, gates, other norms.
MIXED: list[Any] = [
    {"conv": 3, "out": 8},
    "bn",
    "relu",
    {"maxpool": 3, "stride": 1, "padding": 1},
    {"nodes": 3, "growth": 8, "unit": BOTTLENECK, "reads": DENSE, "output": DENSE},
    "bn",
    "relu",
    {"conv": 1, "out": 12, "bias": True},
    {"avgpool": 2},
    {
        "nodes": 3,
        "growth": 12,
        "unit": [{"conv": 3}, "bn", {"se": 4}, "join", "relu"],
        "shortcut": {"pattern": "dense", "operator": "weighted"},
    },
    {"nodes": 3, "growth": 6, "unit": [{"conv": 1}, "bn", "swish"], "reads": DENSE, "output": DENSE},
    {"conv": 1, "out": 16},
]


@pytest.fixture
def graph() -> Graph:
    return graph_of(*MIXED, image=(3, 12, 12))


def state(
    graph: Graph,
    memory: Any,
    seed: int = 0,
    count: int = 3,
    layout: torch.memory_format = torch.contiguous_format,
    change: Callable[[Network], object] = lambda network: None,
    side: int | None = None,
) -> dict[str, torch.Tensor | None]:
    """Output, gradients and buffers of a training step in double precision."""
    network = build(graph, seed, memory=memory).double().to(memory_format=layout)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in network.parameters():
            if tensor.dim() == 1:
                tensor.copy_(torch.rand(tensor.shape, generator=generator).mul_(2).sub_(0.7))
    change(network)
    channels, height, width = graph.shapes[0]
    x = torch.randn(count, channels, side or height, side or width, generator=generator, dtype=torch.float64)
    x = x.to(memory_format=layout).requires_grad_()
    torch.manual_seed(seed)
    output = network(x)
    (output * torch.randn(output.shape, generator=generator)).sum().backward()
    result = {"output": output, "image": x.grad}
    result |= {f"gradient of {name}": tensor.grad for name, tensor in network.named_parameters()}
    return result | dict(network.named_buffers())


def check(graph: Graph, tolerance: float = 1e-10, **options: Any) -> None:
    """Both lean forms do what the plain one does."""
    plain = state(graph, "plain", **options)
    for memory in ("lean", "leanest"):
        lean = state(graph, memory, **options)
        assert lean.keys() == plain.keys()
        for name, wanted in plain.items():
            given = lean[name]
            assert (given is None) == (wanted is None), (memory, name)
            if given is not None and wanted is not None:
                assert given.dtype == wanted.dtype and given.shape == wanted.shape
                scale = 1 + wanted.detach().double().abs().max().item()
                assert (given - wanted).abs().max().item() < tolerance * scale, (memory, name)


# ---------------------------------------------------------------------- the same function


@pytest.mark.parametrize(
    ("point", "side"),
    [
        ("aggregation/densenet", 16),
        ("densenet/40-k12", 8),
        ("sparsenet/40-k24", 8),
        ("microdense/30a64", 8),
        ("dsnet/ds2net26-0.25x", 64),
        ("efficientnet/b0-mdconv", 64),
        ("mixed/mixnet-100", 8),
        ("residual-imagenet/res2net50-26w4s", 64),
        ("seqconv/seqresnet-r4-k8", 8),
    ],
)
def test_points_of_every_family(point: str, side: int) -> None:
    genotype = nas_agg.load(point)
    layout = torch.channels_last if side == 8 else torch.contiguous_format
    check(expand(genotype.with_task(input=(3, side, side), classes=4)), count=2, layout=layout)


@pytest.mark.slow
@pytest.mark.parametrize("point", [f"{name}/{point}" for name in list_spaces() for point in open_space(name).points])
def test_every_point(point: str) -> None:
    genotype = nas_agg.load(point)
    side = 64 if genotype.input[1] > 64 else 16  # on maps of single values a batch norm of two images is singular
    check(expand(genotype.with_task(input=(3, side, side), classes=4)), count=2)


def test_random_networks() -> None:
    rng = random.Random(2026)
    for number in range(40):
        genotype = random_genotype(rng, image=(3, 9, 9))
        layout = torch.channels_last if number % 2 else torch.contiguous_format
        try:  # maps of single values are near to singular: 1e-8
            check(expand(Genotype.from_dict(genotype)), 1e-8, seed=number, layout=layout)
        except Exception as error:
            raise AssertionError(f"{error}: {json.dumps(genotype)}") from error


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_network_of_every_pattern(graph: Graph, layout: torch.memory_format) -> None:
    check(graph, layout=layout)
    check(graph, count=1)
    check(graph, side=10)


def freeze(*names: str) -> Callable[[Network], None]:
    def change(network: Network) -> None:
        for name, tensor in network.named_parameters():
            if any(part in name for part in names):
                tensor.requires_grad_(False)

    return change


def norms(change: Callable[[nn.BatchNorm2d], object]) -> Callable[[Network], object]:
    return lambda network: (
        [change(module) for module in network.modules() if isinstance(module, nn.BatchNorm2d)] and None
    )


CHANGES: dict[str, Callable[[Network], object]] = {
    "eval": lambda network: network.eval(),
    "frozen weights": freeze("conv"),
    "frozen norms": freeze("bn"),
    "frozen biases": freeze("bias"),
    "frozen front": freeze("aggregate1", "conv1.", "bn1"),
    "only the classifier": freeze("aggregate", "conv", "bn", "scale"),
    "norms in eval": norms(lambda norm: norm.eval()),
    "frozen norms in eval": norms(lambda norm: norm.eval().requires_grad_(False)),
    "one norm in eval": lambda network: next(m for m in network.modules() if isinstance(m, nn.BatchNorm2d)).eval(),
    "momentum": norms(lambda norm: setattr(norm, "momentum", 0.3)),
    "averages": norms(lambda norm: setattr(norm, "momentum", None)),
    "eps": lambda network: [
        setattr(module, "eps", 0.1 / (i + 1))
        for i, module in enumerate(network.modules())
        if isinstance(module, nn.BatchNorm2d)
    ],
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_network_in_another_state(graph: Graph, change: str) -> None:
    check(graph, change=CHANGES[change])


def test_dropout_draws_the_same() -> None:
    conv = {"conv": 3, "out": 8}
    check(graph_of(conv, "bn", "relu", {"dropout": 0.4}, conv, {"dropout": 0.5, "channels": True}))


def test_frozen_networks_and_no_grad_keep_nothing(graph: Graph) -> None:
    network = build(graph, 0, memory="lean").requires_grad_(False)
    x = torch.randn(2, 3, 12, 12)
    assert network(x).grad_fn is None
    with torch.no_grad():
        assert network.requires_grad_()(x).grad_fn is None


def test_running_statistics_move_once_a_step(graph: Graph) -> None:
    network = build(graph, 0, memory="leanest")
    network(torch.randn(2, 3, 12, 12)).sum().backward()
    assert {int(tensor) for name, tensor in network.named_buffers() if "num_batches" in name} == {1}


# ---------------------------------------------------------------------- what PyTorch can do with it


def test_autocast_is_as_near_to_full_precision(graph: Graph) -> None:
    result = []
    for memory, dtype in (("plain", torch.float32), ("plain", torch.bfloat16), ("lean", torch.bfloat16)):
        network, x = (
            build(graph, 0, memory=memory),
            torch.randn(8, 3, 12, 12, generator=torch.Generator().manual_seed(1)),
        )
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype != torch.float32):
            output = network(x)
        assert output.dtype == dtype
        output.float().square().sum().backward()
        assert all(tensor.grad is not None and tensor.grad.dtype == torch.float32 for tensor in network.parameters())
        grads = torch.cat([tensor.grad.flatten() for tensor in network.parameters() if tensor.grad is not None])
        result.append((output.float(), grads))
    for wanted, plain, lean in zip(*result, strict=True):
        assert (lean - wanted).norm() < 1.3 * (plain - wanted).norm() + 0.01 * wanted.norm()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_as_near_to_full_precision(graph: Graph, dtype: torch.dtype) -> None:
    result = []
    for memory, kind in (("plain", torch.float32), ("plain", dtype), ("lean", dtype)):
        network = build(graph, 0, memory=memory).to(kind)  # type: ignore[arg-type]
        output = network(torch.randn(8, 3, 12, 12, generator=torch.Generator().manual_seed(1)).to(kind))
        output.float().square().sum().backward()
        result.append(torch.cat([tensor.grad.flatten() for tensor in network.parameters() if tensor.grad is not None]))
    wanted, plain, lean = result
    assert lean.dtype == dtype
    assert (lean - wanted).norm() < 1.3 * (plain - wanted).norm() + 0.01 * wanted.norm()


def test_copies_and_pickles_train_the_same(graph: Graph) -> None:
    network = build(graph, 0, memory="lean")
    x = torch.randn(2, 3, 12, 12)
    network(x).sum().backward()
    wanted = [tensor.grad.clone() for tensor in network.parameters() if tensor.grad is not None]
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        other.zero_grad()
        assert memory_of(other) == "lean"
        other(x).sum().backward()
        given = [tensor.grad for tensor in other.parameters() if tensor.grad is not None]
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(given, wanted, strict=True))


def test_backward_twice(graph: Graph) -> None:
    network = build(graph, 0, memory="leanest").double()
    output = network(torch.randn(2, 3, 12, 12, dtype=torch.float64)).square().sum()
    output.backward(retain_graph=True)
    wanted = [tensor.grad.clone() for tensor in network.parameters() if tensor.grad is not None]
    output.backward()
    for tensor, once in zip(network.parameters(), wanted, strict=True):
        assert tensor.grad is not None and torch.allclose(tensor.grad, 2 * once)
    x = torch.randn(2, 3, 12, 12, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(network(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_weights_changed_before_backward_are_noticed(graph: Graph) -> None:
    network = build(graph, 0, memory="lean")
    output = network(torch.randn(2, 3, 12, 12)).sum()
    with torch.no_grad():
        next(network.parameters()).add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.backward()


def test_the_output_is_the_user_s_own(graph: Graph) -> None:
    x = torch.randn(2, 3, 12, 12)
    plain, lean = build(graph, 0).double(), build(graph, 0, memory="lean").double()
    for network in (plain, lean):
        network(x.double()).mul_(2).sum().backward()
    for wanted, result in zip(plain.parameters(), lean.parameters(), strict=True):
        assert wanted.grad is not None and result.grad is not None
        assert torch.allclose(result.grad, wanted.grad, rtol=1e-9, atol=1e-9)


def test_hooks_and_replaced_modules_observe_the_same_as_in_a_plain_network(graph: Graph) -> None:
    x = torch.randn(2, 3, 12, 12)
    observed: list[torch.Tensor] = []
    for memory in ("plain", "lean"):
        network = build(graph, 0, memory=memory)
        module = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)][2]
        module.register_forward_hook(lambda module, inputs, output: observed.append(output.detach()))
        network(x).sum().backward()
    assert len(observed) == 2 and torch.equal(*observed)
    network = build(graph, 0, memory="lean").eval()
    before = network(x)
    network.linear = nn.Sequential(network.linear, nn.Softmax(1))  # type: ignore[arg-type]
    with pytest.warns(UserWarning, match="memory mode 'lean' is not in effect: module 'linear' was replaced"):
        assert torch.allclose(network(x), before.softmax(1), atol=1e-6)


def test_replaced_norms_and_convolutions_train_as_in_a_plain_network(graph: Graph) -> None:
    def group_norm(network: Network) -> None:
        path = [name for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)][1]
        parent, _, name = path.rpartition(".")
        setattr(network.get_submodule(parent), name, nn.GroupNorm(2, network.get_submodule(path).num_features).double())

    def dilated(network: Network) -> None:
        path = [n for n, m in network.named_modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)][1]
        conv = network.get_submodule(path)
        conv.dilation, conv.padding = (2, 2), (2, 2)

    def own_forward(network: Network) -> None:
        conv = [module for module in network.modules() if isinstance(module, nn.Conv2d)][1]
        forward = conv.forward
        conv.forward = lambda x: 2 * forward(x)  # type: ignore[method-assign]

    def parametrized(network: Network) -> None:
        conv = [module for module in network.modules() if isinstance(module, nn.Conv2d)][1]
        nn.utils.parametrizations.weight_norm(conv)

    def without_weights(network: Network) -> None:
        norm = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)][1]
        norm.register_parameter("weight", None)
        norm.register_parameter("bias", None)

    for change in (group_norm, dilated, own_forward, parametrized, without_weights):
        with pytest.warns(UserWarning, match="is not in effect"):
            check(graph, change=change)
    network = build(graph, 0, memory="lean").eval()
    before = network(x := torch.randn(2, 3, 12, 12))
    nn.SyncBatchNorm.convert_sync_batchnorm(network)
    with pytest.warns(UserWarning, match="is not in effect"):
        assert torch.allclose(network(x), before, atol=1e-5)


def test_hooks_of_all_modules_observe_a_plain_network(graph: Graph) -> None:
    network, seen = build(graph, 0, memory="lean"), []
    handle = nn.modules.module.register_module_forward_hook(lambda module, inputs, output: seen.append(type(module)))
    try:
        with pytest.warns(
            UserWarning, match="memory mode 'lean' is not in effect: hooks of all modules are registered"
        ):
            network(torch.randn(2, 3, 12, 12))
    finally:
        handle.remove()
    assert nn.Conv2d in seen and nn.BatchNorm2d in seen


@pytest.mark.parametrize("seed", range(12))
def test_any_parameters_may_be_frozen(graph: Graph, seed: int) -> None:
    """From the image on, at random, or by name; some batch norms in evaluation mode."""

    def freeze(network: Network) -> None:
        draw, parameters = random.Random(seed), list(network.named_parameters())
        first = draw.randrange(len(parameters))
        for position, (name, parameter) in enumerate(parameters):
            frozen = (position < first, draw.random() < 0.5, name.endswith(("weight", "bias")[first % 2]))[seed % 3]
            parameter.requires_grad_(not frozen)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d) and draw.random() < 0.3:
                module.eval()

    check(graph, change=freeze)


@pytest.mark.parametrize("count", range(1, 8))
def test_the_first_parameters_may_be_frozen(count: int) -> None:
    def freeze(network: Network) -> None:
        for parameter in list(network.parameters())[:count]:
            parameter.requires_grad_(False)

    check(graph_of({"conv": 3, "out": 8}, "bn", "relu", {"conv": 3, "out": 8}, "bn", "relu"), change=freeze)


def test_tracers_get_the_plain_network(graph: Graph) -> None:
    lean, plain = build(graph, 0, memory="lean"), build(graph, 0)
    x = torch.randn(2, 3, 12, 12)
    program = torch.export.export(lean, (x,))
    assert not any("_PieceFunction" in str(node.target) for node in program.graph.nodes)
    assert "batch_norm" in str(program.graph)
    fast = torch.compile(lean, backend="aot_eager", fullgraph=True)
    fast(x).square().sum().backward()
    plain(x).square().sum().backward()
    for a, b in zip(lean.parameters(), plain.parameters(), strict=True):
        assert a.grad is not None and b.grad is not None and torch.allclose(a.grad, b.grad, rtol=1e-3, atol=1e-3)
    torch._dynamo.reset()


def test_a_single_value_a_channel_is_refused_as_by_pytorch() -> None:
    graph = graph_of("gap", "bn", image=(4, 4, 4))
    for memory in ("plain", "lean"):
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            build(graph, 0, memory=memory)(torch.randn(1, 4, 4, 4))


def test_an_unknown_memory_is_refused() -> None:
    with pytest.raises(InputError, match="unknown memory mode 'leaner'; did you mean 'lean'"):
        nas_agg.compile("aggregation/densenet", memory="leaner")  # type: ignore[call-overload]


# ---------------------------------------------------------------------- what it keeps


def kept(network: Network, x: torch.Tensor) -> int:
    """Bytes kept for backward: each storage once, parameters and buffers left out."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*network.parameters(), *network.buffers())}
    result: dict[int, int] = {}
    alive = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own and tensor.numel():
            result[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        network(x)
    return sum(result.values())


def test_kept_bytes_equal_the_prediction() -> None:
    rng = random.Random(11)
    graphs = [expand(Genotype.from_dict(random_genotype(rng))) for _ in range(60)] + [
        graph_of(*MIXED, image=(3, 12, 12))
    ]
    for graph in graphs:
        cost = Cost(graph)
        for memory in ("lean", "leanest"):
            network = build(graph, 0, memory=memory)
            count = kept(network, torch.randn(BATCH, *graph.shapes[0]))
            assert count / BATCH == pytest.approx(cost.bytes_for_backward(memory), rel=0.02), memory
        # A little may come on top: statistics of what sums are made of, a pooled map before a classifier's 1x1.
        assert cost.activation_bytes_lean <= 1.02 * cost.activation_bytes
        assert cost.activation_bytes_leanest <= 1.02 * cost.activation_bytes_lean


@pytest.mark.parametrize(
    ("point", "lean", "leanest"),
    [
        ("densenet-imagenet/121", 0.21, 0.08),
        ("sparsenet-imagenet/121-k32", 0.45, 0.12),
        ("microdense/60a115", 0.45, 0.30),
        ("efficientnet/b0", 0.35, 0.20),
    ],
)
def test_the_shares_that_are_kept(point: str, lean: float, leanest: float) -> None:
    cost = nas_agg.cost(point)
    assert cost.activation_bytes_lean < lean * cost.activation_bytes
    assert cost.activation_bytes_leanest < leanest * cost.activation_bytes


def test_a_dense_block_is_one_piece_with_one_buffer() -> None:
    block = {"nodes": 4, "growth": 8, "unit": BOTTLENECK, "reads": DENSE, "output": DENSE}
    plan = RematerializationPlan(graph_of({"conv": 3, "out": 8}, block, "bn", "relu", {"conv": 1, "out": 8}), "lean")
    (piece,) = [piece for piece in plan.pieces if piece.buffers]
    assert [len(buffer) for buffer in piece.buffers] == [5]
    backward = plan.plan_backward(piece, plan.find_gradient_flow(piece.entry, piece.last, True, {}))
    image_and_bottlenecks = [0] + [i for i, op in enumerate(plan.ops) if op.word == "conv" and plan.shapes[i][0] == 16]
    assert backward.saved_buffers == (0,) and list(backward.saved) == image_and_bottlenecks
