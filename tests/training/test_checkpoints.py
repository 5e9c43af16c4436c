"""Checkpoints on disk."""

from __future__ import annotations

import hashlib

import pytest
import torch
from torch import nn

from nas_agg.common.errors import InputError
from nas_agg.training.checkpoints import (
    CHECKPOINT,
    load_checkpoint,
    model_fingerprint,
    remove_checkpoint,
    save_checkpoint,
)


def network(width=4):
    return nn.Sequential(nn.Conv2d(1, width, 3), nn.BatchNorm2d(width))


def refusal(call, *args):
    with pytest.raises(InputError) as error:
        call(*args)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_checkpoints_belong_to_one_training(tmp_path):
    assert load_checkpoint(tmp_path, {"seed": 0}) is None
    save_checkpoint(tmp_path, {"seed": 0}, {"weights": torch.ones(2)})
    state = load_checkpoint(tmp_path, {"seed": 0})
    assert state is not None and torch.equal(state["weights"], torch.ones(2))
    assert "another seed (0, not 1)" in refusal(load_checkpoint, tmp_path, {"seed": 1})
    remove_checkpoint(tmp_path)
    remove_checkpoint(tmp_path)
    assert load_checkpoint(tmp_path, {"seed": 0}) is None


def test_damaged_checkpoints_are_refused_and_nothing_in_them_is_run(tmp_path):
    save_checkpoint(tmp_path, {"seed": 0}, {"weights": torch.ones(2)})
    whole = (tmp_path / CHECKPOINT).read_bytes()
    ran = tmp_path / "ran"

    class Command:
        def __reduce__(self):
            return ran.write_text, ("x",)

    torch.save({"of": {"seed": 0}, "state": Command()}, tmp_path / "evil")
    for text in (b"", b"x" * 100, whole[:100], whole[: len(whole) // 2], (tmp_path / "evil").read_bytes()):
        (tmp_path / CHECKPOINT).write_bytes(text)
        assert "damaged: it does not match its SHA-256; remove it" in refusal(load_checkpoint, tmp_path, {"seed": 0})
        (tmp_path / CHECKPOINT).write_bytes(text + hashlib.sha256(text).digest())
        assert "not a readable checkpoint" in refusal(load_checkpoint, tmp_path, {"seed": 0})
    assert not ran.exists()


def test_model_print_tells_shapes_apart():
    assert model_fingerprint(network()) == model_fingerprint(network()) != model_fingerprint(network(5))
