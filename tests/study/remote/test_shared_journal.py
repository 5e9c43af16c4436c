"""The journal file, written by several processes."""

from __future__ import annotations

import subprocess
import sys
import time

import optuna

from nas_agg.study.records.journal import JOURNAL
from nas_agg.study.records.storages import open_storage

WRITER = """
import sys
from pathlib import Path
from nas_agg.study.records.storages import open_storage
storage = open_storage(None, Path(sys.argv[1]))
study = storage.get_all_studies()[0]._study_id
print("ready", flush=True)
for i in range(int(sys.argv[2])):
    storage.set_study_user_attr(study, f"{sys.argv[3]}-{i}", "x" * 5000)
"""


def test_several_processes_write_one_journal(tmp_path):
    storage = open_storage(None, tmp_path)
    study = storage.create_new_study([optuna.study.StudyDirection.MAXIMIZE], "a")
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), "40", str(i)]) for i in range(3)]
    for i in range(40):
        storage.set_study_user_attr(study, f"mine-{i}", i)
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    assert len(storage.get_study_user_attrs(study)) == 160


def test_a_writer_that_is_killed_holds_nobody_up_and_spoils_nothing(tmp_path):
    storage = open_storage(None, tmp_path)
    study = storage.create_new_study([optuna.study.StudyDirection.MAXIMIZE], "a")
    for kills in range(3):
        command = [sys.executable, "-c", WRITER, str(tmp_path), "100000", str(kills)]
        writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        writer.stdout.readline()
        time.sleep(0.2)
        writer.kill()
        writer.wait()
        begun = time.monotonic()
        storage.set_study_user_attr(study, f"mine-{kills}", 1)
        assert time.monotonic() - begun < 5
    with (tmp_path / JOURNAL).open("ab") as file:
        file.write(b'{"op_code":2,"worker_id":"torn')  # what a kill in the middle of a write leaves
    storage.set_study_user_attr(study, "last", 1)
    assert open_storage(None, tmp_path).get_study_user_attrs(study)["last"] == 1
    assert all(line.endswith(b"}") for line in (tmp_path / JOURNAL).read_bytes().splitlines())
