"""The backends by name.

A backend of another package is found through the entry point group ``nas_agg.backends``.
"""

from __future__ import annotations

import importlib
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from nas_agg.common.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from nas_agg.study.workers.backend import Backend

GROUP = "nas_agg.backends"

#: The class of each backend; its module is imported only when a search asks for it.
BACKENDS = {
    "local": "nas_agg.study.workers.local:LocalBackend",
    "ray": "nas_agg.study.clusters.ray_backend:RayBackend",
    "slurm": "nas_agg.study.clusters.slurm_backend:SlurmBackend",
    "storage": "nas_agg.study.remote.storage_backend:StorageBackend",
}
#: What the backends import that need an extra, which has their name.
EXTRAS = {"ray": "ray", "slurm": "submitit"}


def find_backend(name: str) -> type[Backend]:
    """The class of a backend.

    Raises:
        InputError: There is none of that name, or what it needs is not installed.
    """
    paths = {entry.name: entry.value for entry in entry_points(group=GROUP)} | BACKENDS
    if name not in paths:
        raise InputError(f"backend: unknown backend '{name}'{did_you_mean(name, paths)}; one of {', '.join(paths)}")
    module, _, attribute = paths[name].partition(":")
    try:
        backend: type[Backend] = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != EXTRAS.get(name):
            raise
        raise InputError(f"backend {name}: {error.name} is not installed: pip install 'nas-agg[{name}]'") from None
    return backend
