"""Weights on disk."""

from __future__ import annotations

import math

import pytest
import safetensors.torch
import torch
from torch import nn

import nas_agg
from nas_agg.common.errors import InputError
from nas_agg.compiler.weights import load_weights, save_weights


def network(width=4):
    return nn.Sequential(nn.Conv2d(1, width, 3), nn.BatchNorm2d(width))


def refusal(call, *args):
    with pytest.raises(InputError) as error:
        call(*args)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_weights_come_back_to_the_bit_in_any_memory_format(tmp_path):
    model, other = network().to(memory_format=torch.channels_last), network()
    model(torch.randn(2, 1, 5, 5))  # moves the statistics of the normalisation
    save_weights(model, tmp_path / "w.safetensors")
    load_weights(other, tmp_path / "w.safetensors")
    for name, tensor in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor)
    assert [file.name for file in tmp_path.iterdir()] == ["w.safetensors"]


def test_weights_of_another_network_are_named(tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(network(), path)
    assert "'0.weight' has shape (4, 1, 3, 3), not (5, 1, 3, 3)" in refusal(load_weights, network(5), path)
    assert "'1.bias' is not in the network" in refusal(load_weights, network()[:1], path)
    more = nn.Sequential(*network(), nn.Linear(1, 1))
    before = {name: tensor.clone() for name, tensor in more.state_dict().items()}
    assert "no weights named '2.weight'" in refusal(load_weights, more, path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in more.state_dict().items())


def test_files_that_hold_no_weights(tmp_path):
    assert "no such file" in refusal(load_weights, network(), tmp_path / "none")
    for text in (b"", b"garbage" * 100, b"\xff" * 64):
        (tmp_path / "bad").write_bytes(text)
        assert "bad: not a readable safetensors file" in refusal(load_weights, network(), tmp_path / "bad")
    save_weights(network(), tmp_path / "w")
    (tmp_path / "bad").write_bytes((tmp_path / "w").read_bytes()[:-5])
    assert "not a readable safetensors file" in refusal(load_weights, network(), tmp_path / "bad")
    assert "not a readable safetensors file" in refusal(load_weights, network(), tmp_path)


TEXT = {
    "input": [3, 8, 8],
    "classes": 3,
    "net": [{"conv": 3, "out": 8}, "bn", "relu", "gap", {"linear": "classes"}],
}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("share", [1, 0.01])
def test_weights_that_are_not_finite_are_refused(tmp_path, value, share):
    state = nas_agg.compile(TEXT, seed=0).state_dict()
    name = "conv.weight"
    state[name] = state[name].masked_fill(torch.rand(state[name].shape) < share, value)
    state[name].view(-1)[0] = value
    torch.save(state, tmp_path / "w.pt")
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    for weights in (state, tmp_path / "w.pt", tmp_path / "w.safetensors"):
        message = refusal(lambda weights: nas_agg.compile(TEXT, weights=weights), weights)
        assert "'conv.weight' has values that are not finite; the training diverged, or the file is damaged" in message


def test_names_of_other_wrappers_are_removed():
    state = nas_agg.compile(TEXT, seed=0).state_dict()
    for wrapped in (
        torch.optim.swa_utils.AveragedModel(nas_agg.compile(TEXT, seed=0)).state_dict(),
        nn.DataParallel(nas_agg.compile(TEXT, seed=0)).state_dict(),
        {f"_fsdp_wrapped_module.{name.replace('bn.', 'bn._fsdp_wrapped_module.')}": state[name] for name in state},
        {name.replace("conv.", "conv._checkpoint_wrapped_module._orig_mod."): state[name] for name in state},
        {f"module.module.{name}": state[name] for name in state},
    ):
        assert wrapped.keys() != state.keys()
        loaded = nas_agg.compile(TEXT, weights=wrapped).state_dict()
        assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.items())
    twice = {**state, **{f"_orig_mod.{name}": tensor for name, tensor in state.items()}}
    assert "'_orig_mod.conv.weight' is not in the network" in refusal(
        lambda weights: nas_agg.compile(TEXT, weights=weights), twice
    )


def test_a_part_of_a_network_may_be_called_like_a_wrapper():
    text = {**TEXT, "let": {"module": [{"conv": 3, "out": 8}, "bn"]}, "net": ["module", "gap", {"linear": "classes"}]}
    state = nas_agg.compile(text, seed=0).state_dict()
    assert any(name.startswith("module.") for name in state)
    for weights in (state, {f"module.{name}": tensor for name, tensor in state.items()}):
        loaded = nas_agg.compile(text, weights=weights).state_dict()
        assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.items())


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_orig_mod.module."])
def test_prefixes_of_wrapped_modules_are_removed(prefix):
    text = TEXT
    state = nas_agg.compile(text, seed=0).state_dict()
    network = nas_agg.compile(text, weights={prefix + name: tensor for name, tensor in state.items()})
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())
    with pytest.raises(InputError, match="these are the weights of another network"):
        nas_agg.compile(text, weights={prefix + name: tensor for name, tensor in list(state.items())[1:]})
