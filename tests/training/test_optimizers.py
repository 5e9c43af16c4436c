"""Optimizers of recipes: any dense one of torch.optim, with the fields of the recipe as its arguments."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nas_agg.common.errors import InputError
from nas_agg.training.optimizers import check_recipe, make_optimizer
from nas_agg.training.recipes import open_recipe


@pytest.mark.parametrize(
    "fields, kind, options",
    [
        ({}, torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 5e-4, "lr": 0.1}),
        ({"momentum": 0.0}, torch.optim.SGD, {"momentum": 0.0, "nesterov": False}),
        ({"optimizer": "AdamW"}, torch.optim.AdamW, {"weight_decay": 5e-4, "betas": (0.9, 0.999)}),
        (
            {"optimizer": "Adam", "optimizer_options": {"betas": [0.8, 0.9], "amsgrad": True}},
            torch.optim.Adam,
            {"betas": (0.8, 0.9), "amsgrad": True},
        ),
        ({"optimizer": "RMSprop"}, torch.optim.RMSprop, {"momentum": 0.9}),
        ({"optimizer": "Adagrad"}, torch.optim.Adagrad, {"lr": 0.1}),
    ],
)
def test_an_optimizer_has_the_fields_of_its_recipe(fields, kind, options):
    optimizer = make_optimizer(nn.Linear(3, 2), open_recipe("search", fields))
    assert type(optimizer) is kind
    assert {name: optimizer.param_groups[0][name] for name in options} == options
    assert optimizer.param_groups[1]["weight_decay"] == 0  # the bias


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"optimizer": "AdmaW"}, "optimizer: torch.optim has no 'AdmaW'; did you mean 'AdamW'?"),
        ({"optimizer": "lr_scheduler"}, "optimizer: torch.optim has no 'lr_scheduler'"),
        ({"optimizer": "__class__"}, "optimizer: torch.optim has no '__class__'"),
        ({"optimizer": "LBFGS"}, "LBFGS evaluates the loss several times per step"),
        ({"optimizer": "SparseAdam"}, "SparseAdam requires sparse gradients"),
        ({"optimizer": "AdamW", "momentum": 0.5}, "momentum: AdamW takes none; see optimizer_options"),
        ({"optimizer": "Rprop"}, "weight_decay: Rprop has none; set it to 0"),
        ({"optimizer_options": {"damping": 1}}, "SGD has no option 'damping'; did you mean 'dampening'?"),
        ({"optimizer": "Adam", "optimizer_options": {"betas": [2.0, 3.0]}}, "Adam rejects the network or its options"),
    ],
)
def test_a_mistake_is_one_line(fields, message):
    with pytest.raises(InputError) as raised:
        check_recipe(open_recipe("search", fields))
    assert message in str(raised.value)


def test_a_network_without_parameters_is_refused():
    with pytest.raises(InputError, match="no parameters to train"):
        make_optimizer(nn.Flatten(), open_recipe("search"))
