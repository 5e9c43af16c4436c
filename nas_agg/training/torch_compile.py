"""Training under ``torch.compile``: its requirements, and a network's compiled forward."""

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

#: PyTorch's `activation_memory_budget` of each memory mode, as a share of what mode ``plain`` keeps; with these the
#: compiler keeps about as much as ``lean`` and ``leanest`` keep in eager mode.
ACTIVATION_BUDGETS: dict[MemoryMode, float] = {"plain": 1.0, "lean": 0.5, "leanest": 0.1}

BACKEND = "inductor"


def check_compiler(device: str) -> None:
    """Check that ``torch.compile`` can run.

    Args:
        device: ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        InputError: A requirement of the device is missing.
    """
    missing = missing_requirement("cuda" if device.startswith("cuda") else "cpu")
    if missing:
        raise InputError(f"compile: torch.compile needs {missing}; install it, or train without --compile")


def missing_requirement(device_type: str) -> str:
    """The missing requirement of ``torch.compile`` for ``cpu`` or ``cuda``; empty if all are met."""
    if device_type == "cuda":
        if importlib.util.find_spec("triton") is None:
            return "Triton, which is not installed"
        names = [os.environ["CC"]] if os.environ.get("CC") else ["gcc", "clang", "cc"]
        compiler = "a C compiler"
    else:
        names = [os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")]
        compiler = "a C++ compiler"
    if not any(shutil.which(name.split()[0]) for name in names if name.strip()):
        return f"{compiler}, but found no {' or '.join(names)}"
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        return "Python's headers (Python.h; Debian package python3-dev), which are not installed"
    return ""


class CompiledForward:
    """A network's compiled training forward; the parameters and their names remain the network's.

    Args:
        model: The network; a `nas_agg.compiler.network.Network` runs its standard forward under the compiler.
        memory: The memory mode, which sets how much the compiler may keep for backward.
        dynamic_batch: Whether batches differ in size; a single compilation then serves all sizes.

    Raises:
        NasAggError: This version of torch has no activation budget.
    """

    def __init__(self, model: nn.Module, memory: MemoryMode, dynamic_batch: bool):
        self._dynamic_batch = dynamic_batch
        # fullgraph: a part that cannot be compiled must not silently run in eager mode.
        self._run: Callable[[Tensor], Tensor] = torch.compile(model, fullgraph=True, backend=backend(memory))

    def __call__(self, images: Tensor) -> Tensor:
        """Logits ``(N, classes)`` of images ``(N, C, H, W)``."""
        if self._dynamic_batch:
            torch._dynamo.mark_dynamic(images, 0)
        return self._run(images)


def backend(memory: MemoryMode) -> str | Callable[..., Any]:
    """The compiler backend for a memory mode.

    Modes other than ``plain`` get a new function each time, since PyTorch would otherwise reuse what it compiled of an
    equal network in another mode.

    Raises:
        NasAggError: This version of torch has no activation budget.
    """
    if memory == "plain":
        return BACKEND
    try:
        from torch._functorch import config  # private, but the only place for this setting

        config.activation_memory_budget  # noqa: B018
    except (ImportError, AttributeError):
        raise NasAggError(f"torch {torch.__version__} cannot compile in memory mode '{memory}'") from None
    compiler = torch._dynamo.lookup_backend(BACKEND) if isinstance(BACKEND, str) else BACKEND

    def compile_within_budget(graph: Any, inputs: Any) -> Any:
        with config.patch(activation_memory_budget=ACTIVATION_BUDGETS[memory]):
            return compiler(graph, inputs)

    return compile_within_budget
