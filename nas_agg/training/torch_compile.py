"""Full trainings under ``torch.compile``: what it needs, and a network's forward compiled."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas_agg.common.errors import InputError, NasAggError
from nas_agg.graph.rematerialization import MemoryMode

#: The share of what plainly would be kept for backward that the compiler may keep (`activation_memory_budget`); with
#: these it keeps about what lean and leanest keep in eager mode.
BUDGETS: dict[MemoryMode, float] = {"plain": 1.0, "lean": 0.5, "leanest": 0.1}

BACKEND = "inductor"


def check_compiler(device: str) -> None:
    """Refuses to compile where that cannot be.

    Args:
        device: ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        InputError: There is no compiler for this device.
    """
    missing = _missing("cuda" if device.startswith("cuda") else "cpu")
    if missing:
        raise InputError(f"compile: torch.compile needs {missing}; install it, or train without compile")


def _missing(kind: str) -> str:
    """What torch.compile lacks for a kind of device; empty if nothing."""
    if kind == "cuda":
        if importlib.util.find_spec("triton") is None:
            return "Triton, and it is not installed"
        names = [os.environ["CC"]] if os.environ.get("CC") else ["gcc", "clang", "cc"]
        what = "a C compiler"
    else:
        names = [os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")]
        what = "a C++ compiler"
    if not any(shutil.which(name.split()[0]) for name in names if name.strip()):
        return f"{what}, and there is no {' or '.join(names)}"
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        return "Python's own headers (Python.h, in Debian's python3-dev), and they are not there"
    return ""


class CompiledForward:
    """A network's forward in training, compiled when it is first called; its parameters and their names stay its own.

    Args:
        model: The network; `nas_agg.compiler.network.Network` runs plainly under the compiler, whatever its memory.
        memory: ``plain``, ``lean`` or ``leanest``: how much the compiler may keep for backward.
        varied: Whether batches differ in size; one compilation does for all of them.

    Raises:
        NasAggError: This torch cannot keep less.
    """

    def __init__(self, model: nn.Module, memory: MemoryMode, varied: bool):
        self._varied = varied
        # All or nothing: a part that could not be compiled would be run as it is, and nobody would know.
        self._run: Callable[[Tensor], Tensor] = torch.compile(model, fullgraph=True, backend=backend(memory))

    def __call__(self, images: Tensor) -> Tensor:
        """Logits ``(N, classes)`` of images ``(N, C, H, W)``."""
        if self._varied:
            torch._dynamo.mark_dynamic(images, 0)
        return self._run(images)


def backend(memory: MemoryMode) -> str | Callable[..., Any]:
    """What compiles so that training keeps as much as a memory says.

    For less than ``plain`` it is a function of its own: for one and the same, PyTorch would take what it compiled of an
    equal network for another memory.

    Raises:
        NasAggError: This torch cannot keep less.
    """
    if memory == "plain":
        return BACKEND
    try:
        from torch._functorch import config  # private, and the one place where this can be said

        config.activation_memory_budget  # noqa: B018
    except (ImportError, AttributeError):
        raise NasAggError(f"torch {torch.__version__} cannot compile with memory {memory}") from None
    compiler = torch._dynamo.lookup_backend(BACKEND) if isinstance(BACKEND, str) else BACKEND

    def keeping_less(graph: Any, inputs: Any) -> Any:
        with config.patch(activation_memory_budget=BUDGETS[memory]):
            return compiler(graph, inputs)

    return keeping_less
