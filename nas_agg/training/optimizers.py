"""Optimizers of recipes: classes of ``torch.optim`` by name, with their parameter groups."""

from __future__ import annotations

import inspect
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
    backbone = {id(p) for p in parameters}
    head = set(classifier_parameters(model)) if recipe.lr_backbone is not None else set()
    backbone -= {id(p) for name, p in model.named_parameters() if name in head}
    groups: list[dict[str, Any]] = []
    for is_backbone in (True, False) if recipe.lr_backbone is not None else (None,):
        own = [p for p in parameters if is_backbone is None or (id(p) in backbone) == is_backbone]
        scale = {"lr_scale": recipe.lr_backbone / recipe.lr} if is_backbone and recipe.lr_backbone is not None else {}
        for decayed in (True, False):
            chosen = [p for p in own if (id(p) not in undecayed) == decayed]
            if chosen or (decayed and is_backbone is None):
                groups.append({"params": chosen, **scale} | ({} if decayed else {"weight_decay": 0.0}))
    return _make(recipe, groups)


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
