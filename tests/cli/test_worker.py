"""`nas_agg worker` on the command line."""

from __future__ import annotations

import subprocess
import sys

import pytest
from optuna.study import StudyDirection

from nas_agg.study.records.storages import open_storage
from nas_agg.study.workers.protocol import COORDINATOR, TASK, versions


def nas_agg(*words, **more):
    return subprocess.run([sys.executable, "-m", "nas_agg", "worker", *words], capture_output=True, text=True, **more)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ((), "specify either a storage (--storage URL --study NAME) or a run folder (--run RUN)"),
        (("--storage", "sqlite:///none.db"), "sqlite:///none.db: no such file"),
        (("--run", "."), ".: not a run folder (it has no run.json)"),
        (
            ("--storage", "sqlite:///none.db", "--wait", "soon"),
            "--wait: invalid duration 'soon'; use for example 90s, 30m,",
        ),
        (("--storage", "sqlite:///none.db", "--idle", "x"), "--idle: invalid duration 'x'"),
    ],
)
def test_errors_are_one_line(words, line, tmp_path):
    ended = nas_agg(*words, cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith(f"nas_agg: {line}") and ended.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_worker_of_a_finished_search_leaves_at_once(tmp_path):
    from nas_agg.training.data import load_data

    url = f"sqlite:///{tmp_path}/studies.db"
    storage = open_storage(url, tmp_path)
    study = storage.create_new_study([StudyDirection.MAXIMIZE], "a-0123ab")
    digest = load_data("digits").digest
    task = {"data": {"spec": "digits"}, "dataset_digest": digest, "about": "digits", "versions": versions()}
    storage.set_study_user_attr(study, TASK, task)
    storage.set_study_user_attr(study, COORDINATOR, {"state": "finished"})
    ended = nas_agg("--storage", url, "--study", "a", "--device", "cpu", "--workers", "1")
    assert (ended.returncode, ended.stderr) == (0, "")
    first, last = ended.stdout.splitlines()
    assert first.startswith("joined a-0123ab as ") and first.endswith(
        "digits, 1 process on cpu, without access to the run folder"
    )
    assert last == "the search has finished; exiting"
