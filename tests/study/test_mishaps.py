"""What others may do wrong to a search is one line: functions, searchers, calls, folders and files."""

from __future__ import annotations

import contextlib
import csv
import json
import math
import shutil
import sqlite3

import optuna
import pytest
from damage import edit_sealed, list_again

from nas_agg.common.errors import InputError, NasAggError, redact
from nas_agg.common.manifest import write_manifest
from nas_agg.common.sealed_json import sealed
from nas_agg.study.api import resume, search
from nas_agg.study.records.journal import JOURNAL
from nas_agg.study.records.run_folder import RUN_FORMAT, RunFolder, read_run
from nas_agg.study.samplers.searcher import Searcher
from nas_agg.study.saved_evaluation import evaluate_run


class Mute(Exception):
    def __str__(self):
        raise RuntimeError("no")


def said(kind, call, *arguments, **settings):
    """The one line of an error."""
    with pytest.raises(kind) as error:
        call(*arguments, **settings)
    assert "\n" not in str(error.value)
    return str(error.value)


def kept_run(tiny, score, path):
    search(tiny, score, searcher="random", budget=3, out=path)
    return path, {"searcher": "random", "budget": 3, "out": path}


def unfinished(path, **changes):
    edit_sealed(path / "run.json", **{"status": "stopped", **changes})


# ---- what evaluate gives


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (math.inf, "diverged: the value is infinite"),
        (-math.inf, "diverged: the value is infinite"),
        (math.nan, "diverged: the value is NaN"),
        (None, "evaluate returned a value of type NoneType, not a number"),
        ("0.5", "evaluate returned a value of type str, not a number"),
        ([1.0], "evaluate returned a value of type list, not a number"),
        (10**400, "evaluate returned a value of type int, not a number"),
    ],
)
def test_a_value_that_is_no_finite_number_is_a_failed_trial(tiny, value, reason):
    values = iter([value, 0.5])
    result = search(tiny, lambda genotype, trial: next(values), searcher="random", budget=1)
    assert [(trial.state, trial.reason) for trial in result.trials if trial.state != "duplicate"] == [
        ("failed", reason),
        ("complete", ""),
    ]
    assert result.value == 0.5


@pytest.mark.parametrize("report", [math.inf, -math.inf, math.nan])
def test_a_trial_stopped_at_no_finite_report_is_failed(tiny, report):
    values = iter([report, 0.5])

    def evaluate(genotype, trial):
        trial.report(next(values), 1)
        raise optuna.TrialPruned

    result = search(tiny, evaluate, searcher="random", budget=1)
    assert result.trials[0].reason == "diverged: the last report is not finite"
    assert (result.trials[0].state, result.value) == ("failed", 0.5)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Mute(), "Mute"),
        (ValueError("a\x1b[2J\udcff"), "ValueError: a\\x1b[2J\\udcff"),
        (ValueError("a\nb"), "ValueError: a"),
    ],
)
def test_what_evaluate_raises_is_told_in_one_line(tiny, tmp_path, error, reason):
    outcomes = [error, None]

    def evaluate(genotype, trial):
        raised = outcomes.pop(0)
        if raised:
            raise raised
        return 1.0

    result = search(tiny, evaluate, searcher="random", budget=1, out=tmp_path / "run")
    assert result.trials[0].reason == reason
    with (tmp_path / "run/trials.csv").open(newline="") as file:
        assert next(csv.DictReader(file))["reason"] == reason


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_leaving_from_within_evaluate_leaves_a_stopped_run(tiny, score, tmp_path, error):
    def leave(genotype, trial):
        raise error

    with pytest.raises(error):
        search(tiny, leave, searcher="random", budget=2, out=tmp_path / "run")
    assert read_run(tmp_path / "run")["status"] == "stopped"
    assert search(tiny, score, searcher="random", budget=2, out=tmp_path / "run").reason == "budget exhausted"


# ---- searchers


class Raises(Searcher):
    def sampler(self, number):
        raise RuntimeError("no more\nideas")


class GivesNothing(Searcher):
    def sampler(self, number):
        return None


class Outside(Searcher):
    def sampler(self, number):
        class Sampler(optuna.samplers.RandomSampler):
            def sample_independent(self, study, trial, name, distribution):
                return 10**6

        return Sampler()


class Mistold(Searcher):
    def sampler(self, number):
        class Sampler(optuna.samplers.RandomSampler):
            def infer_relative_search_space(self, study, trial):
                raise KeyError("width")

        return Sampler()


class Unmade(Searcher):
    """Has no sampler."""


