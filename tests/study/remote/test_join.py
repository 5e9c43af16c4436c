"""Which study a worker joins, and what it is refused for."""

from __future__ import annotations

import json
import sys
import threading

import optuna
import pytest

from nas_agg.common.errors import InputError
from nas_agg.study.api import search
from nas_agg.study.records.storages import open_storage
from nas_agg.study.remote.join import check_versions, locate_study, worker_configs
from nas_agg.study.workers.protocol import (
    COORDINATOR,
    TASK,
    versions,
)


@pytest.fixture
def studies(tmp_path):
    """A storage with studies of these names and states; gives its URL."""

    def make(**states):
        url = f"sqlite:///{tmp_path}/studies.db"
        storage = open_storage(url, tmp_path)
        for name, state in states.items():
            id = storage.create_new_study([optuna.study.StudyDirection.MAXIMIZE], name.replace("_", "-"))
            if state != "none":
                storage.set_study_user_attr(id, TASK, {"about": name})
                storage.set_study_user_attr(id, COORDINATOR, {"state": state})
        return url

    return make


def test_a_study_is_found_by_name_by_the_name_of_its_run_or_alone(studies):
    url = studies(a_0123ab="finished", a_4567cd="here", mine="none")
    assert locate_study(url, "a-0123ab").name == "a-0123ab"
    assert locate_study(url, "a").name == "a-4567cd"
    assert locate_study(url).name == "a-4567cd"
    assert locate_study(url).task == {"about": "a_4567cd"}


@pytest.mark.parametrize(
    ("states", "study", "line"),
    [
        ({}, None, "no search uses it yet"),
        ({"a": "here", "b": "away"}, None, "several studies; choose one with --study: a, b"),
        ({"abc": "here"}, "abd", "no study 'abd'; did you mean 'abc'?"),
        ({"theirs": "none"}, "theirs", "study theirs: not used by a search that trains networks yet"),
    ],
)
def test_a_study_that_is_not_there_is_one_line(studies, states, study, line):
    with pytest.raises(InputError) as error:
        locate_study(studies(**states), study)
    assert str(error.value).endswith(line)


def test_a_storage_or_run_that_is_not_there_is_one_line(tmp_path):
    for storage, line in (
        (f"sqlite:///{tmp_path}/none.db", "none.db: no such file"),
        ("nosuch://me:secret@host/x", r"nosuch://me:\*\*\*@host/x cannot be opened"),
        ("grpc://host", "grpc://host: use the form grpc://HOST:PORT"),
    ):
        with pytest.raises(InputError, match=line) as error:
            locate_study(storage)
        assert "secret" not in str(error.value)
    assert not list(tmp_path.iterdir()), "a worker makes no database"
    with pytest.raises(InputError, match="not a run folder"):
        locate_study(run=tmp_path)
    for both in ({}, {"storage": "sqlite://", "run": tmp_path}):
        with pytest.raises(InputError, match="specify either a storage"):
            locate_study(**both)


def test_a_worker_waits_for_a_study_if_requested(studies):
    url = studies()
    threading.Timer(1.0, lambda: studies(late="here")).start()
    with pytest.raises(InputError):
        locate_study(url, "late")
    assert locate_study(url, "late", wait=20).name == "late"


def test_other_versions_and_other_images_are_refused():
    check_versions({"versions": versions()})
    for name in ("nas_agg", "torch"):
        with pytest.raises(InputError, match=rf"the search uses {name} 0\.0, this machine has "):
            check_versions({"versions": {**versions(), name: "0.0"}})
    from nas_agg.training.data import load_data

    task = {
        "data": {"spec": "digits", "seed": 3},
        "about": "digits (1,797)",
        "dataset_digest": load_data("digits", seed=3).digest,
    }
    assert [config.data for config in worker_configs(task, None, "cpu", 3)] == [task["data"]] * 3
    with pytest.raises(InputError, match=r"digits: its images differ from those of the search \(digits \(1,797\)\)"):
        worker_configs({**task, "dataset_digest": load_data("digits", seed=4).digest}, "digits", "cpu", 1)


def test_a_password_is_not_shown(tiny, score, tmp_path, monkeypatch):
    url = "nosuch+driver://me:se/cr@et@host/x?password=secret"
    monkeypatch.setattr("sys.argv", ["nas_agg", "search", "--storage", url])
    with pytest.raises(InputError) as error:
        search(tiny, score, storage=url, out=tmp_path / "run")
    assert "et@" not in str(error.value) and "secret" not in str(error.value)
    search(tiny, score, searcher="random", budget=1, out=tmp_path / "run")
    said = json.loads((tmp_path / "run/run.json").read_text())["command"]
    assert said == "nas_agg search --storage nosuch+driver://me:***@host/x?password=***"


def test_a_variable_of_the_environment_may_stand_in_a_url(tmp_path, monkeypatch):
    monkeypatch.setenv("PLACE_OF_STUDIES", str(tmp_path / "studies.db"))
    open_storage("sqlite:///$PLACE_OF_STUDIES", tmp_path)
    assert (tmp_path / "studies.db").exists()


def test_without_grpcio_a_line_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "grpc", None)
    with pytest.raises(InputError, match=r"grpcio and protobuf are not installed: pip install 'nas-agg\[grpc\]'"):
        open_storage("grpc://localhost:1", tmp_path)
