"""A trial whose training does not fit the memory: half the batch first, then it is infeasible."""

from __future__ import annotations

import pytest

import nas_agg.study.workers.jobs as training
from nas_agg.study.workers.jobs import HALVED, train_trial
from nas_agg.study.workers.messages import TrialJob, TrialOutcome
from nas_agg.training.data import load_data
from nas_agg.training.loop import TrainingFailed
from nas_agg.training.recipes import open_recipe


@pytest.fixture(scope="module")
def digits():
    return load_data("digits")


@pytest.fixture
def job(tiny, tmp_path):
    network = tiny.genotype({"width": 4, "deep": 0, "kernel": 1, "end": "relu"})
    return TrialJob(genotype=network.to_dict(), seed=1, recipe="search", epochs=2, out=str(tmp_path))


@pytest.fixture
def limited(monkeypatch):
    """Lets memory run out in the last epoch of trainings with batches larger than this; gives the sizes tried."""
    train, sizes = training.loop.train, []

    def arrange(largest, error):
        def limited_train(model, data, recipe, *, report, **more):
            sizes.append(recipe.batch_size)

            def reported(epoch, metrics):
                if recipe.batch_size > largest and epoch == more["epochs"]:
                    raise error
                return report(epoch, metrics)

            return train(model, data, recipe, report=reported, checkpoint_seconds=0, **more)

        monkeypatch.setattr(training.loop, "train", limited_train)
        return sizes

    return arrange


ERRORS = [
    TrainingFailed("out of memory: at batch size 96 (CUDA)"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    MemoryError(),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_half_the_batch_is_tried_from_the_start(job, digits, limited, error, tmp_path):
    whole = open_recipe("search").batch_size
    sizes, reports = limited(whole - 1, error), []
    result = train_trial(job, digits, lambda step, value: reports.append(step))
    assert sizes == [whole, whole // 2]
    assert result.batch_size == whole // 2 and 0 <= result.metrics["accuracy"] <= 1
    assert reports == [1, 1, 2], "it is another training, and reports anew"
    assert (tmp_path / HALVED).exists()


def test_a_trial_that_was_halved_goes_on_so(job, digits, limited, tmp_path):
    class Killed(BaseException):
        pass

    def dies(step, value):
        if (tmp_path / HALVED).exists():
            raise Killed

    whole = open_recipe("search").batch_size
    sizes = limited(whole - 1, MemoryError())
    with pytest.raises(Killed):
        train_trial(job, digits, dies)
    assert train_trial(job, digits, lambda step, value: False).batch_size == whole // 2
    assert sizes == [whole, whole // 2, whole // 2]


def test_what_fits_in_no_way_is_infeasible(job, digits, limited):
    sizes = limited(0, TrainingFailed("out of memory: at batch size 48 (CUDA)"))
    outcome = train_trial(job, digits, lambda *_: False)
    assert outcome == TrialOutcome(infeasible="out of memory: at batch size 48 (CUDA)")
    assert len(sizes) == 2


@pytest.mark.parametrize("error", [TrainingFailed("diverged: the loss was no number"), RuntimeError("a shape")])
def test_other_failures_stay_what_they_are(job, digits, limited, error, tmp_path):
    sizes = limited(0, error)
    with pytest.raises(type(error), match=str(error)):
        train_trial(job, digits, lambda *_: False)
    assert len(sizes) == 1 and not (tmp_path / HALVED).exists()
