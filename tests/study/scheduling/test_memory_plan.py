"""The memory mode of trainings: chosen once, recorded, and the same after a resume."""

from __future__ import annotations

import pytest
from corpus.small_networks import dense_network
from damage import edit_sealed

import nas_agg
import nas_agg.study.engine.active_search as active_search
import nas_agg.study.scheduling.memory_plan as memory_plan
from nas_agg.common.errors import InputError
from nas_agg.common.files import read_document
from nas_agg.compiler.network import memory_of
from nas_agg.study.api import search
from nas_agg.study.definition.settings import Settings
from nas_agg.study.definition.task import Task
from nas_agg.study.records.run_folder import RunFolder
from nas_agg.study.standalone_training import train_genotype
from nas_agg.training import loop, memory
from nas_agg.training import torch_compile as compiling
from nas_agg.training.memory import PROCESS_OVERHEAD, USABLE_SHARE, step_bytes

DENSE = dense_network(nodes=6, bottleneck=32)


def needed_bytes(genotype, mode):
    return step_bytes(nas_agg.cost(genotype), mode, 64)


def trained(out, **more):
    settings = {"dataset": "digits", "recipe": "search", "epochs": 1, "device": "cpu", "out": out}
    return train_genotype(nas_agg.load(DENSE), **{**settings, **more})


@pytest.fixture
def free(monkeypatch):
    """Sets the free bytes of the machine."""

    def arrange(count):
        monkeypatch.setattr(memory, "free_main_memory", lambda: count)
        monkeypatch.setattr(memory_plan, "free_bytes_in_subprocess", lambda devices: count)

    return arrange


def enough_bytes(mode, dataset_bytes=0):
    """The smallest number of free bytes for which a training in this process takes the mode."""
    return round((needed_bytes(DENSE, mode) + 2 * dataset_bytes) / USABLE_SHARE) + 10


def test_a_training_takes_the_mode_that_fits(tmp_path, free, capsys):
    dataset_bytes = 1797 * 64
    free(enough_bytes("plain", dataset_bytes))
    assert trained(tmp_path / "plain", show=True)["memory"] == "plain"
    assert "memory" not in capsys.readouterr().out
    free(enough_bytes("lean", dataset_bytes))
    assert trained(tmp_path / "lean", show=True)["memory"] == "lean"
    assert "using memory mode 'lean': a step in mode 'plain' needs about" in capsys.readouterr().out
    free(0)
    assert trained(tmp_path / "leanest", show=True)["memory"] == "leanest"
    assert "0 B are available; 'leanest' needs" in capsys.readouterr().out
    assert read_document(tmp_path / "lean/run.json")["memory"]["mode"] == "lean"
    assert trained(tmp_path / "asked", memory="lean")["memory"] == "lean"


def test_a_resumed_training_keeps_its_mode(tmp_path, free, monkeypatch):
    class Killed(Exception):
        pass

    train, modes = loop.train, []

    def killed(model, *args, **more):
        modes.append(memory_of(model))
        raise Killed

    monkeypatch.setattr(loop, "train", killed)
    free(enough_bytes("lean", 1797 * 64))
    for path, requested in [("a", "auto"), ("a", "auto"), ("a", "plain"), ("b", "leanest")]:
        with pytest.raises(Killed):
            trained(tmp_path / path, memory=requested)
        free(10**12)
    assert modes == ["lean", "lean", "plain", "leanest"], "free bytes are measured once; another requested mode counts"
    edit_sealed(tmp_path / "a/run.json", status="failed", memory={"requested": "auto", "mode": "lean"})
    monkeypatch.setattr(loop, "train", train)
    assert trained(tmp_path / "a")["memory"] == "plain", "after a failure free bytes are measured again"


def test_an_unknown_mode_is_rejected(tmp_path):
    with pytest.raises(
        InputError, match=r"memory: must be one of auto, plain, lean, leanest, not 'leen'; did you mean 'lean'\?"
    ):
        trained(tmp_path / "run", memory="leen")
    assert not (tmp_path / "run").exists()