@pytest.mark.parametrize(
    ("searcher", "line"),
    [
        (Raises, "searcher Raises failed at trial 0: RuntimeError: no more"),
        (GivesNothing, "searcher GivesNothing failed at trial 0: TypeError: its sampler() returned a NoneType, not an"),
        (Outside, "searcher Outside failed at trial 0: ValueError: width cannot be 1000000"),
        (Mistold, "searcher Mistold failed at trial 0: KeyError: 'width'"),
    ],
)
def test_a_searcher_that_fails_is_one_line_and_a_failed_run(tiny, score, tmp_path, searcher, line):
    assert said(NasAggError, search, tiny, score, searcher=searcher, budget=2, out=tmp_path / "run").startswith(line)
    assert read_run(tmp_path / "run")["status"] == "failed"


def test_a_searcher_that_fails_after_a_trial_loses_no_result(tiny, kept, tmp_path):
    class Grid(Searcher):
        """Optuna's own: it stops its study when all is tried, which only a study that optimizes allows."""

        def sampler(self, number):
            labels = {name: [_labels(tiny)[name]] for name in tiny.distributions}
            return optuna.samplers.GridSampler(labels, seed=0)

    line = said(NasAggError, search, tiny, lambda *_: 0.25, searcher=Grid, budget=3, out=tmp_path / "run")
    assert line.startswith("searcher Grid failed at trial 0: RuntimeError: ")
    assert [(trial["state"], trial["values"]) for trial in kept(tmp_path / "run")] == [("COMPLETE", [0.25])]


def _labels(space):
    import numpy as np

    return space.labels(space.sample(np.random.default_rng(0)))


# ---- calls


@pytest.mark.parametrize("space", [5, None, {}, [], b"microdense"])
def test_a_space_of_a_wrong_type_is_refused(score, space):
    assert said(InputError, search, space, score).startswith("space: ")


@pytest.mark.parametrize("searcher", [5, None, int, object()])
def test_a_searcher_of_a_wrong_type_is_refused(tiny, score, searcher):
    assert said(InputError, search, tiny, score, searcher=searcher).startswith(
        "searcher: expected a name, a subclass of Searcher or"
    )


def test_other_wrong_types_are_refused(tiny, score, tmp_path):
    assert said(InputError, search, tiny, score, searcher=Unmade).startswith(
        "searcher Unmade cannot be created: TypeError"
    )
    assert said(InputError, search, tiny, 5) == "evaluate: expected a function, not 5"
    for out in (5, "", b"run", {}):
        assert said(InputError, search, tiny, score, out=out).startswith("out: specify a folder, not ")
    assert "cannot be used as a run folder" in said(InputError, search, tiny, score, out=f"{tmp_path}/a\0b")


@pytest.mark.parametrize("settings", [{"dataset": "nosuch"}, {"device": "cuda:99"}, {"storage": "nosuch://x"}])
def test_a_refused_call_leaves_no_folder(tiny, tmp_path, settings):
    said(InputError, search, tiny, budget=1, out=tmp_path / "runs" / "one", **settings)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine").mkdir()
    said(InputError, search, tiny, budget=1, out=tmp_path / "mine", **settings)
    assert list((tmp_path / "mine").iterdir()) == []


# ---- folders that are not as they were


@pytest.mark.parametrize("damage", ["missing", "empty", "another study"])
@pytest.mark.parametrize("status", ["stopped", "finished"])
def test_a_lost_journal_is_not_begun_again(tiny, score, tmp_path, damage, status):
    path, settings = kept_run(tiny, score, tmp_path / "run")
    unfinished(path, status=status)
    journal, trials = path / JOURNAL, (path / "trials.csv").read_text()
    if damage == "missing":
        journal.unlink()
    else:
        journal.write_text(
            "" if damage == "empty" else journal.read_text().replace('"study_name":"', '"study_name":"x')
        )
    line = said(InputError, search, tiny, score, **settings)
    if damage == "another study":
        assert line.startswith(f"{journal}: line 1 is damaged, or a line before it is missing; restore the file")
    else:
        assert line == f"{journal}: the study is missing; restore it, or choose another --out"
    assert (path / "trials.csv").read_text() == trials


def test_a_storage_that_lost_trials_is_not_gone_on_with(tiny, score, tmp_path):
    path, settings = kept_run(tiny, score, tmp_path / "run")
    journal, trials = path / JOURNAL, (path / "trials.csv").read_text()
    lines = journal.read_text().splitlines(keepends=True)
    begins = [place for place, line in enumerate(lines) if '"op_code":4' in line]  # a trial is created
    assert len(begins) == len(trials.splitlines()) - 1
    journal.write_text("".join(lines[: begins[1]]))
    line = said(InputError, search, tiny, score, **{**settings, "budget": 5})
    assert line.startswith(f"{journal}: damaged: it does not match its SHA-256 in manifest.json; restore it")
    unfinished(path)
    line = said(InputError, search, tiny, score, **{**settings, "budget": 5})
    assert line.startswith(f"{journal}: 1 trials, but trials.csv has trial 1; restore the storage, or choose another")
    assert (path / "trials.csv").read_text() == trials
    assert not (path / "best-of-3").exists()


