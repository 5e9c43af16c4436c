"""The input and the labels of a trained network: from the metrics of its training, or from torchvision."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from nas_agg.common.errors import InputError
from nas_agg.common.files import read_document
from nas_agg.study.records.run_folder import METRICS_FILE, WEIGHTS_FILE

if TYPE_CHECKING:
    from nas_agg.compiler.codegen.model_config import ImageInput
    from nas_agg.language.genotype import Genotype


@dataclass(frozen=True)
class ModelInput:
    """What the users of trained weights must know of their training.

    Attributes:
        image_input: What happens to an image first; None if unknown.
        label_names: Names of the classes or targets, in the order of the outputs.
        task: ``classification``, ``multilabel`` or ``regression``.
    """

    image_input: ImageInput | None = None
    label_names: tuple[str, ...] = ()
    task: str = "classification"

    def adapted(self, genotype: Genotype) -> ModelInput:
        """The input of the network of a genotype, as far as it has the same channels and classes."""
        image_input, (channels, height, width) = self.image_input, genotype.input
        if image_input is not None:
            same = len(image_input.mean) == channels
            image_input = image_input.with_size((height, width)) if same else None
        names = self.label_names if len(self.label_names) == genotype.classes else ()
        return ModelInput(image_input, names, self.task)


def recorded_input(metrics: Mapping[str, Any]) -> ModelInput:
    """The input of a network by the contents of its metrics.json; nothing is known if entries are missing."""
    from nas_agg.compiler.codegen.model_config import ImageInput

    try:
        known = dict(metrics["preprocessing"])
        known.pop("about", None)
        if known.get("resize") == "none":  # images kept their size
            known |= {"resize": "crop", "stored": known["size"]}
        image_input = ImageInput(mean=metrics["mean"], std=metrics["std"], **known)
        names = tuple(str(name) for name in metrics["class_names"])
        return ModelInput(image_input, names, str(metrics.get("task", "classification")))
    except (KeyError, TypeError, ValueError, ValidationError):
        return ModelInput()


def saved_preprocessing(source: str) -> dict[str, Any]:
    """Preprocessing, mean and std of the final network of a run folder; empty for any other source."""
    path = Path(source) / "best" / METRICS_FILE
    if not source or not path.is_file():
        return {}
    try:
        metrics = read_document(path)
        return {name: metrics[name] for name in ("preprocessing", "mean", "std")}
    except (InputError, KeyError, TypeError):
        return {}


def weights_input(weights: str) -> ModelInput:
    """The input of a network by its weights: of a file in ``best/`` or of a compiled model, or torchvision's."""
    path = Path(weights)
    if path.is_file() and path.name == WEIGHTS_FILE:
        if (path.parent / METRICS_FILE).is_file():
            try:
                return recorded_input(read_document(path.parent / METRICS_FILE))
            except InputError:
                return ModelInput()
        return _input_in_metadata(path)
    return _torchvision_input(weights)


def _input_in_metadata(path: Path) -> ModelInput:
    """The input by the configuration in the metadata of a compiled model's weights."""
    from safetensors import SafetensorError, safe_open

    from nas_agg.compiler.codegen.model_config import CONFIG_KEY, ImageInput

    try:
        with safe_open(path, framework="pt") as file:
            config = json.loads((file.metadata() or {})[f"nas_agg:{CONFIG_KEY}"])
        known, names = config["pretrained_cfg"], tuple(str(name) for name in config.get("label_names", ()))
        image_input = ImageInput(mean=known["mean"], std=known["std"], **config["preprocessing"])
        return ModelInput(image_input, names, str(config["task"]))
    except (OSError, KeyError, TypeError, AttributeError, ValueError, SafetensorError):
        return ModelInput()


def _torchvision_input(weights: str) -> ModelInput:
    from nas_agg.compiler.codegen.model_config import ImageInput
    from nas_agg.compiler.torchvision_weights import named_weights

    entry = named_weights(weights)
    if entry is None:
        return ModelInput()
    transforms = entry.transforms()
    (side,), (stored,) = transforms.crop_size, transforms.resize_size
    image_input = ImageInput(
        mean=transforms.mean,
        std=transforms.std,
        size=(side, side),
        stored=(stored, stored),
        interpolation=transforms.interpolation.value,
    )
    return ModelInput(image_input, tuple(entry.meta["categories"]))