def test_trials_of_a_search_keep_their_mode(tiny_file, tmp_path, free, kept, monkeypatch, capsys):
    class Killed(BaseException):
        pass

    settings = {"searcher": "random", "budget": 2, "epochs": 1, "final_epochs": 1, "workers": 1, "device": "cpu"}
    free(0)
    with monkeypatch.context() as patch:

        def killed(*args):
            raise Killed

        patch.setattr(active_search, "train_best", killed)
        with pytest.raises(Killed):
            search(tiny_file, out=tmp_path / "run", show=True, **settings)
    free(10**12)
    result = search(tiny_file, out=tmp_path / "run", show=True, **settings)
    counted = [trial for trial in result.trials if trial.consumes_budget]
    assert [trial.memory for trial in counted] == ["leanest"] * 2
    assert result.test["memory"] == "leanest", "free bytes are those at the beginning of the search"
    assert all(trial["attrs"]["nas_agg:memory"] == "leanest" for trial in kept(tmp_path / "run") if trial["values"])
    output = capsys.readouterr().out
    assert (
        output.count(", memory leanest, best") == 2
        and "using memory mode 'leanest': a step in mode 'plain' needs about" in output
    )


def test_workers_share_the_memory_of_a_device(tiny, tmp_path, free, monkeypatch):
    genotype = nas_agg.load(DENSE)
    task = Task("", {}, (1, 8, 8), 10, ("cpu", "cpu"), "a machine", dataset_bytes=1000)
    enough_for_one = round((needed_bytes(DENSE, "plain") + PROCESS_OVERHEAD + 3000) / USABLE_SHARE) + 10
    free(enough_for_one)
    folder = RunFolder(tmp_path / "run")
    folder.begin({})
    settings = Settings.parse(space="tiny")
    plan = memory_plan.make_memory_plan(folder, settings, task)
    assert plan.for_trial(genotype) == "leanest" and plan.for_final_training(genotype).mode == "plain"
    free(1)
    assert memory_plan.make_memory_plan(folder, settings, task) == plan, "free bytes are measured once"
    folder.update(status="failed")
    assert memory_plan.make_memory_plan(folder, settings, task).free_bytes == 1
    requested = memory_plan.make_memory_plan(folder, settings.model_copy(update={"memory": "lean"}), task)
    assert (requested.free_bytes, requested.for_trial(genotype)) == (None, "lean"), (
        "free bytes are measured for auto only"
    )
    folder.close()


def test_a_training_that_cannot_be_compiled_runs_without(tmp_path, monkeypatch, capsys):
    def fail(graph, inputs):
        raise RuntimeError("no such instruction")

    monkeypatch.setattr(compiling, "BACKEND", fail)
    metrics = trained(tmp_path / "run", compile=True, show=True)
    assert not metrics["compiled"] and "no such instruction" in metrics["uncompiled"]
    output = capsys.readouterr().out
    assert "1 epoch, compiled before the first, which may take minutes, recipe search" in output
    assert "torch.compile failed (" in output and output.count("trained without it") == 1
    monkeypatch.setattr(compiling, "BACKEND", "aot_eager")
    metrics = trained(tmp_path / "other", compile=True)
    assert metrics["compiled"] and "uncompiled" not in metrics


def test_without_a_compiler_no_run_begins(tiny_file, tmp_path, monkeypatch):
    monkeypatch.setattr(compiling, "missing_requirement", lambda kind: "a C++ compiler, and there is no g++")
    for begin in (
        lambda: trained(tmp_path / "run", compile=True),
        lambda: search(tiny_file, compile=True, device="cpu", out=tmp_path / "run"),
    ):
        with pytest.raises(InputError, match=r"compile: torch.compile needs a C\+\+ compiler, and there is no g"):
            begin()
        assert not (tmp_path / "run").exists()
