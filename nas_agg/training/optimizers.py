"""Optimizers of recipes: classes of ``torch.optim`` by name, with their parameter groups."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import torch
from torch import nn

from nas_agg.common.errors import InputError, did_you_mean, one_line, truncate
from nas_agg.compiler.fine_tuning import classifier_parameters
from nas_agg.compiler.network import aggregation_parameters
from nas_agg.training.recipes import Recipe


def optimizer_class(name: str) -> type[torch.optim.Optimizer]:
    """The class of a name.

    Raises:
        InputError: ``torch.optim`` has no such optimizer, or it does not suit networks of dense layers.
    """
    kind = getattr(torch.optim, name, None) if name.isidentifier() else None
    if not (inspect.isclass(kind) and issubclass(kind, torch.optim.Optimizer) and kind is not torch.optim.Optimizer):
        known = [word for word, kind in vars(torch.optim).items() if inspect.isclass(kind) and word != "Optimizer"]
        same = [word for word in known if word.lower() == name.lower()]
        hint = f"; did you mean '{same[0]}'?" if same else did_you_mean(name, known)
        raise InputError(f"optimizer: torch.optim has no '{truncate(name)}'{hint}")
    closure = inspect.signature(kind.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise InputError(f"optimizer: {name} evaluates the loss several times per step; use SGD or AdamW")
    if "Sparse" in name:
        raise InputError(f"optimizer: {name} requires sparse gradients; use AdamW")
    return kind


def check_recipe(recipe: Recipe) -> None:
    """Check what a recipe leaves to torch: its optimizer and the options of that.

    Raises:
        InputError: The optimizer is unknown, or rejects its options.
    """
    _make(recipe, [{"params": [nn.Parameter(torch.zeros(1, 1))]}])


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Make the optimizer of a model's parameters that require gradients.

    Raises:
        InputError: There are no such parameters, or the optimizer rejects them or its options.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise InputError("the network has no parameters to train")
    undecayed = {id(p) for p in aggregation_parameters(model) if not recipe.decay_aggregation}
    undecayed |= {id(p) for p in parameters if p.ndim <= 1 and not recipe.decay_vectors}
    if recipe.lr_backbone is None:
        decayed, others = _by_decay(parameters, undecayed)
        return _make(recipe, [decayed, *([others] if others["params"] else [])])
    names = set(classifier_parameters(model))
    head = {id(p) for name, p in model.named_parameters() if name in names}
    backbone_groups = _by_decay([p for p in parameters if id(p) not in head], undecayed)
    groups = [{**group, "lr_scale": recipe.lr_backbone / recipe.lr} for group in backbone_groups]
    groups += _by_decay([p for p in parameters if id(p) in head], undecayed)
    return _make(recipe, [group for group in groups if group["params"]])


def _by_decay(parameters: Sequence[nn.Parameter], undecayed: AbstractSet[int]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Two groups of parameters: those with weight decay, and those without, whose identities are given."""
    decayed = [p for p in parameters if id(p) not in undecayed]
    return {"params": decayed}, {"params": [p for p in parameters if id(p) in undecayed], "weight_decay": 0.0}


def _make(recipe: Recipe, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    kind = optimizer_class(recipe.optimizer)
    accepted = inspect.signature(kind).parameters
    options: dict[str, Any] = {"lr": recipe.lr, "weight_decay": recipe.weight_decay, "momentum": recipe.momentum}
    options["nesterov"] = recipe.nesterov and recipe.momentum > 0
    options["fused"] = True  # a fifth of the time of a loop over many small tensors, also on a CPU
    for name in ("momentum", "nesterov"):
        if name not in accepted and getattr(recipe, name) != Recipe.model_fields[name].default:
            raise InputError(f"{name}: {recipe.optimizer} takes none; see optimizer_options for its own arguments")
    if recipe.weight_decay and "weight_decay" not in accepted:
        raise InputError(f"weight_decay: {recipe.optimizer} has none; set it to 0")
    for name in recipe.optimizer_options:
        if name in options or name not in accepted or name == "params":
            own = [key for key in accepted if key not in (*options, "params")]
            hint = did_you_mean(name, own) or f"; available: {', '.join(own)}"
            raise InputError(f"optimizer_options: {recipe.optimizer} has no option '{truncate(name)}'{hint}")
    arguments = {name: value for name, value in options.items() if name in accepted} | recipe.optimizer_options
    try:
        return kind(groups, **arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        problem = one_line(" ".join(str(error).split()))[:160]
        raise InputError(f"optimizer: {recipe.optimizer} rejects the network or its options: {problem}") from None