def test_a_database_that_lost_trials_is_not_gone_on_with(tiny, score, tmp_path):
    url = f"sqlite:///{tmp_path}/study.db"
    settings = {"searcher": "random", "budget": 3, "out": tmp_path / "run", "storage": url}
    search(tiny, score, **settings)
    with contextlib.closing(sqlite3.connect(tmp_path / "study.db")) as database:
        database.execute("DELETE FROM trials WHERE number = 1")
        database.commit()
    line = said(InputError, search, tiny, score, **{**settings, "budget": 5})
    assert line == f"{url}: trial 1 is missing; restore it, or choose another --out"
    with contextlib.closing(sqlite3.connect(tmp_path / "study.db")) as database:
        database.execute("UPDATE trial_user_attributes SET value_json = '['")
        database.commit()
    assert said(InputError, search, tiny, score, **{**settings, "budget": 5}).startswith(f"{url} cannot be read: JSON")
    (tmp_path / "study.db").unlink()
    assert said(InputError, search, tiny, score, **{**settings, "budget": 5}) == f"{url}: no such file"
    assert not (tmp_path / "study.db").exists()


@pytest.mark.parametrize(
    ("url", "line"),
    [
        ("sqlite://", "a database in memory is lost when the process ends; name a file: sqlite:///study.db"),
        ("sqlite:///", "a database in memory is lost when the process ends; name a file: sqlite:///study.db"),
        ("sqlite:///:memory:", "a database in memory is lost when the process ends; name a file: sqlite:///study.db"),
        ("mysql+pymysql://nas:$NOBODY_SET_THIS@db/nas", "the environment variable NOBODY_SET_THIS is not set"),
        ("mysql+pymysql://nas:${NOBODY_SET_THIS}@db/nas", "the environment variable NOBODY_SET_THIS is not set"),
        ("./x.journal", "not a URL; use for example sqlite:///FILE, postgresql+psycopg://... or grpc://HOST:PORT"),
    ],
)
def test_what_is_no_storage_of_a_search(tiny, score, tmp_path, url, line):
    settings = {"searcher": "random", "budget": 3, "out": tmp_path / "run", "storage": url}
    assert said(InputError, search, tiny, score, **settings) == f"{redact(url)}: {line}"
    assert not (tmp_path / "run").exists()


def test_a_best_that_is_not_whole_says_what_to_do(tiny, score, tmp_path):
    path, settings = kept_run(tiny, score, tmp_path / "run")
    best = path / "best"
    for text in ("[]", "5", "{"):
        (best / "metrics.json").write_text(text)
        assert "metrics.json: damaged: it does not match" in said(InputError, search, tiny, score, **settings)
        list_again(best)
        assert f"remove {best} to rewrite it" in said(InputError, search, tiny, score, **settings)
    (best / "metrics.json").unlink()
    assert said(InputError, search, tiny, score, **settings).startswith(f"{best}: incomplete, it has no metrics.json")
    shutil.rmtree(best)
    best.write_text("")
    said(InputError, search, tiny, score, **settings)
    best.unlink()
    again = search(tiny, score, **settings)  # the remedy is one
    assert len(again.trials) == len(search(tiny, score, **settings).trials)
    assert (best / "genotype.json").is_file()


def test_a_tested_network_needs_its_figures(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.begin({"seed": 0}, kind="train")
    folder.best.mkdir()
    for text in ("{}", '{"test_loss": "x", "correct": 1, "images": 2}'):
        (folder.best / "metrics.json").write_text(text)
        write_manifest(folder.best)
        assert "test_loss: " in said(InputError, folder.metrics)
    folder.close()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"settings": {}}, "space: "),
        ({"settings": {"space": 5}}, "space: "),
        ({"settings": {"space": "a", "searcher": 5}}, "searcher: "),
        ({"settings": {"space": "a", "out": "b"}}, "out: unknown setting"),
        ({"settings": 5}, "settings: "),
        ({"seconds": "x"}, "seconds: "),
        ({"seconds": None}, "seconds: "),
        ({"forgiven": "x"}, "forgiven: "),
        ({"data": 5}, "data: "),
        ({"input": [1, 2]}, "input: "),
        ({"study": None}, "study: "),
        ({"status": 5}, "status: "),
    ],
)
def test_a_record_of_wrong_types_is_refused_by_the_field(tmp_path, change, field):
    run = {"format": RUN_FORMAT, "status": "running", "settings": {"space": "microdense"}, "study": "a", "named": True}
    (tmp_path / "run.json").write_text(sealed(run))
    assert read_run(tmp_path) == run
    (tmp_path / "run.json").write_text(sealed({**run, **change}))
    line = said(InputError, resume, tmp_path)
    assert line.startswith(f"{tmp_path / 'run.json'}: {field}")


