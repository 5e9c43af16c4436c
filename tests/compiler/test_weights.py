"""Weights on disk."""

from __future__ import annotations

import pytest
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


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_orig_mod.module."])
def test_prefixes_of_wrapped_modules_are_removed(prefix):
    text = {
        "input": [3, 8, 8],
        "classes": 3,
        "net": [{"conv": 3, "out": 8}, "bn", "relu", "gap", {"linear": "classes"}],
    }
    state = nas_agg.compile(text, seed=0).state_dict()
    network = nas_agg.compile(text, weights={prefix + name: tensor for name, tensor in state.items()})
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())
    with pytest.raises(InputError, match="these are the weights of another network"):
        nas_agg.compile(text, weights={prefix + name: tensor for name, tensor in list(state.items())[1:]})
