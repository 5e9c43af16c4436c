"""Functions of a caller in worker processes: what they receive, report and return, and which can be sent."""

from __future__ import annotations

import functools
import sys
from types import ModuleType

import pytest
from evaluated_points import VARIABLES, evaluate

from nas_agg.common.errors import InputError, NasAggError
from nas_agg.study.api import search
from nas_agg.study.definition.callbacks import Callback
from nas_agg.study.workers.functions import import_function, reference_to


class Epochs(Callback):
    """Keeps what is reported."""

    def __init__(self):
        self.seen = []

    def on_epoch(self, trial, epoch, metrics):
        self.seen.append((trial, epoch, metrics["value"]))


def test_trials_of_worker_processes(tmp_path):
    epochs, out = Epochs(), tmp_path / "run"
    start = [{"act": act, "x": [3]} for act in VARIABLES["act"]]
    result = search(
        VARIABLES, evaluate, "random", 2, out=out, start=start, retries=0, workers=2, callbacks=[epochs], timeout=300
    )
    failed, died, scored, pruned = result.trials[:4]
    assert scored.value == 3.02 and pruned.state == "pruned"
    assert failed.reason == "ValueError: as it was told" and died.reason == "worker killed by signal 9"
    assert [entry for entry in epochs.seen if entry[0] == 2] == [(2, 1, 0.25), (2, 2, 0.5)]
    assert "ValueError: as it was told" in (out / "log.txt").read_text()


@pytest.mark.parametrize(
    "function, message",
    [
        (lambda values, trial: 1.0, "cannot import a lambda; define it with def at the top level"),
        (functools.partial(evaluate), "cannot import functools.partial"),
        (Epochs().on_epoch, "has another Epochs.on_epoch than the one specified"),
    ],
)
def test_a_function_that_cannot_be_sent_is_refused(function, message, tmp_path):
    with pytest.raises(InputError, match=message) as error:
        search(VARIABLES, function, workers=2, out=tmp_path / "run")
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


def test_functions_of_scripts_and_notebooks(tmp_path, monkeypatch):
    main = ModuleType("__main__")
    main.evaluate = lambda values, trial: 1.0
    main.evaluate.__module__, main.evaluate.__qualname__ = "__main__", "evaluate"
    monkeypatch.setitem(sys.modules, "__main__", main)
    with pytest.raises(InputError, match="notebook or an interactive session; write it to a file"):
        reference_to(main.evaluate)
    script = tmp_path / "script.py"
    script.write_text("def evaluate(values, trial):\n    return 2.0\n")
    main.__file__ = str(script)
    assert import_function(reference_to(main.evaluate))({}, None) == 2.0
    script.write_text("import nas_agg\nnas_agg.search({'x': [1, 2]}, lambda values, trial: 1.0, budget=1)\n")
    with pytest.raises(NasAggError, match="begins a search when it is imported; put that below: if __name__"):
        import_function(reference_to(main.evaluate))
