"""A fixed model: a folder with a network as code and weights that anyone can run without nas_agg."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import secrets
import shutil
import warnings
from pathlib import Path

import torch
from torch import nn

from nas_agg.compiler.emission import emit
from nas_agg.compiler.weights import save_weights
from nas_agg.errors import InputError, NasAggError
from nas_agg.files import write_atomic
from nas_agg.genotype import Genotype

MODEL, WEIGHTS, GENOTYPE, ONNX, EXPORT = (
    "model.py",
    "weights.safetensors",
    "genotype.json",
    "model.onnx",
    "model.pt2",
)
_MOST = 2**16  # images a batch of an exported model


def write_package(
    out: str | os.PathLike[str],
    genotype: Genotype,
    network: nn.Module,
    *,
    title: str = "",
    onnx: bool = False,
    export: bool = False,
    force: bool = False,
) -> Path:
    """Writes a network's folder; it appears whole or not at all.

    Args:
        out: The folder.
        genotype: Of the network.
        network: Compiled from the genotype, with its weights.
        title: What the network is called in its code.
        onnx: Whether ``model.onnx`` is written too, for any batch size.
        export: Whether ``model.pt2`` is (`torch.export`), for any batch size.
        force: Whether a folder that is there is replaced.

    Returns:
        The folder.

    Raises:
        InputError: The folder is there already, or a package that ONNX needs is not.
        NasAggError: The folder cannot be written.
    """
    out = Path(out)
    if out.exists() and not force:
        raise InputError(f"{out}: already there; choose another folder, or replace it by --force")
    if out.exists() and not (out.is_dir() and (out / MODEL).is_file()):
        raise InputError(f"{out}: not a folder of a compiled model, so it is not replaced; choose another")
    if onnx:
        _check_onnx()
    beside = out.with_name(f".{out.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        beside.mkdir(parents=True)
        add_code(beside, genotype, title)
        write_atomic(beside / GENOTYPE, json.dumps(genotype.text(), indent=2) + "\n")
        save_weights(network, beside / WEIGHTS)
        if onnx or export:
            _export(beside, genotype, network, onnx, export)
        _replace(beside, out)
    except OSError as error:
        raise NasAggError(f"{out}: cannot be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return out


def add_code(folder: Path, genotype: Genotype, title: str = "") -> None:
    """Writes a genotype's ``model.py`` into a folder that is there."""
    write_atomic(folder / MODEL, emit(genotype, title))


def _replace(beside: Path, out: Path) -> None:
    old = beside.with_suffix(".old")
    if out.exists():
        os.rename(out, old)
    try:
        os.rename(beside, out)
    except OSError:
        with contextlib.suppress(OSError):
            os.rename(old, out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _check_onnx() -> None:
    if importlib.util.find_spec("onnxscript") is None:
        raise InputError("ONNX needs a further package: pip install onnxscript")


def _export(folder: Path, genotype: Genotype, network: nn.Module, onnx: bool, export: bool) -> None:
    """The network in eval mode, for any number of images."""
    training, device = network.training, next(network.parameters()).device
    network.eval().cpu()
    images = torch.zeros(2, *genotype.input)
    batch = ({0: torch.export.Dim("batch", min=1, max=_MOST)},)
    try:
        with torch.no_grad(), warnings.catch_warnings(action="ignore"):
            program = torch.export.export(network, (images,), dynamic_shapes=batch)
            if export:
                torch.export.save(program, folder / EXPORT)
            if onnx:
                made = torch.onnx.export(program, dynamo=True, verbose=False)
                assert made is not None
                made.save(folder / ONNX)
    finally:
        network.train(training).to(device)