@pytest.mark.parametrize("run", ["[]", "5", "null"])
def test_a_record_that_is_none_is_refused(tmp_path, run):
    (tmp_path / "run.json").write_text(run)
    assert said(InputError, read_run, tmp_path).startswith(f"{tmp_path / 'run.json'}: damaged: it does not")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 1, "versions": {"nas-agg": "7.1"}}, "format 1; expected format 2; open this run with nas_agg 7.1,"),
        (
            {"format": "x" * 99, "versions": {}},
            "...; expected format 2; open this run with the version of nas_agg that wrote it,",
        ),
        (
            {"format": None, "versions": {"nas-agg": "0.0"}},
            "format None; expected format 2; open this run with nas_agg 0.0,",
        ),
        (
            {"versions": 5},
            "no format number; expected format 2; open this run with the version of nas_agg that wrote it,",
        ),
    ],
)
def test_a_run_of_another_format_is_refused_with_the_version_that_reads_it(tiny, score, tmp_path, change, message):
    path, settings = kept_run(tiny, score, tmp_path / "run")
    run = json.loads((path / "run.json").read_text())
    assert run.pop("format") == RUN_FORMAT == 2
    (path / "run.json").write_text(json.dumps(run | change))
    before = (path / JOURNAL).read_bytes()
    for call, arguments in ((read_run, {"path": path}), (RunFolder, {"path": path}), (resume, {"path": path})):
        line = said(InputError, call, **arguments)
        assert line.startswith(f"{path / 'run.json'}: ") and message in line and line.endswith("or start a new one")
    assert said(InputError, search, tiny, score, **settings) == line
    assert (path / JOURNAL).read_bytes() == before


@pytest.mark.parametrize("name", ["log.txt", "trials", "trials.csv", JOURNAL])
def test_what_cannot_be_written_is_one_line(tiny, score, tmp_path, name):
    path, settings = kept_run(tiny, score, tmp_path / "run")
    unfinished(path)
    shutil.rmtree(path / "best")
    target = path / name
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    if name == "trials":
        target.write_text("")
        settings["out"] = path
        (path / JOURNAL).unlink()
        (path / "trials.csv").unlink()
        edit_sealed(path / "run.json", forgiven=None)
    else:
        target.mkdir()
        (target / "inside").write_text("")
    assert str(target) in said(NasAggError, search, tiny, score, **settings)


def test_a_path_that_is_no_text_does_no_harm(tiny, score, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["nas_agg", "\udcff"])
    path = tmp_path / "u\udcff"
    search(tiny, score, searcher="random", budget=2, out=path)
    assert read_run(path)["command"] == "nas_agg \\udcff"
    assert "u\\udcff" in (path / "log.txt").read_text()
    assert search(tiny, score, searcher="random", budget=2, out=path).reason == "budget exhausted"


# ---- a network without what it needs


def test_a_run_without_weights_says_why(tiny, score, tmp_path):
    path, _ = kept_run(tiny, score, tmp_path / "run")
    assert "were evaluated by a function" in said(InputError, evaluate_run, path)
    unfinished(path, status="finished", evaluate=False, named=True)
    line = said(InputError, evaluate_run, path)
    assert "best/weights.safetensors is missing" in line and "function" not in line
    (path / "best/weights.safetensors").write_bytes(b"")
    assert "not in the folder's manifest.json" in said(InputError, evaluate_run, path)
    write_manifest(path / "best")
    list_again(path)
    assert "specifies no data set" in said(InputError, evaluate_run, path)
    for data, field in (({}, "data.spec: "), ({"spec": "digits", "root": "/"}, "data.root: ")):
        unfinished(path, status="finished", data=data)
        assert field in said(InputError, evaluate_run, path)
    unfinished(path, status="finished", data={"spec": "digits"})
    for text in ("{", "[]", '{"net": 5}'):
        (path / "best/genotype.json").write_text(text)
        list_again(path / "best")
        assert "genotype.json" in said(InputError, evaluate_run, path)
