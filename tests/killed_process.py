"""Trains a network by the command line with a checkpoint after each epoch; the last process may kill itself.

python killed_process.py STEP ARGUMENT...
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from nas_agg.cli.main import main
from nas_agg.training import loop
from nas_agg.training.steps.stepper import Stepper


def kill_at(last: int) -> None:
    """Let the last process be killed at a step."""
    steps, step = 0, Stepper.step

    def counted(self: Stepper, *arguments: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == last and self.processes.rank == self.processes.count - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, *arguments)

    Stepper.step = counted  # type: ignore[method-assign]


if __name__ == "__main__":
    loop.train.__kwdefaults__["checkpoint_seconds"] = 0.0
    kill_at(int(sys.argv[1]))
    sys.argv[1:] = sys.argv[2:]
    main()
