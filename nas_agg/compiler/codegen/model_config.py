"""``config.json`` of a compiled model: its input and its labels, in the form of timm's model configurations."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, PositiveInt
from torch import nn

from nas_agg.expansion.costs import cost
from nas_agg.language.genotype import Genotype

CONFIG_KEY = "config"  # its key in the metadata of ONNX files, and after "nas_agg:" in those of safetensors
_CROP_MODES = {"crop": "center", "squash": "squash", "pad": "border"}  # timm's names


class ImageInput(BaseModel):
    """What happens to an image before a network sees it.

    Attributes:
        mean: Mean per channel of values from 0 to 1.
        std: Standard deviation, likewise.
        size: Height and width of the images that the network sees.
        stored: Height and width to which an image is made to fit; the network sees its central ``size``.
        resize: How an image is made to fit.
        interpolation: How it is scaled.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: tuple[FiniteFloat, ...]
    std: tuple[Annotated[FiniteFloat, Field(gt=0)], ...]
    size: tuple[PositiveInt, PositiveInt]
    stored: tuple[PositiveInt, PositiveInt]
    resize: Literal["crop", "squash", "pad"] = "crop"
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"

    def with_size(self, size: tuple[int, int]) -> ImageInput:
        """The same for images of another size: its margins grow with it."""
        if size == self.size:
            return self
        stored = tuple(round(side * old / own) for side, old, own in zip(size, self.stored, self.size, strict=True))
        return self.model_copy(update={"size": size, "stored": stored})

    @property
    def crop_pct(self) -> float:
        """The share of a scaled image's side that is kept; timm computes ``floor(side / crop_pct)`` from it."""
        side, stored = min(zip(self.size, self.stored, strict=True))
        share = side / stored
        while math.floor(side / share) < stored:  # by rounding
            share = math.nextafter(share, 0)
        return share

    def describe(self) -> str:
        """A phrase such as ``scaled to 64x64; mean (0.5), std (0.25)``."""
        size, mean, std = (
            "x".join(map(str, self.size)),
            *(", ".join(f"{value:.4g}" for value in values) for values in (self.mean, self.std)),
        )
        how = {
            "crop": f"shorter side to {min(self.stored)}, centre crop of {size}",
            "squash": f"scaled to {size}",
            "pad": f"scaled to fit {size}, padded with black",
        }[self.resize]
        return f"{how}; mean ({mean}), std ({std})"


def model_config(
    genotype: Genotype,
    network: nn.Module,
    *,
    name: str = "",
    image_input: ImageInput | None = None,
    label_names: Sequence[str] = (),
    task: str = "classification",
) -> dict[str, Any]:
    """The contents of ``config.json``.

    Args:
        genotype: The genotype.
        network: The compiled network.
        name: The name of the network.
        image_input: Its input; None if that is unknown, as of untrained weights.
        label_names: Names of the classes or targets, in the order of the outputs.
        task: ``classification``, ``multilabel`` or ``regression``.
    """
    counted, layers = cost(genotype), list(network.named_modules())
    convs = [path for path, layer in layers if isinstance(layer, nn.Conv2d) and layer.in_channels == genotype.input[0]]
    linears = [path for path, layer in layers if isinstance(layer, nn.Linear)]
    timm: dict[str, Any] = {"input_size": list(genotype.input), "num_classes": genotype.classes}
    if image_input is not None:
        timm |= {
            "mean": list(image_input.mean),
            "std": list(image_input.std),
            "interpolation": image_input.interpolation,
            "crop_pct": image_input.crop_pct,
            "crop_mode": _CROP_MODES[image_input.resize],
        }
    timm |= {"first_conv": convs[0] if convs else None, "classifier": linears[-1] if linears else None}
    config: dict[str, Any] = {
        "architecture": architecture_name(name),
        "num_classes": genotype.classes,
        "task": task,
        "genotype_hash": counted.hash,
        "pretrained_cfg": timm,
    }
    if label_names:
        config["label_names"] = list(label_names)
    if image_input is not None:
        config["preprocessing"] = {
            "size": list(image_input.size),
            "resize": image_input.resize,
            "stored": list(image_input.stored),
            "interpolation": image_input.interpolation,
        }
    return config


def architecture_name(name: str) -> str:
    """A network's name as a name of timm's models: letters, digits and underscores."""
    return re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_").lower() or "network"


def config_text(config: dict[str, Any]) -> str:
    """The text of ``config.json``: entries on a line each, lists on one."""

    def text(value: Any, indent: str) -> str:
        if not isinstance(value, dict):
            return json.dumps(value)
        lines = [f"{indent}  {json.dumps(key)}: {text(entry, indent + '  ')}" for key, entry in value.items()]
        return "{\n" + ",\n".join(lines) + f"\n{indent}}}"

    return text(config, "") + "\n"
