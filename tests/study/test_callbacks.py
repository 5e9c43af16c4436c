"""Callbacks receive every epoch, every trial and the end; one that fails does not end the search."""

from __future__ import annotations

import pytest

import nas_agg
from nas_agg.common.errors import InputError
from nas_agg.study import resume, search


class Recorder(nas_agg.Callback):
    """Keeps all calls."""

    def __init__(self):
        self.epochs: dict[int, dict[int, dict]] = {}
        self.trials: list = []
        self.starts: list = []
        self.ends: list = []

    def on_start(self, settings, folder):
        self.starts.append((settings["space"], folder))

    def on_epoch(self, trial, epoch, metrics):
        self.epochs.setdefault(trial, {})[epoch] = dict(metrics)

    def on_trial(self, trial):
        self.trials.append(trial)

    def on_end(self, result):
        self.ends.append(result)


def test_a_function_s_reports_and_trials(tiny, score, tmp_path):
    recorder = Recorder()
    result = search(tiny, score, "random", budget=25, out=tmp_path / "run", callbacks=[recorder])
    assert recorder.starts == [("tiny", tmp_path / "run")]
    assert recorder.ends == [result]
    assert {trial.number: trial for trial in recorder.trials} == dict(enumerate(result.trials))
    own = [trial for trial in result.trials if trial.duplicate_of is None]
    assert {trial.number for trial in own} == set(recorder.epochs)
    for trial in own:
        reports = recorder.epochs[trial.number]
        assert list(reports) == list(range(1, len(reports) + 1))
        assert reports[max(reports)]["value"] == pytest.approx(trial.value)


def test_epochs_of_trainings_have_all_metrics(tiny_file, tmp_path):
    recorder = Recorder()
    settings = {"searcher": "random", "budget": 2, "epochs": 2, "final_epochs": 1, "workers": 1}
    result = search(tiny_file, out=tmp_path / "run", callbacks=[recorder], **settings)
    complete = next(trial for trial in result.trials if trial.state == "complete")
    last = recorder.epochs[complete.number][2]
    assert last["value"] == last["validation_accuracy"] == complete.accuracy
    assert {"train_loss", "train_accuracy", "validation_loss", "lr"} <= set(last)
    assert recorder.ends[0].test == result.test

    later = Recorder()
    resume(tmp_path / "run", budget=3, callbacks=[later])
    assert len(later.epochs) == 1 and later.trials[-1].number not in recorder.epochs


def test_a_callback_that_fails_is_not_called_again(tiny, score, tmp_path, capsys):
    class Broken(Recorder):
        def on_trial(self, trial):
            super().on_trial(trial)
            raise OSError("disk\nfull")

    broken, recorder = Broken(), Recorder()
    search(tiny, score, "random", budget=5, out=tmp_path / "run", show=True, callbacks=[broken, recorder])
    assert len(broken.trials) == 1 and not broken.ends
    assert len(recorder.trials) >= 5 and recorder.ends
    assert "note: Broken.on_trial failed and is not called again: OSError: disk\\nfull\n" in capsys.readouterr().out


def test_only_callbacks_are_taken(tiny, score):
    with pytest.raises(
        InputError, match=r"callbacks: expected nas_agg\.Callback objects, not <built-in function print>"
    ):
        search(tiny, score, budget=1, callbacks=[print])
