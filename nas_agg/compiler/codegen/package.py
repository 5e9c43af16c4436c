"""Compiled models: folders with a network as code and weights, which run without nas_agg.

All files are run before the folder appears: the code with the file of weights, and the exported models.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas_agg.common.bounded_reading import read_bounded
from nas_agg.common.durable import abandoned, remove_abandoned, temporary_path
from nas_agg.common.errors import InputError, NasAggError
from nas_agg.common.files import read_document, write_atomic
from nas_agg.compiler.codegen import emit
from nas_agg.compiler.codegen import predict as prediction
from nas_agg.compiler.codegen.exports import CONFIG, EXPORT, ONNX, check_onnx, random_images, run_step, write_exports
from nas_agg.compiler.codegen.model_config import CONFIG_KEY, config_text, model_config
from nas_agg.compiler.weights import save_weights
from nas_agg.language.genotype import Genotype

MODEL, WEIGHTS, GENOTYPE, PREDICT = "model.py", "weights.safetensors", "genotype.json", "predict.py"
FILES = (MODEL, PREDICT, CONFIG, WEIGHTS, GENOTYPE, ONNX, EXPORT)
_CACHE = "__pycache__"
MAX_CODE = 10_000_000  # bytes; the longest network has some hundred kilobytes
_MARKERS = re.compile(r"^(def build\(|class Network\()", re.MULTILINE)


@dataclass(frozen=True)
class WrittenPackage:
    """The folder of a compiled model.

    Attributes:
        path: The folder.
        files: Size in bytes of each file.
        notes: Lines about what could not be checked.
    """

    path: Path
    files: dict[str, int]
    notes: tuple[str, ...]


def write_package(
    out: str | os.PathLike[str],
    genotype: Genotype,
    network: nn.Module,
    *,
    title: str = "",
    about: str = "",
    onnx: bool = False,
    export: bool = False,
    force: bool = False,
    config: Mapping[str, Any] | None = None,
    normalize: bool = False,
) -> WrittenPackage:
    """Write the folder of a network; it appears complete and verified, or not at all.

    Args:
        out: The folder.
        genotype: The genotype of the network.
        network: The network compiled from the genotype, with its weights.
        title: Title of the network in its code.
        about: Description and provenance of the network, a line in its code.
        onnx: Whether to write ``model.onnx`` as well, for any batch size.
        export: Whether to write ``model.pt2`` (`torch.export`) as well, for any batch size.
        force: Whether to replace an existing folder of a compiled model.
        config: The contents of ``config.json``; see `nas_agg.compiler.codegen.model_config`.
        normalize: Whether the exported models take images with values from 0 to 1, and normalize them.

    Returns:
        The folder and its files.

    Raises:
        InputError: The folder exists already, a package that ONNX requires is missing, or `normalize` has no models
            to apply to or no mean and std.
        NasAggError: The folder cannot be written, or a file does not compute what the network computes.
    """
    check_place(out, force)
    if onnx:
        check_onnx()
    config = model_config(genotype, network, name=title) if config is None else config
    if normalize:
        check_normalize(onnx or export, "mean" in config["pretrained_cfg"])
    place = Path(os.path.realpath(out))
    temporary = temporary_path(place)
    old = temporary.with_suffix(".old")
    new_parents = [folder for folder in place.parents if not folder.exists()]
    try:
        temporary.mkdir(parents=True)
        _write_files(temporary, genotype, network, config)
        with _inference_mode(network):
            finite = _write_code(temporary, genotype, network, title, about)
            options = {"onnx": onnx, "export": export, "normalize": normalize, "compare": finite}
            notes = write_exports(temporary, genotype, network, config, **options)
        files = {file.name: file.stat().st_size for file in sorted(temporary.iterdir())}
        if removed := [name for name in (ONNX, EXPORT) if (place / name).exists() and name not in files]:
            notes.append(f"removed the previous network's {' and '.join(removed)}")
        _replace(temporary, place, old, out)
    except OSError as error:
        raise NasAggError(f"{out}: cannot be written: {error.strerror or error}") from None
    except NasAggError as error:  # users know the final folder, not the temporary one
        raise type(error)(str(error).replace(str(temporary), str(out))) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if place.exists() and old.exists():
            _discard(old)
        with contextlib.suppress(OSError):
            for folder in new_parents if not place.exists() else ():
                folder.rmdir()
    return WrittenPackage(Path(out), files, tuple(notes))


def check_place(out: str | os.PathLike[str], force: bool = False) -> None:
    """Check that a folder does not exist or, with `force`, that it is the folder of a compiled model.

    What killed calls left beside it is removed first.

    Raises:
        InputError: It exists, or is not the folder of a compiled model.
        NasAggError: It cannot be read.
    """
    if not os.fspath(out):
        raise InputError("out: specify a folder")
    try:
        place = Path(os.path.realpath(out))
        _clean_up(place)
        if not place.exists():
            return
        if not place.is_dir():
            raise InputError(f"{out}: a file, not a folder; choose another")
        problem, current = _why_not_compiled_model(place), Path.cwd()
    except InputError:
        raise
    except (OSError, ValueError) as error:  # a ValueError is a NUL in the path
        raise NasAggError(f"{out}: cannot be used: {getattr(error, 'strerror', None) or error}") from None
    if problem:
        raise InputError(f"{out}: already exists and {problem}; choose another folder")
    if not force:
        raise InputError(f"{out}: already exists; choose another folder, or replace it with --force")
    if place == current or place in current.parents:
        raise InputError(f"{out}: the current folder and its parents cannot be replaced; choose another folder")


def check_normalize(has_models: bool, has_statistics: bool) -> None:
    """Check that a request to normalize in exported models can be met.

    Raises:
        InputError: No model is exported, or mean and std are unknown.
    """
    if not has_models:
        raise InputError("normalize: for exported models; add --onnx or --export")
    if not has_statistics:
        raise InputError(
            "normalize: the mean and std of the images are unknown, as no training of the weights is known"
        )


def _why_not_compiled_model(folder: Path) -> str:
    """Why a folder is not that of a compiled model and must not be replaced; empty if it is one, or is empty."""
    entries = sorted(folder.iterdir())
    for entry in entries:
        regular = entry.is_file() and not entry.is_symlink()
        cache = entry.name == _CACHE and entry.is_dir() and all(file.suffix == ".pyc" for file in entry.iterdir())
        if not (cache or (regular and entry.name in FILES)):
            return f"contains '{entry.name}', which does not belong to a compiled model"
    names = {entry.name for entry in entries}
    if entries and not {MODEL, WEIGHTS, GENOTYPE} <= names:
        return f"contains '{entries[0].name}', but is not a compiled model"
    code = read_bounded(folder / MODEL, MAX_CODE).decode(errors="replace") if entries else ""
    if entries and set(_MARKERS.findall(code)) != {"def build(", "class Network("}:
        return f"contains a '{MODEL}' that nas_agg did not write"
    return ""


def _clean_up(place: Path) -> None:
    """Remove what killed calls left beside a folder; the folder itself is restored if one had just moved it away."""
    remove_abandoned(place.parent, place.name)
    for old in abandoned(place.parent, place.name, "old"):
        if place.exists():
            _discard(old)
        else:
            os.rename(old, place)


def _discard(folder: Path) -> None:
    """Remove the folder of a compiled model: its known files, then the folder if it is empty."""
    shutil.rmtree(folder / _CACHE, ignore_errors=True)
    with contextlib.suppress(OSError):
        for name in FILES:
            (folder / name).unlink(missing_ok=True)
        folder.rmdir()


def add_code(folder: Path, genotype: Genotype, title: str = "", about: str = "") -> None:
    """Write ``model.py`` to a folder, after running it with the folder's weights, if there are any.

    It does not wait for the disk; `nas_agg.common.durable.rename_durably`, which names the complete folder, does.

    Raises:
        NasAggError: It cannot be written, or does not compute what the genotype's network computes.
    """
    from nas_agg.compiler import compile as compiled

    weights = folder / WEIGHTS if (folder / WEIGHTS).exists() else None
    with _inference_mode(compiled(genotype, seed=0, weights=weights)) as network:
        _write_code(folder, genotype, network, title, about, durable=False)


def _write_files(folder: Path, genotype: Genotype, network: nn.Module, config: Mapping[str, Any]) -> None:
    """Write all files but the code of the network and exported models to a folder."""
    write_atomic(folder / GENOTYPE, json.dumps(genotype.to_dict(), indent=2) + "\n")
    if Genotype.from_dict(read_document(folder / GENOTYPE)) != genotype:
        raise NasAggError(f"{GENOTYPE}: does not describe the same genotype; this is a bug in nas_agg")
    save_weights(network, folder / WEIGHTS, {f"nas_agg:{CONFIG_KEY}": json.dumps(config)})
    write_atomic(folder / CONFIG, config_text(dict(config)))
    write_atomic(folder / PREDICT, Path(prediction.__file__).read_text(encoding="utf-8"))


def _write_code(
    folder: Path, genotype: Genotype, network: nn.Module, title: str, about: str, durable: bool = True
) -> bool:
    """Write ``model.py`` if its logits equal the network's bit for bit; returns whether they are finite."""
    text = emit(genotype, title, about)
    weights = folder / WEIGHTS

    def run() -> Tensor:
        scope: dict[str, Any] = {"__name__": "model"}
        exec(compile(text, MODEL, "exec"), scope)
        other = scope["build"](weights if weights.exists() else None)
        if not weights.exists():
            other.load_state_dict(network.state_dict())
        return other.eval()(images)

    images = random_images(genotype, 2)
    expected, actual = network(images), run_step(MODEL, run)
    if expected.shape != actual.shape or not torch.allclose(expected, actual, rtol=0, atol=0, equal_nan=True):
        raise NasAggError(f"{MODEL}: does not compute what the network computes; this is a bug in nas_agg")
    write_atomic(folder / MODEL, text, durable=durable)
    return bool(expected.isfinite().all())


@contextlib.contextmanager
def _inference_mode(network: nn.Module) -> Iterator[nn.Module]:
    """Context with the network in eval mode on the CPU, without gradients; its mode and device are then restored."""
    training, device = network.training, next((tensor.device for tensor in network.parameters()), None)
    try:
        with torch.no_grad(), warnings.catch_warnings(action="ignore"):
            yield network.eval().cpu()
    finally:
        network.train(training)
        if device is not None:
            network.to(device)


def _replace(new: Path, place: Path, old: Path, out: str | os.PathLike[str]) -> None:
    """Move a new folder to its place, and an existing one to ``old``; on an error the existing one is restored."""
    try:
        if place.exists():
            os.rename(place, old)
            if problem := _why_not_compiled_model(old):  # it has been created or changed meanwhile
                raise InputError(f"{out}: already exists and {problem}; choose another folder")
        os.rename(new, place)
    except BaseException:
        if old.exists() and not place.exists():
            os.rename(old, place)
        raise
