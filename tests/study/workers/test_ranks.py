"""Trials that several processes train together: as if by one, wherever they run, and lost with any of them."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from parts_of_batches import SEARCH, few, genotype

from nas_agg.common.errors import InputError, ProcessLost
from nas_agg.study.api import search
from nas_agg.study.definition.settings import Settings
from nas_agg.study.definition.task import Task, WorkerConfig, devices_of
from nas_agg.study.workers import pool, ranks
from nas_agg.study.workers.backend import Resources
from nas_agg.study.workers.jobs import train_trial
from nas_agg.study.workers.messages import EventKind, Progress, TrialJob, WorkerMessage
from nas_agg.study.workers.ranks import train_by_processes
from nas_agg.training.outcome import TrainingFailed

RECIPE = SEARCH.model_copy(update={"lr": 0.01})


def job_of(out: Path, processes: int, **fields) -> TrialJob:
    """A trial of 3 epochs."""
    fields = {"genotype": genotype().to_dict(), "seed": 1, "recipe": RECIPE, "epochs": 3, "out": str(out)} | fields
    return TrialJob(**fields, processes=processes, sync_batch_norm=True)


def kill_rank(number: int) -> None:
    """Kill one of the processes that this one has started for a job."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes().split(b"\0")
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        is_rank = words[3:4] == [b"nas_agg.study.workers.rank_process"] and words[5] == str(number).encode()
        if parent == os.getpid() and is_rank:
            os.kill(int(path.name), signal.SIGKILL)


def test_two_processes_train_a_trial_as_one_does_and_are_lost_together(tmp_path):
    reports: dict[int, list[float]] = {1: [], 2: []}
    outcomes = {}
    for count, train in ((1, train_trial), (2, train_by_processes)):
        job = job_of(tmp_path / str(count), count, pause_at=2, metrics=("loss",))
        outcomes[count] = train(job, few(), lambda epoch, value, to=reports[count]: to.append(value) or False)
    assert outcomes[1].paused_at == outcomes[2].paused_at == 2
    assert outcomes[2].metrics == pytest.approx(outcomes[1].metrics, rel=1e-5)
    assert reports[2] == pytest.approx(reports[1]) and len(reports[1]) == 2
    assert (tmp_path / "2/checkpoint.pt").exists()

    begun = time.monotonic()
    with pytest.raises(ProcessLost, match="process 2 of the training was killed by signal 9"):
        train_by_processes(job_of(tmp_path / "2", 2), few(), lambda epoch, value: kill_rank(1) or False)
    assert time.monotonic() - begun < 60
    # Either number of processes continues from the checkpoint of the other.
    (tmp_path / "2/checkpoint.pt").replace(tmp_path / "1/checkpoint.pt")
    resumed = train_trial(job_of(tmp_path / "1", 1), few(), lambda epoch, value: False)
    alone = train_trial(job_of(tmp_path / "alone", 1), few(), lambda epoch, value: False)
    assert resumed.metrics["value"] == pytest.approx(alone.metrics["value"])


@pytest.mark.slow
def test_a_search_with_two_processes_per_trial_gives_the_trials_of_one(tiny, tmp_path, monkeypatch):
    settings = {"searcher": "random", "budget": 3, "epochs": 2, "device": "cpu", "workers": 1, "sync_bn": True}
    settings |= {"recipe": "search", "lr": 0.01, "final": 2, "final_epochs": 2, "pruner": "halving"}
    one, two = (search(tiny, out=tmp_path / str(count), gpus_per_trial=count, **settings) for count in (1, 2))
    for mine, other in zip(two.trials, one.trials, strict=True):
        assert (mine.labels, mine.state, mine.seed, mine.rungs) == (other.labels, other.state, other.seed, other.rungs)
        assert mine.loss == pytest.approx(other.loss, rel=1e-4)
    assert two.test["test_loss"] == pytest.approx(one.test["test_loss"], rel=1e-3)
    assert two.test["candidates"] and two.test["trial"] == one.test["trial"]


