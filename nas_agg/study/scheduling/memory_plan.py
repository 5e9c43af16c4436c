"""By what means the networks of a run are trained: what one training may take of the memory, and which way fits."""

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
from nas_agg.training.recipes import get_recipe

if TYPE_CHECKING:
    from nas_agg.expansion.costs import Cost
    from nas_agg.language.genotype import Genotype
    from nas_agg.study.definition.settings import Settings
    from nas_agg.study.definition.task import Task
    from nas_agg.study.records.run_folder import RunFolder


@dataclass(frozen=True)
class MemoryPlan:
    """How the trainings of a search are to be done; the same for equal networks, whenever it is asked.

    Attributes:
        settings: What was said.
        free: Bytes that were free on a device when the search began; None if nobody can tell.
        workers: How many share it.
        held: Bytes of the data set.
    """

    settings: Settings
    free: int | None
    workers: int
    held: int

    def for_trial(self, genotype: Genotype) -> MemoryMode:
        """The memory mode of a trial."""
        return self._choice(genotype, "search", self.workers).mode

    def for_final_training(self, genotype: Genotype) -> MemoryChoice:
        """The memory that the final network is trained with, alone on its device."""
        return self._choice(genotype, "final", 1)

    def _choice(self, genotype: Genotype, recipe: str, workers: int) -> MemoryChoice:
        batch = get_recipe(self.settings.recipe or recipe).batch_size
        return choose_memory_mode(
            costs.cost(genotype), batch, memory_budget(self.free, workers, self.held), self.settings.memory
        )


def make_memory_plan(folder: RunFolder, settings: Settings, task: Task) -> MemoryPlan:
    """The means of a search; what is free is measured when it begins, and kept, so that a resumed one does the same.

    It is measured anew on other devices, and after a failure.
    """
    kept = folder.run.get("memory", {})
    free, wanted = kept.get("free"), settings.memory == "auto"
    known = isinstance(free, int) or not wanted
    if not known or kept.get("device") != task.device_name or folder.run["status"] == "failed":
        free = free_bytes_in_subprocess(task.devices) if wanted else None
        folder.update(memory={"device": task.device_name, "free": free})
    return MemoryPlan(settings, free if wanted else None, max(Counter(task.devices).values()), task.held)


def standalone_memory_choice(
    folder: RunFolder, asked: RequestedMemoryMode, cost: Cost, batch: int, device: str, held: int
) -> MemoryChoice:
    """The memory of a single training: that of the run if it goes on and nothing else is asked for.

    Args:
        folder: Where it is kept.
        asked: ``auto`` or a memory.
        cost: The network's.
        batch: Images a step.
        device: Where it is done.
        held: Bytes of the data set.
    """
    kept: dict[str, Any] = folder.run.get("memory", {})
    if kept.get("asked") == asked and kept.get("chosen") in MEMORY_MODES and folder.run["status"] != "failed":
        return MemoryChoice(kept["chosen"], str(kept.get("line") or ""))
    free = free_bytes(device) if asked == "auto" else None
    choice = choose_memory_mode(cost, batch, memory_budget(free, 0, held), asked)
    folder.update(memory={"asked": asked, "chosen": choice.mode, "line": choice.message})
    return choice
