"""Options of CUDA's libraries during a training, which a recipe sets."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from nas_agg.training.recipes import Recipe


@contextlib.contextmanager
def device_options(recipe: Recipe) -> Iterator[None]:
    """Context with a recipe's choice of TF32 and of cuDNN's algorithms; what was set before is restored."""
    cudnn: Any = torch.backends.cudnn
    matmul: Any = torch.backends.cuda.matmul
    with contextlib.ExitStack() as stack:
        if recipe.cudnn_benchmark:
            stack.callback(setattr, cudnn, "benchmark", cudnn.benchmark)
            cudnn.benchmark = True
        if recipe.tf32 is not None:
            for library in (cudnn, matmul):
                stack.callback(setattr, library, "allow_tf32", library.allow_tf32)
                library.allow_tf32 = recipe.tf32
        yield
