"""A fixed model: a folder with a network as code and weights that anyone can run without nas_agg.

All that is written is run before the folder appears: the code with the weights' file, and what was exported.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
import re
import secrets
import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

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
#: How far outputs of exported files may be from the network's, as a part of the largest logit if that is above 1; more
#: only where the network's own float32 outputs are no surer than that.
TOLERANCE = 1e-4
BATCHES = (1, 7)  # images with which they are compared
_CACHE = "__pycache__"
_MARKS = re.compile(r"^(def build\(|class Network\()", re.MULTILINE)
_MOST = 2**16  # images a batch of an exported model

_Network = Callable[[Tensor], Tensor]
_T = TypeVar("_T")


@dataclass(frozen=True)
class WrittenPackage:
    """A fixed model's folder.

    Attributes:
        path: The folder.
        files: The bytes of each file in it.
        notes: What could not be checked, a line each.
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
    """Writes a network's folder; it appears whole and checked, or not at all.

    Args:
        out: The folder.
        genotype: Of the network.
        network: Compiled from the genotype, with its weights.
        title: What the network is called in its code.
        about: A line there on what it is and where it comes from.
        onnx: Whether ``model.onnx`` is written too, for any batch size.
        export: Whether ``model.pt2`` is (`torch.export`), for any batch size.
        force: Whether a folder of a compiled model that is there is replaced.

    Returns:
        The folder, and what is in it.

    Raises:
        InputError: The folder is there already, or a package that ONNX needs is not.
        NasAggError: The folder cannot be written, or what was written is not the network.
    """
    check_place(out, force)
    if onnx:
        check_onnx()
    place = Path(os.path.realpath(out))
    stem = f".{place.name}.{os.getpid()}.{secrets.token_hex(4)}"
    beside, old = place.with_name(f"{stem}.tmp"), place.with_name(f"{stem}.old")
    made = [folder for folder in place.parents if not folder.exists()]
    try:
        beside.mkdir(parents=True)
        notes = _fill(beside, genotype, network, title, about, onnx, export)
        files = {file.name: file.stat().st_size for file in sorted(beside.iterdir())}
        if gone := [name for name in (ONNX, EXPORT) if (place / name).exists() and name not in files]:
            notes.append(f"the {' and '.join(gone)} of the network before went with it")
        _swap(beside, place, old, out)
    except OSError as error:
        raise NasAggError(f"{out}: cannot be written: {error.strerror or error}") from None
    except NasAggError as error:  # of a file; the folder where it was to lie for good is what people know
        raise type(error)(str(error).replace(str(beside), str(out))) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        if place.exists() and old.exists():
            _discard(old)
        with contextlib.suppress(OSError):
            for folder in made if not place.exists() else ():
                folder.rmdir()
    return WrittenPackage(Path(out), files, tuple(notes))


def check_place(out: str | os.PathLike[str], force: bool = False) -> None:
    """Refuses a folder that is there, or with `force` one that is no compiled model's.

    Raises:
        InputError: It is.
        NasAggError: It cannot be looked at.
    """
    if not os.fspath(out):
        raise InputError("out: name a folder")
    try:
        place = Path(os.path.realpath(out))
        if not place.exists():
            return
        if not place.is_dir():
            raise InputError(f"{out}: a file, not a folder; choose another")
        other, here = _foreign(place), Path.cwd()
    except InputError:
        raise
    except (OSError, ValueError) as error:  # a ValueError is a NUL in the path
        raise NasAggError(f"{out}: cannot be used: {getattr(error, 'strerror', None) or error}") from None
    if other:
        raise InputError(f"{out}: already there, {other}; choose another folder")
    if not force:
        raise InputError(f"{out}: already there; choose another folder, or replace it by --force")
    if place == here or place in here.parents:
        raise InputError(f"{out}: the folder that this is called from cannot be replaced; choose another")


def _foreign(folder: Path) -> str:
    """Why a folder is not a compiled model's and must not be replaced; empty if it is, or holds nothing."""
    inside = sorted(folder.iterdir())
    for entry in inside:
        whole = entry.is_file() and not entry.is_symlink()
        cache = entry.name == _CACHE and entry.is_dir() and all(file.suffix == ".pyc" for file in entry.iterdir())
        if not (cache or (whole and entry.name in (MODEL, WEIGHTS, GENOTYPE, ONNX, EXPORT))):
            return f"with '{entry.name}', which is not of a compiled model"
    names = {entry.name for entry in inside}
    if inside and not {MODEL, WEIGHTS, GENOTYPE} <= names:
        return f"with '{inside[0].name}', but is not a compiled model's"
    code = (folder / MODEL).read_text("utf-8", "replace") if inside else ""
    if inside and set(_MARKS.findall(code)) != {"def build(", "class Network("}:
        return f"with a '{MODEL}' that was not written here"
    return ""


def _discard(folder: Path) -> None:
    """Removes a compiled model's folder, and of it only what is one's."""
    shutil.rmtree(folder / _CACHE, ignore_errors=True)
    with contextlib.suppress(OSError):
        for name in (MODEL, WEIGHTS, GENOTYPE, ONNX, EXPORT):
            (folder / name).unlink(missing_ok=True)
        folder.rmdir()


def check_onnx() -> None:
    """Refuses to write ONNX where what it needs is not installed.

    Raises:
        InputError: It is not.
    """
    try:
        import onnxscript  # noqa: F401
    except ImportError:
        raise InputError("ONNX needs further packages: pip install 'nas-agg[onnx]', or onnx and onnxscript") from None


