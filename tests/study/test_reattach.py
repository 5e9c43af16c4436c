"""A search whose run folder is gone is resumed from its study; passwords are not kept."""

from __future__ import annotations

import json
import shutil
import stat

import pytest

from nas_agg.common.errors import InputError, NasAggError
from nas_agg.study.api import reattach, resume, search
from nas_agg.study.records.run_folder import read_run
from nas_agg.study.records.trials_table import read_trials_table

SETTINGS = {"searcher": "random", "budget": 6, "seed": 2}


@pytest.fixture
def url(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return f"sqlite:///{tmp_path}/studies.db"


def results(result):
    return [(trial.number, trial.state, trial.value, trial.hash) for trial in result.trials]


def test_the_folder_is_made_again_from_the_study(url, tmp_path):
    whole = search("agg-bench", storage=url, out=tmp_path / "run", **SETTINGS)
    study = read_run(tmp_path / "run")["study"]
    table = read_trials_table(tmp_path / "run")
    shutil.rmtree(tmp_path / "run")
    again = reattach(url, study, out=tmp_path / "other")
    assert results(again) == results(whole) and again.best == whole.best
    assert read_trials_table(tmp_path / "other") == table
    assert (tmp_path / "other/best/genotype.json").exists()
    assert (tmp_path / f"other/trials/{whole.trials[3].number}/genotype.json").exists()
    more = reattach(url, "run", out=tmp_path / "other", budget=9)  # the name without its suffix; the folder is there
    assert sum(trial.consumes_budget for trial in more.trials) == 9
    assert resume(tmp_path / "other").trials == more.trials


def test_an_interrupted_search_goes_on_without_its_folder(url, tmp_path, monkeypatch):
    from nas_agg.study.workers.table_lookup import TableLookupBackend

    whole = search("agg-bench", out=tmp_path / "whole", **SETTINGS)
    start = TableLookupBackend.submit

    def stop(self, assignment, *more):
        if assignment.number == 4:
            raise KeyboardInterrupt
        start(self, assignment, *more)

    with monkeypatch.context() as patch:
        patch.setattr(TableLookupBackend, "submit", stop)
        with pytest.raises(KeyboardInterrupt):
            search("agg-bench", storage=url, out=tmp_path / "run", **SETTINGS)
    shutil.rmtree(tmp_path / "run")
    assert results(reattach(url, "run")) == results(whole)
    assert (tmp_path / "runs/run/run.json").exists(), "by default the name that it had"


def test_the_same_command_does_not_begin_a_second_study(url, tmp_path):
    search("agg-bench", storage=url, out=tmp_path / "run", **SETTINGS)
    study = read_run(tmp_path / "run")["study"]
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(InputError) as error:
        search("agg-bench", storage=url, out=tmp_path / "run", **SETTINGS)
    assert f"--study {study} --out {tmp_path / 'run'}; or choose another --out" in str(error.value)
    assert not (tmp_path / "run").exists()
    search("agg-bench", storage=url, out=tmp_path / "second", **SETTINGS)
    search("agg-bench", storage=url, out=tmp_path / "run", **{**SETTINGS, "seed": 3})
    with pytest.raises(InputError, match="several studies; choose one with --study: run-"):
        reattach(url, "run", out=tmp_path / "third")


@pytest.mark.parametrize(
    ("name", "out", "said"),
    [
        ("rum", "new", "no study 'rum'"),
        ("run", "other", "holds the run of another study than run-"),
        ("mine", "new", "the study 'mine' was not begun by nas_agg search"),
    ],
)
def test_what_is_no_study_of_a_search_is_refused(url, tmp_path, name, out, said):
    import optuna

    search("agg-bench", storage=url, out=tmp_path / "run", **SETTINGS)
    search("agg-bench", out=tmp_path / "other", **SETTINGS)
    optuna.create_study(study_name="mine", storage=url)
    with pytest.raises(InputError, match=said):
        reattach(url, name, out=tmp_path / out)
    assert not (tmp_path / "new").exists()


def test_the_command_line_resumes_by_study(run, refused, url, tmp_path):
    words = ("search", "--space", "agg-bench", "--searcher", "random", "--budget", "4", "--storage", url)
    assert run(*words, "--out", "runs/one")[0] == 0
    shutil.rmtree(tmp_path / "runs")
    assert "it has the study one-" in refused(*words, "--out", "runs/one")
    status, out, _ = run("search", "--storage", url, "--study", "one", "--budget", "5")
    assert status == 0 and "5 networks evaluated" in out and (tmp_path / "runs/one/best").is_dir()
    assert "--study: specify the storage" in refused("search", "--study", "one")
    assert "--seed: cannot change when a run is resumed" in refused(
        "search", "--storage", url, "--study", "one", "--seed", "1"
    )


def test_a_password_is_used_and_not_kept(tmp_path, monkeypatch):
    from nas_agg.study.engine import components, run_start

    opened = []
    real = components.open_storage

    def open_storage(url, folder, must_exist=False):
        opened.append(url)
        return real(f"sqlite:///{tmp_path}/studies.db" if url else url, folder, must_exist)

    for module in (components, run_start):
        monkeypatch.setattr(module, "open_storage", open_storage)
    monkeypatch.setattr("nas_agg.study.records.saved_run.open_storage", open_storage)
    url = "postgresql://nas:hunter2@db/nas"
    search("agg-bench", storage=url, out=tmp_path / "run", **SETTINGS)
    assert set(opened) == {url}
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"hunter2" not in path.read_bytes(), path
    assert read_run(tmp_path / "run")["settings"]["storage"] == "postgresql://nas@db/nas"
    for name in ("run.json", "log.txt"):
        assert stat.S_IMODE((tmp_path / "run" / name).stat().st_mode) == 0o600
    assert len(resume(tmp_path / "run", storage=url, budget=7).trials) >= 7
    with pytest.raises(InputError, match=r"storage: the run's is postgresql://nas@db/nas; it cannot change"):
        resume(tmp_path / "run", storage="postgresql://nas@other/nas")
    assert search("agg-bench", storage=url, out=tmp_path / "run", **{**SETTINGS, "budget": 7}).path


@pytest.mark.parametrize("again", [False, True])
def test_a_run_folder_that_was_removed_does_not_come_to_life_again(tiny, score, tmp_path, again):
    def remove(genotype, trial):
        if trial.number == 2:
            shutil.rmtree(tmp_path / "run")
            if again:
                search(tiny, score, searcher="random", budget=1, seed=5, out=tmp_path / "run")
        return score(genotype, trial)

    with pytest.raises(NasAggError, match="replaced by another" if again else "was removed while this process"):
        search(tiny, remove, searcher="random", budget=4, out=tmp_path / "run")
    if again:
        assert read_run(tmp_path / "run")["seed"] == 5 and read_run(tmp_path / "run")["status"] == "finished"
        assert len(read_trials_table(tmp_path / "run")) == 1
    else:
        assert not (tmp_path / "run").exists()


def test_a_run_of_a_function_is_resumed_by_the_same_call(tiny, score, url, tmp_path):
    whole = search(tiny, score, storage=url, out=tmp_path / "run", **SETTINGS)
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(InputError, match=r"Python object; resume by calling nas_agg\.search"):
        reattach(url, "run", out=tmp_path / "run")
    assert results(search(tiny, score, storage=url, out=tmp_path / "run", **SETTINGS)) == results(whole)
    assert json.loads((tmp_path / "run/run.json").read_text())["status"] == "finished"
