"""Learning-rate schedules: those of torch's schedulers, at every step."""

from __future__ import annotations

import pytest
import torch
from torch.optim import lr_scheduler

from nas_agg.training.recipes import open_recipe

STEPS = 40


def rates_of(make):
    """Rates that a scheduler of torch gives to the steps of a training."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9)
    scheduler, rates = make(optimizer), []
    for _ in range(STEPS):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(
    "fields, make",
    [
        ({"schedule": "one-cycle"}, lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=STEPS)),
        (
            {"schedule": "one-cycle", "warmup_epochs": 4},
            lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=STEPS, pct_start=0.1),
        ),
        ({"schedule": "step", "milestones": [10, 30]}, lambda o: lr_scheduler.MultiStepLR(o, [10, 30])),
        ({"schedule": "constant"}, lambda o: lr_scheduler.ConstantLR(o, 1.0)),
    ],
)
def test_rates_are_those_of_torch(fields, make):
    recipe = open_recipe({"epochs": STEPS, "batch_size": 2, "lr": 0.1, **fields})
    assert [recipe.learning_rate(step, STEPS) for step in range(1, STEPS + 1)] == pytest.approx(rates_of(make))


def test_linear_falls_to_zero_after_the_warm_up():
    recipe = open_recipe({"epochs": 10, "batch_size": 2, "lr": 0.1, "schedule": "linear", "warmup_epochs": 2})
    assert [recipe.learning_rate(step, 10) for step in (1, 2, 5, 10)] == pytest.approx([0.045, 0.08, 0.05, 0.0])


@pytest.mark.parametrize("schedule", ["cosine", "step", "linear", "constant", "one-cycle"])
@pytest.mark.parametrize("steps", [1, 2, 3, 10])
def test_rates_of_short_trainings_are_finite(schedule, steps):
    fields = {"milestones": [1]} if schedule == "step" else {}
    recipe = open_recipe({"epochs": 1, "batch_size": 2, "lr": 0.1, "schedule": schedule, **fields})
    assert all(0 <= recipe.learning_rate(step, steps) <= 0.1 + 1e-12 for step in range(1, steps + 1))
