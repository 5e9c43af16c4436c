"""Chooses the memory mode of each training."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nas_agg.expansion import costs
from nas_agg.graph.rematerialization import MEMORY_MODES, MemoryMode, RequestedMemoryMode
from nas_agg.training.memory import (
    MemoryChoice,
    choose_memory_mode,
    free_bytes,
    free_bytes_in_subprocess,
    memory_budget,
)

if TYPE_CHECKING:
    from nas_agg.expansion.costs import Cost
    from nas_agg.language.genotype import Genotype
    from nas_agg.study.definition.settings import Settings
    from nas_agg.study.definition.task import Task
    from nas_agg.study.records.run_folder import RunFolder
    from nas_agg.training.recipes import Recipe


@dataclass(frozen=True)
class MemoryPlan:
    """The memory modes of a search's trainings; equal networks always get the same one.

    Attributes:
        settings: The settings of the search.
        free_bytes: Free bytes of a device when the search began; None if unknown, or if no mode depends on them.
        workers: The largest number of trainings on one device, where several processes on a CPU count as several.
        sharing: The number of processes of one training that share a device.
        dataset_bytes: Bytes of the data set.
    """

    settings: Settings
    free_bytes: int | None
    workers: int
    dataset_bytes: int
    sharing: int = 1

    def for_trial(self, genotype: Genotype) -> MemoryMode:
        """The memory mode of a trial."""
        return self._choose(genotype, self.settings.trial_recipe, self.workers).mode

    def for_final_training(self, genotype: Genotype) -> MemoryChoice:
        """The memory mode of the final training, which has its device to itself."""
        return self._choose(genotype, self.settings.final_recipe, self.sharing)

    def _choose(self, genotype: Genotype, recipe: Recipe, workers: int) -> MemoryChoice:
        sizes = self.settings.tuned.get("batch_size", [recipe.batch_size])
        budget = memory_budget(self.free_bytes, workers, self.dataset_bytes)
        part = -(-max(sizes) // self.settings.processes_per_trial)
        return choose_memory_mode(costs.cost(genotype), part, budget, self.settings.memory)


def make_memory_plan(folder: RunFolder, settings: Settings, task: Task) -> MemoryPlan:
    """The memory plan of a search.

    Free bytes are measured when the search begins and stored with the run, so that a resumed search chooses the same
    modes. They are measured again on other hardware, and after a failure.
    """
    stored = folder.run.get("memory", {})
    free, is_needed = stored.get("free"), settings.memory == "auto"
    is_known = isinstance(free, int) or not is_needed
    if not is_known or stored.get("device") != task.device_name or folder.run["status"] == "failed":
        free = free_bytes_in_subprocess(task.devices) if is_needed else None
        folder.update(memory={"device": task.device_name, "free": free})
    sharing = task.processes if task.devices[0] == "cpu" else 1
    workers = sharing * max(Counter(task.devices).values())
    return MemoryPlan(settings, free if is_needed else None, workers, task.dataset_bytes, sharing)


def standalone_memory_choice(
    folder: RunFolder,
    requested: RequestedMemoryMode,
    cost: Cost,
    batch: int,
    device: str,
    dataset_bytes: int,
    sharing: int = 1,
) -> MemoryChoice:
    """The memory mode of a standalone training; a resumed one keeps its mode unless it failed or another is requested.

    Args:
        folder: The run folder, which stores the choice.
        requested: ``auto`` or a mode.
        cost: The network's.
        batch: Images per step and process.
        device: The device of the training.
        dataset_bytes: Bytes of the data set.
        sharing: Processes of the training that share the device.
    """
    stored: dict[str, Any] = folder.run.get("memory", {})
    is_same = stored.get("requested") == requested and stored.get("mode") in MEMORY_MODES
    if is_same and folder.run["status"] != "failed":
        return MemoryChoice(stored["mode"], str(stored.get("message") or ""))
    free = free_bytes(device) if requested == "auto" else None
    free = None if free is None else free // sharing
    choice = choose_memory_mode(cost, batch, memory_budget(free, 0, dataset_bytes), requested)
    folder.update(memory={"requested": requested, "mode": choice.mode, "message": choice.message})
    return choice
