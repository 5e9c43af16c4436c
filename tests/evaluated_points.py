"""A function of a caller that worker processes can import."""

from __future__ import annotations

import os
import signal

import optuna

VARIABLES = {"act": ["fail", "die", "score", "prune"], "x": [[1, 2], [3]]}


def evaluate(values, trial):
    """Do what a point says; its value tells what the function received."""
    trial.set_user_attr("process", os.getpid())
    assert (
        trial.params.keys() == VARIABLES.keys()
        and trial.suggest_categorical("x", ["[1,2]", "[3]"]) == trial.params["x"]
    )
    if values["act"] == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if values["act"] == "fail":
        raise ValueError("as it was told\nand more")
    for step in range(3):
        trial.report(step / 4, step)
    if values["act"] == "prune":
        raise optuna.TrialPruned
    return sum(values["x"]) + trial.number / 100
