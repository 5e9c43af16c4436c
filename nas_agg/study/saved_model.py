"""A trained network with its configuration, read from a run folder or from the folder of a compiled model."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas_agg.common.errors import InputError
from nas_agg.common.files import read_document
from nas_agg.search_space.references import open_genotype
from nas_agg.study.export import describe_best, read_best_metrics
from nas_agg.study.model_input import recorded_input

if TYPE_CHECKING:
    from nas_agg.language.genotype import Genotype


@dataclass(frozen=True)
class SavedModel:
    """A network on the disk.

    Attributes:
        genotype: The genotype.
        config: The contents of ``config.json``; see `nas_agg.compiler.codegen.model_config`.
        weights: The file of its weights.
    """

    genotype: Genotype
    config: dict[str, Any]
    weights: Path


def read_saved_model(path: str | os.PathLike[str]) -> SavedModel:
    """Read a run's final network, or the folder of a compiled model.

    Raises:
        InputError: There is no trained network, or a file is missing or damaged.
    """
    from nas_agg.compiler.codegen.exports import CONFIG
    from nas_agg.compiler.codegen.model_config import model_config
    from nas_agg.compiler.codegen.package import GENOTYPE, WEIGHTS
    from nas_agg.compiler.compilation import compile
    from nas_agg.expansion.costs import cost

    folder = Path(path)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; specify a run folder or that of a compiled model")
    if (folder / CONFIG).is_file():
        genotype, config = open_genotype(str(folder / GENOTYPE)), read_document(folder / CONFIG)
        if not isinstance(config, dict) or config.get("genotype_hash") != cost(genotype).hash:
            raise InputError(f"{folder / CONFIG}: does not belong to the network of {GENOTYPE}; compile it again")
        return SavedModel(genotype, config, folder / WEIGHTS)
    weights = describe_best(folder)[2]
    if weights is None:
        raise InputError(f"{folder}: no trained network")
    genotype = open_genotype(str(folder))
    known = recorded_input(read_best_metrics(folder)).adapted(genotype)
    config = model_config(
        genotype,
        compile(genotype, 0),
        name=folder.resolve().name,
        image_input=known.image_input,
        label_names=known.label_names,
        task=known.task,
    )
    return SavedModel(genotype, config, Path(weights))
