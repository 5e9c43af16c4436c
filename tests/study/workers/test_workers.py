"""Searches with worker processes, which score by arithmetic here."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import optuna
import pytest

import nas_agg.study.engine.active_search as active_search
import nas_agg.study.plan as plan
from nas_agg.common.errors import InputError, NasAggError
from nas_agg.study.api import resume, search
from nas_agg.study.definition.task import Task, WorkerConfig
from nas_agg.study.records.journal import CheckedJournal
from nas_agg.study.samplers.searcher import Searcher, find_searcher
from nas_agg.study.saved_evaluation import evaluate_run
from nas_agg.study.workers.messages import TrialJob

FAKE = Path(__file__).parents[1] / "fake_worker.py"


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """Lets searches have workers of the fake kind; what it is called with says how they misbehave."""

    def arrange(workers=1, device="cpu", **ways):
        task = Task("a fake", {"notes": str(tmp_path), **ways}, (1, 8, 8), 10, (device,) * workers, "no device")
        setup = plan.TrainingSetup(lambda settings, space: task, (sys.executable, str(FAKE)))
        monkeypatch.setattr(plan, "DEFAULT_SETUP", setup)

    return arrange


def trained(tmp_path) -> list[list[str]]:
    return [line.split() for line in (tmp_path / "trained.txt").read_text().splitlines()]


def test_two_workers_train_what_one_does_and_the_best_is_tested(tiny, fake, tmp_path):
    fake(workers=2, sleep=0.01)
    result = search(tiny, searcher="random", budget=20, seed=2, epochs=6, out=tmp_path / "run")
    counted = [trial for trial in result.trials if trial.consumes_budget]
    assert len(counted) == len({trial.hash for trial in counted}) == 20
    assert {trial.state for trial in counted} == {"complete", "pruned"}
    assert result.reason == "budget exhausted"
    assert result.value == max(trial.value for trial in counted if trial.state == "complete")
    assert result.test["trial"] == result.top[0].number
    assert len({pid for *_, pid in trained(tmp_path)}) == 2
    assert len({seed for _, seed, _ in trained(tmp_path)}) == 20
    run_json = json.loads((tmp_path / "run/run.json").read_text())
    assert run_json["status"] == "finished" and run_json["seed"] == 2
    assert (tmp_path / f"run/trials/{result.top[0].number}/genotype.json").exists()
    fake(workers=1)
    again = search(tiny, searcher="random", budget=20, seed=2, epochs=6, out=tmp_path / "one")
    seeds = {trial.number: trial.seed for trial in again.trials}
    assert all(seeds[trial.number] == trial.seed for trial in result.trials if trial.number in seeds)


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_worker_that_finds_nothing_while_others_train_asks_again(tiny, fake, tmp_path):
    class Insistent(Searcher):
        max_rejections = 10**6

        def sampler(self, number):
            width = 4 if number == 0 else 5 if number < 4 else 8  # 4 and 5 are one network
            return optuna.samplers.PartialFixedSampler(
                {"width": width, "deep": "0", "kernel": "3", "end": '"relu"'}, optuna.samplers.RandomSampler(0)
            )

    fake(workers=2, sleep=0.2)
    result = search(tiny, searcher=Insistent, budget=2, epochs=1, out=tmp_path / "run")
    assert [trial.state for trial in result.trials] == ["complete", "duplicate", "duplicate", "duplicate", "complete"]
    assert result.reason == "budget exhausted"


def test_a_failing_network_is_recorded_and_not_tried_again(tiny, fake, tmp_path):
    fake(workers=2, raises=[2, 3])
    result = search(tiny, searcher="random", budget=20, seed=0, epochs=2, out=tmp_path / "run")
    failed = [trial for trial in result.trials if trial.state == "failed"]
    assert failed and {trial.reason for trial in failed} <= {"ValueError: width 2 is odd", "ValueError: width 3 is odd"}
    assert len({trial.hash for trial in failed}) == len(failed)
    assert sum(trial.consumes_budget for trial in result.trials) == 20
    assert "ValueError: width" in (tmp_path / "run/trials.csv").read_text()
    assert "Traceback" in (tmp_path / "run/log.txt").read_text()


def test_a_killed_worker_is_replaced_and_its_trial_trained_again(tiny, fake, tmp_path):
    fake(dies=[2, 3, 4, 5, 6], times=2)
    result = search(tiny, searcher="random", budget=6, seed=0, epochs=3, out=tmp_path / "run")
    assert [trial.state for trial in result.trials if trial.state != "duplicate"].count("complete") == 6
    assert all(trial.value < 0.9 for trial in result.trials)
    per_trial = [number for number, *_ in trained(tmp_path)]
    assert max(map(per_trial.count, per_trial)) == 3
    seeds = {(number, seed) for number, seed, _ in trained(tmp_path)}
    assert len(seeds) == len(set(per_trial)), "a trial that is trained again keeps its seed"
    assert "worker killed by signal 9; restarting" in (tmp_path / "run/log.txt").read_text()


def test_retries_end(tiny, fake, tmp_path):
    fake(dies=[2], times=99)
    result = search(tiny, searcher="random", budget=15, retries=2, seed=0, epochs=3, out=tmp_path / "run")
    failed = [trial for trial in result.trials if trial.state == "failed"]
    assert failed
    assert {trial.reason for trial in failed} == {"worker killed by signal 9 (attempt 3)"}


def test_a_trial_past_its_time_is_killed(tiny, fake, tmp_path):
    fake(workers=2, hangs=[2])
    begun = time.monotonic()
    settings = {"searcher": "random", "budget": 15, "epochs": 3, "trial_timeout": 0.4}
    result = search(tiny, seed=0, out=tmp_path / "run", **settings)
    failed = [trial for trial in result.trials if trial.state == "failed"]
    assert failed and {trial.reason for trial in failed} == {"exceeded 0.4 s"}
    assert all(0.4 <= trial.seconds < 5 for trial in failed)
    assert time.monotonic() - begun < 30


def test_the_time_of_a_search_is_kept_and_running_trials_are_stopped(tiny, fake, kept, tmp_path):
    fake(hangs=[6])
    result = search(tiny, searcher="random", timeout=3, epochs=2, out=tmp_path / "run")
    assert result.reason == "timeout reached"
    assert sum(trial.consumes_budget for trial in result.trials) == 2
    assert (result.trials[-1].state, result.trials[-1].reason) == ("interrupted", "timeout reached")
    assert result.test is not None, "the final training comes after the time"
    assert all(trial["state"] != "RUNNING" for trial in kept(tmp_path / "run")), "the record is closed"
    assert not list((tmp_path / "run").glob("trials/*/checkpoint.pt"))


class Stop(BaseException):
    """The end of the process, for a test."""


def stopping(*args):
    raise Stop


def test_trials_that_the_time_cut_off_go_on_if_there_is_more(tiny_file, fake, tmp_path, monkeypatch):
    fake(sleep=60)
    settings = {"searcher": "random", "budget": 3, "epochs": 2, "seed": 9}
    with pytest.raises(NasAggError, match="no network has a result: timeout reached"):
        search(tiny_file, timeout=0.5, out=tmp_path / "run", **settings)
    fake()
    result = resume(tmp_path / "run", timeout=600)
    assert [trial.state for trial in result.trials if trial.state != "duplicate"] == ["complete"] * 3
    whole = search(tiny_file, out=tmp_path / "whole", **settings)
    assert [vars(t) | {"seconds": 0} for t in result.trials] == [vars(t) | {"seconds": 0} for t in whole.trials]


def test_the_clock_stands_still_while_the_best_is_trained(tiny_file, fake, tmp_path, monkeypatch):
    fake(final_sleep=0.8)
    settings = {"searcher": "random", "budget": 2, "epochs": 1}
    begun = time.monotonic()
    search(tiny_file, out=tmp_path / "run", **settings)
    assert json.loads((tmp_path / "run/run.json").read_text())["seconds"] < time.monotonic() - begun - 0.7
    with monkeypatch.context() as patch:
        patch.setattr(active_search, "train_best", lambda *args: (time.sleep(3), stopping()))
        with pytest.raises(Stop):
            search(tiny_file, out=tmp_path / "broken", **settings)
    begun = time.monotonic()
    seconds = json.loads((tmp_path / "broken/run.json").read_text())["seconds"]
    assert seconds < 3
    assert resume(tmp_path / "broken", timeout=seconds + 2).reason == "budget exhausted"


def test_a_run_killed_at_its_very_end_is_closed_and_not_searched_again(tiny_file, fake, tmp_path, monkeypatch):
    fake(sleep=0.2)
    settings = {"searcher": "random", "budget": 50, "epochs": 1, "timeout": 3}
    with monkeypatch.context() as patch:
        patch.setattr(active_search.RunFolder, "finish", stopping)
        with pytest.raises(Stop):
            search(tiny_file, out=tmp_path / "run", **settings)
    best = (tmp_path / "run/best/metrics.json").read_text()
    before = len(trained(tmp_path))
    result = resume(tmp_path / "run")
    assert result.reason == "timeout reached"
    assert len(trained(tmp_path)) == before
    assert json.loads(best)["trial"] == result.top[0].number
    assert json.loads((tmp_path / "run/run.json").read_text())["status"] == "finished"


def test_a_gpu_that_failed_gets_another_process(tiny, fake, tmp_path):
    settings = {"searcher": "random", "budget": 8, "seed": 0, "epochs": 2}
    for device, same in (("cpu", True), ("cuda:0", False)):
        (tmp_path / "trained.txt").unlink(missing_ok=True)
        fake(raises=[2, 3], device=device)
        result = search(tiny, out=tmp_path / device, **settings)
        failed = [trial.number for trial in result.trials if trial.state == "failed"]
        pids = {int(number): pid for number, _, pid in trained(tmp_path)}
        after = [min(number for number in pids if number > gone) for gone in failed if gone < max(pids)]
        assert after and all((pids[gone] == pids[then]) is same for gone, then in zip(failed, after, strict=False))
        assert all(trial.reason.startswith("ValueError") for trial in result.trials if trial.state == "failed")
        per_trial = [number for number, *_ in trained(tmp_path)]
        assert len(per_trial) == len(set(per_trial)), "no trial is lost with the process"


def test_the_first_error_of_a_gpu_is_the_one_reported(monkeypatch):
    import torch

    import nas_agg.study.workers.jobs as training
    from nas_agg.study.workers.process import prepare

    def fault(what):
        def raises(*args):
            raise RuntimeError(what)

        return raises

    monkeypatch.setattr(training, "train_trial", fault("the first"))
    monkeypatch.setattr(torch.cuda, "empty_cache", fault("the second"))
    threads = torch.get_num_threads()
    work = prepare(WorkerConfig(data={"spec": "digits"}))
    torch.set_num_threads(threads)
    job = TrialJob(genotype={}, seed=0, recipe="search", epochs=1, out="", device="cuda:0")
    with pytest.raises(RuntimeError, match="the first"):
        work(job, lambda step, value: False)


def test_the_seconds_of_a_trial_are_its_trainings(tiny, fake, tmp_path):
    fake(seconds=12.5)
    result = search(tiny, searcher="random", budget=2, epochs=1, out=tmp_path / "run")
    assert {trial.seconds for trial in result.trials if trial.state == "complete"} == {12.5}


def test_how_to_go_on_is_true_of_what_was_called(tiny, tiny_file, fake, score, tmp_path, monkeypatch):
    fake()
    monkeypatch.setattr(active_search, "train_best", stopping)
    again = r"by calling nas_agg.search again with out='.*run'"
    for number, (space, searcher) in enumerate(((tiny, "random"), (tiny_file, find_searcher("random")))):
        out = tmp_path / f"{number}-run"
        with pytest.raises(Stop):
            search(space, searcher=searcher, budget=1, epochs=1, out=out)
        with pytest.raises(InputError, match=again):
            resume(out)
        with pytest.raises(InputError, match=again.replace("resume", "finish it")):
            evaluate_run(out)
    with pytest.raises(Stop):
        search(tiny_file, searcher="random", budget=1, epochs=1, out=tmp_path / "named")
    with pytest.raises(InputError, match=r"finish it with: nas_agg search --resume .*named"):
        evaluate_run(tmp_path / "named")


def test_a_run_goes_on_from_another_folder(tiny_file, fake, tmp_path, monkeypatch):
    fake()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    settings = {"searcher": "random", "budget": 1, "epochs": 1, "dataset": "folder:pictures"}
    with monkeypatch.context() as patch:
        patch.setattr(active_search, "train_best", stopping)
        with pytest.raises(Stop):
            search(f"./{tiny_file.name}", out="run", **settings)
    monkeypatch.chdir("/")
    assert resume(tmp_path / "run", retries=1).reason == "budget exhausted"
    monkeypatch.chdir(tmp_path / "pictures")
    elsewhere = {**settings, "dataset": "folder:../pictures"}
    search(f"../{tiny_file.name}", out="../run", **elsewhere)  # the same, however it is written


def test_ten_failures_in_a_row_end_a_search_which_can_be_tried_again(tiny, fake, tmp_path):
    fake(raises=list(range(99)))
    with pytest.raises(NasAggError, match="10 trials in a row failed: ValueError: width") as error:
        search(tiny, searcher="random", epochs=2, budget=12, out=tmp_path / "run")
    assert error.value.status == 1
    assert json.loads((tmp_path / "run/run.json").read_text())["status"] == "failed"
    fake()
    result = search(tiny, searcher="random", epochs=2, budget=12, out=tmp_path / "run")
    assert sum(trial.consumes_budget for trial in result.trials) == 12


def test_workers_that_cannot_start_end_the_search_with_a_line(tiny, fake, tmp_path, monkeypatch):
    fake()
    dying = replace(plan.DEFAULT_SETUP, worker_command=(sys.executable, "-c", "raise SystemExit('no torch here')"))
    monkeypatch.setattr(plan, "DEFAULT_SETUP", dying)
    with pytest.raises(NasAggError, match=r"workers cannot start .*exited with status 1.*log\.txt"):
        search(tiny, searcher="random", epochs=2, out=tmp_path / "run")
    assert "no torch here" in (tmp_path / "run/log.txt").read_text()


@pytest.mark.parametrize("searcher", ["random", "tpe"])
def test_one_worker_killed_coordinator_same_trials(tiny_file, fake, kept, searcher, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    append = CheckedJournal.append_logs
    settings = {"searcher": searcher, "budget": 20, "seed": 4, "epochs": 6, "workers": 1}
    fake()
    search(tiny_file, out=tmp_path / "whole", **settings)
    draw, kills, ended = random.Random(2), 0, False
    while not ended:
        left = draw.randint(5, 40)

        def dying(self, logs):
            nonlocal left
            left -= 1
            if not left:
                raise Killed
            append(self, logs)

        with monkeypatch.context() as patch:
            patch.setattr(CheckedJournal, "append_logs", dying)
            try:
                search(tiny_file, out=tmp_path / "broken", **settings)
                ended = True
            except Killed:
                kills += 1
    assert kills >= 3
    assert kept(tmp_path / "broken") == kept(tmp_path / "whole")


def test_resume_takes_the_settings_of_the_run(tiny_file, fake, tmp_path, monkeypatch):
    fake()
    with monkeypatch.context() as patch:
        patch.setattr(active_search, "train_best", stopping)
        with pytest.raises(Stop):
            search(tiny_file, searcher="random", epochs=2, budget=3, seed=9, out=tmp_path / "run")
    with pytest.raises(InputError, match="seed: cannot be changed when a search is resumed"):
        resume(tmp_path / "run", seed=1)
    result = resume(tmp_path / "run", workers=1)
    assert result.test["test_accuracy"] == 0.5
    assert len(trained(tmp_path)) == 3, "nothing is trained twice"
    with pytest.raises(InputError, match=r"not a run folder .* did you mean 'run'"):
        resume(tmp_path / "rnu")


def test_workers_end_with_their_coordinator(tmp_path):
    script = f"""
import sys
from nas_agg.study.definition.task import WorkerConfig
from nas_agg.study.workers.backend import Assignment
from nas_agg.study.workers.messages import TrialJob
from nas_agg.study.workers.pool import WorkerPool
from pathlib import Path
config = WorkerConfig(data={{"hangs": [1], "notes": {str(tmp_path)!r}}})
pool = WorkerPool([config], Path({str(tmp_path)!r}) / "log.txt", command=(sys.executable, {str(FAKE)!r}))
genotype = {{"let": {{"width": 2, "deep": 0}}}}
job = TrialJob(genotype=genotype, out="0", seed=0, recipe="search", epochs=1)
pool.submit(Assignment(0, job=job), 1)
pool.poll(5)
print(pool._workers[0].process.pid, flush=True)
input()
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    worker = int(process.stdout.readline())
    assert Path(f"/proc/{worker}").exists()
    process.send_signal(signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 5
    while _alive(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _alive(worker)


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