def add_code(folder: Path, genotype: Genotype, title: str = "", about: str = "") -> None:
    """Writes ``model.py`` into a folder, after a run of it with the weights that lie there, if some do.

    Raises:
        NasAggError: It cannot be written, or is not the genotype's network.
    """
    from nas_agg.compiler import compile as compiled

    weights = folder / WEIGHTS if (folder / WEIGHTS).exists() else None
    with _resting(compiled(genotype, seed=0, weights=weights)) as network:
        _write_code(folder, genotype, network, title, about)


def _fill(
    folder: Path, genotype: Genotype, network: nn.Module, title: str, about: str, onnx: bool, export: bool
) -> list[str]:
    """Writes all files into a folder, and gives what could not be checked."""
    write_atomic(folder / GENOTYPE, json.dumps(genotype.to_dict(), indent=2) + "\n")
    if Genotype.from_dict(read_document(folder / GENOTYPE)) != genotype:
        raise NasAggError(f"{GENOTYPE}: does not say the genotype; this is a fault of nas_agg")
    save_weights(network, folder / WEIGHTS)
    notes: list[str] = []
    exported: dict[str, _Network] = {}
    with _resting(network):
        finite = _write_code(folder, genotype, network, title, about)
        if onnx or export:
            program = _trying(EXPORT if export else ONNX, lambda: _program(genotype, network))
        if export:
            packed = io.BytesIO()  # torch's own writer ends the process where the disk is full
            _trying(EXPORT, lambda: torch.export.save(program, packed))
            write_atomic(folder / EXPORT, packed.getvalue())
            exported[EXPORT] = _trying(EXPORT, lambda: torch.export.load(folder / EXPORT)).module()
        if onnx:
            _trying(ONNX, lambda: _onnx(program).save(folder / ONNX))
            session = _trying(ONNX, lambda: _session(folder / ONNX))
            if session is None:
                notes.append(f"{ONNX} was not checked, which needs a further package: pip install onnxruntime")
            else:
                exported[ONNX] = session
        if not finite:
            beside = f", so that {' and '.join(exported)} could not be compared with it" if exported else ""
            return [*notes, f"the network puts out what is no number for random images{beside}"]
        for name, other in exported.items():
            _trying(name, lambda name=name, other=other: _compare(name, other, genotype, network))  # type: ignore[misc]
    return notes


def _write_code(folder: Path, genotype: Genotype, network: nn.Module, title: str, about: str) -> bool:
    """Writes ``model.py``, if it gives what the network gives bit for bit; tells whether these are numbers."""
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
    wanted, found = network(images), _trying(MODEL, run)
    if wanted.shape != found.shape or not torch.allclose(wanted, found, rtol=0, atol=0, equal_nan=True):
        raise NasAggError(f"{MODEL}: does not compute what the network computes; this is a fault of nas_agg")
    write_atomic(folder / MODEL, text)
    return bool(wanted.isfinite().all())


def _program(genotype: Genotype, network: nn.Module) -> torch.export.ExportedProgram:
    """The network in eval mode, for any number of images."""
    batch = ({0: torch.export.Dim("batch", min=1, max=_MOST)},)
    return torch.export.export(network, (_images(genotype, 2),), dynamic_shapes=batch)


def _onnx(program: torch.export.ExportedProgram) -> torch.onnx.ONNXProgram:
    names = {"input_names": ["images"], "output_names": ["logits"]}
    shapes: Any = ({0: "batch"},)  # the name of that size in the file
    made = torch.onnx.export(program, dynamo=True, verbose=False, dynamic_shapes=shapes, **names)  # type: ignore[arg-type]
    assert made is not None
    return made


def _session(path: Path) -> _Network | None:
    """What runs an ONNX file, if it is installed."""
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
        wanted, found = network(images), other(images)
        if wanted.shape != found.shape:
            raise NasAggError(f"{name}: gives {tuple(found.shape)} for {count} images, not {tuple(wanted.shape)}")
        largest = max(1.0, float(wanted.abs().max()))
        far = float((found - wanted).abs().max()) / largest
        if not far <= TOLERANCE and not far <= 10 * _rounding(network, images, wanted) / largest:
            raise NasAggError(f"{name}: its logits are {far:.2g} of the largest from the network's")


def _rounding(network: nn.Module, images: Tensor, logits: Tensor) -> float:
    """How far float32 takes a network's own logits from those of float64: deep networks can magnify it much."""
    exact = copy.deepcopy(network).double()(images.double())
    return float((logits - exact).abs().max())


def _images(genotype: Genotype, count: int) -> Tensor:
    return torch.randn(count, *genotype.input, generator=torch.Generator().manual_seed(count))


def _trying(name: str, work: Callable[[], _T]) -> _T:
    """Does some of the work on a file; what the libraries that do it raise is one line."""
    try:
        return work()
    except (NasAggError, OSError):
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        raise NasAggError(
            one_line(f"{name}: cannot be made of this network: {type(error).__name__}: {first}"[:300])
        ) from error


@contextlib.contextmanager
def _resting(network: nn.Module) -> Iterator[nn.Module]:
    """The network in eval mode on the CPU, without gradients; afterwards it is as it was."""
    training, device = network.training, next((tensor.device for tensor in network.parameters()), None)
    try:
        with torch.no_grad(), warnings.catch_warnings(action="ignore"):
            yield network.eval().cpu()
    finally:
        network.train(training)
        if device is not None:
            network.to(device)


def _swap(beside: Path, place: Path, old: Path, out: str | os.PathLike[str]) -> None:
    """Puts one folder in the place of another, if there is one; whatever happens, one of them is there."""
    try:
        if place.exists():
            os.rename(place, old)
            if other := _foreign(old):  # somebody put it there meanwhile
                raise InputError(f"{out}: already there, {other}; choose another folder")
        os.rename(beside, place)
    except BaseException:
        if old.exists() and not place.exists():
            os.rename(old, place)
        raise
