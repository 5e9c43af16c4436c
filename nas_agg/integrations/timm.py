"""Trained networks as models of timm: ``timm.create_model`` makes them by name.

from nas_agg.integrations.timm import register

name = register("runs/microdense-digits-0")
model = timm.create_model(name, pretrained=True)
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
"""

from __future__ import annotations

import dataclasses
import importlib
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from nas_agg.common.errors import InputError
from nas_agg.study.saved_model import SavedModel, read_saved_model

if TYPE_CHECKING:
    from torch import nn

__all__ = ["register"]


def register(source: str | os.PathLike[str], name: str | None = None) -> str:
    """Make a trained network available to ``timm.create_model``.

    Args:
        source: A run folder (its final network), or the folder of a compiled model.
        name: The name of the model; by default that of the folder, with underscores for other characters than letters
            and digits. A model of this name that was registered before is replaced.

    Returns:
        The name. ``timm.create_model(name, pretrained=True)`` has the trained weights, with a new classifier where
        ``num_classes`` is another number; ``in_chans``, ``img_size``, ``features_only``, ``out_indices``, ``drop_rate``
        and ``drop_path_rate`` are supported.

    Raises:
        InputError: timm is not installed, the folder has no trained network, or the name is one of timm's own models.
    """
    try:
        from timm.models import PretrainedCfg, is_model, register_model
    except ImportError:
        raise InputError("models of timm require timm: pip install 'nas-agg[timm]'") from None
    from nas_agg.compiler.codegen.model_config import architecture_name

    models = importlib.import_module("nas_agg.integrations.timm_models")
    saved = read_saved_model(source)
    name = saved.config["architecture"] if name is None else architecture_name(name)
    if is_model(name) and name not in models.default_cfgs:
        raise InputError(f"{source}: timm has a model '{name}' of its own; specify another name")
    fields = {field.name for field in dataclasses.fields(PretrainedCfg)}
    known = {key: value for key, value in saved.config["pretrained_cfg"].items() if key in fields}
    cfg = {**known, "file": str(saved.weights.resolve()), "architecture": name}
    cfg["label_names"] = saved.config.get("label_names")
    entry = _entry(name, saved, cfg)
    entry.__name__ = entry.__qualname__ = name
    entry.__module__ = models.__name__
    if name in models.default_cfgs:
        from timm.models._registry import _model_entrypoints

        _model_entrypoints.pop(name, None)  # timm warns of a model that is replaced
    models.default_cfgs[name] = cfg
    setattr(models, name, register_model(entry))
    return name


def _entry(name: str, saved: SavedModel, cfg: dict[str, Any]) -> Callable[..., nn.Module]:
    """The function that makes the model, with timm's arguments."""

    def create(
        pretrained: bool = False,
        pretrained_cfg: Any = None,
        pretrained_cfg_overlay: Any = None,
        cache_dir: Any = None,
        pretrained_model_args: Any = None,
        *,
        num_classes: int | None = None,
        in_chans: int | None = None,
        img_size: int | Sequence[int] | None = None,
        features_only: bool = False,
        out_indices: Sequence[int] | None = None,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        **others: Any,
    ) -> nn.Module:
        if others:
            raise InputError(f"{name}: no such option '{next(iter(others))}' of networks of nas_agg")
        channels, *own_size = saved.genotype.input
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size or own_size
        genotype = saved.genotype.with_task((in_chans or channels, height, width), num_classes or None)
        dropouts = {"dropout": drop_rate, "drop_path": drop_path_rate}
        model = _model(saved, genotype, cfg, pretrained, dropouts, tuple(out_indices or ()) if features_only else None)
        if num_classes == 0 and not features_only:
            model.reset_classifier(0)  # type: ignore[operator]
        return model

    return create


def _model(
    saved: SavedModel,
    genotype: Any,
    cfg: dict[str, Any],
    pretrained: bool,
    dropouts: dict[str, float],
    out_indices: tuple[int, ...] | None,
) -> nn.Module:
    """A network, or its feature maps where indices of them are given."""
    from nas_agg.compiler.compilation import compile
    from nas_agg.compiler.regularization import regularize
    from nas_agg.expansion.expansion import expand
    from nas_agg.expansion.passes import apply_passes
    from nas_agg.integrations.timm_models import TimmBackbone, TimmNetwork

    initial = compile(genotype)
    state = initial.state_dict()
    if pretrained:
        state = _pretrained_state(saved, genotype, cfg, initial)
    graph = regularize(apply_passes(expand(genotype)), dropouts["dropout"], dropouts["drop_path"])
    model = TimmNetwork(graph, cfg) if out_indices is None else TimmBackbone(graph, out_indices or None)
    model.load_state_dict(state)
    return model


def _pretrained_state(saved: SavedModel, genotype: Any, cfg: dict[str, Any], initial: nn.Module) -> dict[str, Any]:
    """The trained weights for a network with other classes or channels, adapted as timm does it."""
    from timm.models import adapt_input_conv

    from nas_agg.compiler.fine_tuning import load_pretrained

    network: Any = initial
    if genotype.input[0] == saved.genotype.input[0]:
        load_pretrained(network, genotype, saved.weights)
        return network.state_dict()
    from nas_agg.compiler.compilation import compile

    trained = saved.genotype.with_task(None, genotype.classes)
    source = compile(trained)
    load_pretrained(source, trained, saved.weights)
    state = source.state_dict()
    first = f"{cfg['first_conv']}.weight"
    if first in state:
        state[first] = adapt_input_conv(genotype.input[0], state[first])
    own = network.state_dict()
    for key, tensor in state.items():
        if key not in own or own[key].shape != tensor.shape:
            raise InputError(f"in_chans: '{key}' depends on the channels of the images, and cannot be adapted")
    return state
