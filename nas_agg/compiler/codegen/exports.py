"""``model.onnx`` and ``model.pt2``: networks exported for any batch size, and compared with the network.

The configuration of the model is in their metadata: under ``config`` in ONNX files, and as the extra file
``config.json`` in those of `torch.export`.
"""

from __future__ import annotations

import copy
import io
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from nas_agg.common.errors import InputError, NasAggError, is_out_of_memory, one_line
from nas_agg.common.files import write_atomic
from nas_agg.compiler.codegen.model_config import CONFIG_KEY
from nas_agg.language.genotype import Genotype

ONNX, EXPORT, CONFIG = "model.onnx", "model.pt2", "config.json"
#: Tolerance of the logits of exported models, relative to the largest logit if that is above 1; larger only where the
#: rounding errors of the network's own float32 logits are.
TOLERANCE = 1e-4
BATCHES = (1, 7)  # images per batch of the comparison
_MAX_BATCH = 2**16  # images per batch of an exported model
_MAX_POOL = torch.ops.aten.adaptive_max_pool2d.default

_Network = Callable[[Tensor], Tensor]
_T = TypeVar("_T")


class NormalizedNetwork(nn.Module):
    """A network that takes images with values from 0 to 1, and normalizes them itself.

    Args:
        network: The network.
        mean: Mean per channel.
        std: Standard deviation per channel.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: list[float], std: list[float]):
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, C, H, W)."""
        return self.network((images - self.mean) / self.std)


def check_onnx() -> None:
    """Check that the packages that ONNX export requires are installed.

    Raises:
        InputError: They are not.
    """
    try:
        import onnxscript  # noqa: F401
    except ImportError:
        raise InputError("ONNX export requires onnx and onnxscript: pip install 'nas-agg[onnx]'") from None


def write_exports(
    folder: Path,
    genotype: Genotype,
    network: nn.Module,
    config: Mapping[str, Any],
    *,
    onnx: bool,
    export: bool,
    normalize: bool,
    compare: bool,
) -> list[str]:
    """Write the exported models to a folder; returns notes about what could not be checked.

    Args:
        folder: The folder.
        genotype: The genotype of the network.
        network: The network, in eval mode on the CPU.
        config: The contents of ``config.json``, which become metadata with the entry ``normalizes_input``.
        onnx: Whether to write ``model.onnx``.
        export: Whether to write ``model.pt2``.
        normalize: Whether the models take images with values from 0 to 1.
        compare: Whether to compare their logits with the network's.

    Raises:
        NasAggError: A model cannot be written, or does not compute what the network computes.
    """
    if normalize:
        network = NormalizedNetwork(network, config["pretrained_cfg"]["mean"], config["pretrained_cfg"]["std"]).eval()
    metadata = json.dumps({**config, "normalizes_input": normalize})
    notes: list[str] = []
    exported: dict[str, _Network] = {}
    if onnx or export:
        program = run_step(EXPORT if export else ONNX, lambda: export_program(genotype, network))
    if export:
        packed = io.BytesIO()  # torch's own writer aborts the process if the disk is full
        run_step(EXPORT, lambda: torch.export.save(program, packed, extra_files={CONFIG: metadata}))
        write_atomic(folder / EXPORT, packed.getvalue())
        exported[EXPORT] = run_step(EXPORT, lambda: torch.export.load(folder / EXPORT)).module()
    if onnx:
        run_step(ONNX, lambda: _onnx(program, metadata).save(folder / ONNX))
        session = run_step(ONNX, lambda: _session(folder / ONNX))
        if session is None:
            notes.append(f"{ONNX} was not checked, as onnxruntime is not installed: pip install onnxruntime")
        else:
            exported[ONNX] = session
    if not compare:
        effect = f", so {' and '.join(exported)} could not be compared with it" if exported else ""
        return [*notes, f"the network's logits for random images are not finite{effect}"]
    for name, other in exported.items():
        run_step(name, lambda name=name, other=other: _compare(name, other, genotype, network))  # type: ignore[misc]
    return notes


def export_program(genotype: Genotype, network: nn.Module) -> torch.export.ExportedProgram:
    """Export a network for any batch size."""
    batch = ({0: torch.export.Dim("batch", min=1, max=_MAX_BATCH)},)
    return torch.export.export(network, (random_images(genotype, 2),), dynamic_shapes=batch)


def _max_pool(images: Tensor, size: list[int]) -> tuple[Tensor, Tensor]:
    """Adaptive max pooling as maxima over slices; its second result, the positions, is never read."""
    pooled = images
    for axis, bins in zip((2, 3), size, strict=True):
        length = pooled.shape[axis]
        limits = [(i * length // bins, -(-(i + 1) * length // bins)) for i in range(bins)]
        maxima = [pooled.narrow(axis, start, end - start).amax(axis, keepdim=True) for start, end in limits]
        pooled = torch.cat(maxima, axis)
    return pooled, torch.zeros_like(pooled, dtype=torch.int64)


def _onnx(program: torch.export.ExportedProgram, metadata: str) -> torch.onnx.ONNXProgram:
    if any(node.target is _MAX_POOL for node in program.graph.nodes):  # which torch 2.5 cannot write to ONNX
        program = program.run_decompositions({_MAX_POOL: _max_pool})
    names = {"input_names": ["images"], "output_names": ["logits"]}
    shapes: Any = ({0: "batch"},)  # name of the dimension in the file
    model = torch.onnx.export(program, dynamo=True, verbose=False, dynamic_shapes=shapes, **names)  # type: ignore[arg-type]
    assert model is not None
    model.model.metadata_props[CONFIG_KEY] = metadata
    return model


def _session(path: Path) -> _Network | None:
    """A function that runs an ONNX file; None if onnxruntime is not installed."""
    try:
        import onnxruntime
    except ImportError:
        return None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: torch.from_numpy(session.run(None, {name: images.numpy()})[0])


def _compare(name: str, other: _Network, genotype: Genotype, network: nn.Module) -> None:
    for count in BATCHES:
        images = random_images(genotype, count)
        expected, actual = network(images), other(images)
        if expected.shape != actual.shape:
            raise NasAggError(f"{name}: returns {tuple(actual.shape)} for {count} images, not {tuple(expected.shape)}")
        largest = max(1.0, float(expected.abs().max()))
        error = float((actual - expected).abs().max()) / largest
        if not error <= TOLERANCE and not error <= 10 * _rounding_error(network, images, expected) / largest:
            raise NasAggError(f"{name}: its logits differ from the network's by {error:.2g} of the largest")


def _rounding_error(network: nn.Module, images: Tensor, logits: Tensor) -> float:
    """Largest difference of a network's logits in float32 and float64, which can be large in deep networks."""
    exact = copy.deepcopy(network).double()(images.double())
    return float((logits - exact).abs().max())


def random_images(genotype: Genotype, count: int) -> Tensor:
    """Images of normally distributed values, the same ones for the same number."""
    return torch.randn(count, *genotype.input, generator=torch.Generator().manual_seed(count))


def run_step(name: str, work: Callable[[], _T]) -> _T:
    """Run a step of writing or checking a file, and convert any exception of its libraries into one line."""
    try:
        return work()
    except (NasAggError, OSError):
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        raise NasAggError(
            one_line(f"{name}: failed for this network: {type(error).__name__}: {first}"[:300])
        ) from error
