"""Compiled models: folders with a network as code and weights, which run without nas_agg.

All files are run before the folder appears: the code with the file of weights, and the exported models.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from nas_agg.common.bounded_reading import read_bounded
from nas_agg.common.durable import abandoned, remove_abandoned, temporary_path
from nas_agg.common.errors import InputError, NasAggError, is_out_of_memory, one_line
from nas_agg.common.files import read_document, write_atomic
from nas_agg.compiler.codegen import emit
from nas_agg.compiler.weights import save_weights
from nas_agg.language.genotype import Genotype

MODEL, WEIGHTS, GENOTYPE, ONNX, EXPORT = (
    "model.py",
    "weights.safetensors",
    "genotype.json",
    "model.onnx",
    "model.pt2",
)
#: Tolerance of the logits of exported models, relative to the largest logit if that is above 1; larger only where the
#: rounding errors of the network's own float32 logits are.
TOLERANCE = 1e-4
BATCHES = (1, 7)  # images per batch of the comparison
_CACHE = "__pycache__"
MAX_CODE = 10_000_000  # bytes; the longest network has some hundred kilobytes
_MARKERS = re.compile(r"^(def build\(|class Network\()", re.MULTILINE)
_MAX_BATCH = 2**16  # images per batch of an exported model

_Network = Callable[[Tensor], Tensor]
_T = TypeVar("_T")


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

    Returns:
        The folder and its files.

    Raises:
        InputError: The folder exists already, or a package that ONNX requires is missing.
        NasAggError: The folder cannot be written, or a file does not compute what the network computes.
    """
    check_place(out, force)
    if onnx:
        check_onnx()
    place = Path(os.path.realpath(out))
    temporary = temporary_path(place)
    old = temporary.with_suffix(".old")
    new_parents = [folder for folder in place.parents if not folder.exists()]
    try:
        temporary.mkdir(parents=True)
        notes = _write_files(temporary, genotype, network, title, about, onnx, export)
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


def _why_not_compiled_model(folder: Path) -> str:
    """Why a folder is not that of a compiled model and must not be replaced; empty if it is one, or is empty."""
    entries = sorted(folder.iterdir())
    for entry in entries:
        regular = entry.is_file() and not entry.is_symlink()
        cache = entry.name == _CACHE and entry.is_dir() and all(file.suffix == ".pyc" for file in entry.iterdir())
        if not (cache or (regular and entry.name in (MODEL, WEIGHTS, GENOTYPE, ONNX, EXPORT))):
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
        for name in (MODEL, WEIGHTS, GENOTYPE, ONNX, EXPORT):
            (folder / name).unlink(missing_ok=True)
        folder.rmdir()


def check_onnx() -> None:
    """Check that the packages that ONNX export requires are installed.

    Raises:
        InputError: They are not.
    """
    try:
        import onnxscript  # noqa: F401
    except ImportError:
        raise InputError("ONNX export requires onnx and onnxscript: pip install 'nas-agg[onnx]'") from None


def add_code(folder: Path, genotype: Genotype, title: str = "", about: str = "") -> None:
    """Write ``model.py`` to a folder, after running it with the folder's weights, if there are any.

    Raises:
        NasAggError: It cannot be written, or does not compute what the genotype's network computes.
    """
    from nas_agg.compiler import compile as compiled

    weights = folder / WEIGHTS if (folder / WEIGHTS).exists() else None
    with _inference_mode(compiled(genotype, seed=0, weights=weights)) as network:
        _write_code(folder, genotype, network, title, about)


def _write_files(
    folder: Path, genotype: Genotype, network: nn.Module, title: str, about: str, onnx: bool, export: bool
) -> list[str]:
    """Write all files to a folder; returns notes about what could not be checked."""
    write_atomic(folder / GENOTYPE, json.dumps(genotype.to_dict(), indent=2) + "\n")
    if Genotype.from_dict(read_document(folder / GENOTYPE)) != genotype:
        raise NasAggError(f"{GENOTYPE}: does not describe the same genotype; this is a bug in nas_agg")
    save_weights(network, folder / WEIGHTS)
    notes: list[str] = []
    exported: dict[str, _Network] = {}
    with _inference_mode(network):
        finite = _write_code(folder, genotype, network, title, about)
        if onnx or export:
            program = _run_step(EXPORT if export else ONNX, lambda: _program(genotype, network))
        if export:
            packed = io.BytesIO()  # torch's own writer aborts the process if the disk is full
            _run_step(EXPORT, lambda: torch.export.save(program, packed))
            write_atomic(folder / EXPORT, packed.getvalue())
            exported[EXPORT] = _run_step(EXPORT, lambda: torch.export.load(folder / EXPORT)).module()
        if onnx:
            _run_step(ONNX, lambda: _onnx(program).save(folder / ONNX))
            session = _run_step(ONNX, lambda: _session(folder / ONNX))
            if session is None:
                notes.append(f"{ONNX} was not checked, as onnxruntime is not installed: pip install onnxruntime")
            else:
                exported[ONNX] = session
        if not finite:
            effect = f", so {' and '.join(exported)} could not be compared with it" if exported else ""
            return [*notes, f"the network's logits for random images are not finite{effect}"]
        for name, other in exported.items():
            _run_step(name, lambda name=name, other=other: _compare(name, other, genotype, network))  # type: ignore[misc]
    return notes


def _write_code(folder: Path, genotype: Genotype, network: nn.Module, title: str, about: str) -> bool:
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

    images = _images(genotype, 2)
    expected, actual = network(images), _run_step(MODEL, run)
    if expected.shape != actual.shape or not torch.allclose(expected, actual, rtol=0, atol=0, equal_nan=True):
        raise NasAggError(f"{MODEL}: does not compute what the network computes; this is a bug in nas_agg")
    write_atomic(folder / MODEL, text)
    return bool(expected.isfinite().all())


def _program(genotype: Genotype, network: nn.Module) -> torch.export.ExportedProgram:
    """Export the network for any batch size."""
    batch = ({0: torch.export.Dim("batch", min=1, max=_MAX_BATCH)},)
    return torch.export.export(network, (_images(genotype, 2),), dynamic_shapes=batch)


def _onnx(program: torch.export.ExportedProgram) -> torch.onnx.ONNXProgram:
    names = {"input_names": ["images"], "output_names": ["logits"]}
    shapes: Any = ({0: "batch"},)  # name of the dimension in the file
    model = torch.onnx.export(program, dynamo=True, verbose=False, dynamic_shapes=shapes, **names)  # type: ignore[arg-type]
    assert model is not None
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
        images = _images(genotype, count)
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


def _images(genotype: Genotype, count: int) -> Tensor:
    return torch.randn(count, *genotype.input, generator=torch.Generator().manual_seed(count))


def _run_step(name: str, work: Callable[[], _T]) -> _T:
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