@pytest.mark.slow
def test_an_error_of_any_process_is_the_one_reported(tmp_path):
    wrong = job_of(tmp_path / "few", 2, recipe=RECIPE.model_copy(update={"batch_size": 3}))
    with pytest.raises(TrainingFailed, match="too few for 2 processes; each needs two"):
        train_by_processes(wrong, few(), lambda epoch, value: False)
    with pytest.raises(TrainingFailed, match="unknown data set 'nowhere'"):
        config = WorkerConfig(data={"spec": "nowhere"}, processes=2)
        train_by_processes(job_of(tmp_path / "few", 2), config, lambda epoch, value: False)


def test_the_end_of_a_lost_job_is_that_of_a_worker_that_died(tmp_path):
    assert WorkerMessage(kind=Progress.LOST, reason="process 2").event_kind == EventKind.WORKER_DIED
    assert pool.WORKER_COMMAND[:2] == ranks.RANK_COMMAND[:2]


# ---------------------------------------------------------------------- devices


@pytest.fixture
def gpus(monkeypatch):
    """A machine that seems to have five GPUs."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 5)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


@pytest.mark.parametrize(
    ("device", "workers", "gpus_per_trial", "devices"),
    [
        ("auto", None, 2, ("cuda:0", "cuda:2")),
        ("cuda", 3, 2, ("cuda:0", "cuda:2", "cuda:0")),
        ("cuda", None, 0.5, tuple(f"cuda:{i % 5}" for i in range(10))),
        ("cuda:3", None, 0.25, ("cuda:3",) * 4),
        ("auto", None, 1, tuple(f"cuda:{i}" for i in range(5))),
        ("cpu", 2, 3, ("cpu", "cpu")),
    ],
)
def test_a_trial_of_several_gpus_has_neighbours(gpus, device, workers, gpus_per_trial, devices):
    assert devices_of(device, workers, gpus_per_trial) == devices


def test_each_process_has_its_gpu(monkeypatch, tmp_path):
    sent = []
    monkeypatch.setattr(ranks, "_spawn", lambda *args: ranks._Rank(args[0], SimpleNamespace(), SimpleNamespace()))
    monkeypatch.setattr(ranks, "send", lambda connection, message: sent.append(message))
    torch.set_num_threads(4)
    ranks._Ranks.start(job_of(tmp_path, 2, device="cuda:4"), WorkerConfig(data={"spec": "digits"}), str(tmp_path))
    assert [one.device for one in sent[::2]] == [one.job.device for one in sent[1::2]] == ["cuda:4", "cuda:5"]
    assert {one.threads for one in sent[::2]} == {2} and sent[0].data == {"spec": "digits"}
    assert sent[0].processes == 1, "it loads the data set itself"
    task = Task("", {}, (1, 8, 8), 10, ("cuda:0", "cuda:2"), "", processes=2)
    assert [(one.device, one.processes, one.threads) for one in task.worker_configs()] == [
        ("cuda:0", 2, 2), ("cuda:2", 2, 2)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("device", "gpus_per_trial", "message"),
    [
        ("cuda", 6, "a trial needs 6 GPUs; device 'cuda' has 5 here; with cpu, 6 processes share the CPU"),
        ("cuda:1", 2, "a trial needs 2 GPUs; device 'cuda:1' has 1 here"),
    ],
)
def test_too_few_gpus_are_refused(gpus, device, gpus_per_trial, message):
    with pytest.raises(InputError, match=message):
        devices_of(device, None, gpus_per_trial)


def test_a_trial_on_a_cpu_needs_a_core_per_process_and_no_gpu(tmp_path):
    settings = Settings.parse(space="microdense", gpus_per_trial=4)
    assert Resources.of(settings) == Resources(4.0, 4.0)
    assert Resources.of(settings.model_copy(update={"device": "cpu"})) == Resources(4.0, 0.0)
    assert Resources.of(Settings.parse(space="microdense", gpus_per_trial=0.25)) == Resources(1.0, 0.25)
    with pytest.raises(InputError, match=r"gpus_per_trial: must be a whole number if more than 1, not 1\.5"):
        Settings.parse(space="microdense", gpus_per_trial=1.5)
    with pytest.raises(InputError, match="backend storage trains on one GPU per trial"):
        search("microdense", device="cpu", gpus_per_trial=2, workers=0, out=tmp_path / "run")
