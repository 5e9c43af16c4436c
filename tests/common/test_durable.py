"""Content, name and folder reach the disk in this order; folders that were replaced are not written to."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nas_agg.common import durable
from nas_agg.common.durable import DelayedSync, HeldFolder, abandoned, remove_abandoned, rename_durably, temporary_path
from nas_agg.common.errors import NasAggError
from nas_agg.common.files import write_atomic


class Calls:
    """A record of what reached the disk: (call, file) by the file's name at that time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.made: list[tuple[str, str]] = []
        fsync, replace, rename = os.fsync, os.replace, os.rename

        def name_of(descriptor: int) -> str:
            return Path(os.readlink(f"/proc/self/fd/{descriptor}")).name

        monkeypatch.setattr(os, "fsync", lambda fd: (self.made.append(("fsync", name_of(fd))), fsync(fd))[1])
        for name, call in (("replace", replace), ("rename", rename)):
            monkeypatch.setattr(
                os, name, lambda a, b, call=call: (self.made.append(("rename", Path(b).name)), call(a, b))[1]
            )


def test_a_file_is_on_the_disk_before_its_name_and_its_folder(tmp_path, monkeypatch):
    calls = Calls(monkeypatch)
    write_atomic(tmp_path / "a.json", "text")
    (content, renamed, folder) = calls.made
    assert content[0] == "fsync" and content[1].startswith(".a.json.") and content[1].endswith(".tmp")
    assert (renamed, folder) == (("rename", "a.json"), ("fsync", tmp_path.name))
    calls.made.clear()
    write_atomic(tmp_path / "a.json", "other", durable=False)
    assert calls.made == [("rename", "a.json")]


def test_a_folder_is_complete_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    (tmp_path / "best.tmp").mkdir()
    (tmp_path / "best.tmp/model.py").touch()
    calls = Calls(monkeypatch)
    rename_durably(tmp_path / "best.tmp", tmp_path / "best")
    assert calls.made == [
        ("fsync", "model.py"),
        ("fsync", "best.tmp"),
        ("rename", "best"),
        ("fsync", tmp_path.name),
    ]


def test_a_search_finishes_on_the_disk_in_order(tmp_path, monkeypatch):
    from nas_agg.study.api import search

    monkeypatch.setattr(durable, "SYNC_INTERVAL", 1000)
    calls = Calls(monkeypatch)
    search({"a": [1, 2, 3, 4]}, lambda values, trial: values["a"], searcher="random", budget=3, out=tmp_path / "run")
    names = ["study.journal", "trials.csv", "best", "manifest.json", "run.json"]
    last = {name: max(i for i, (_, file) in enumerate(calls.made) if file == name) for name in names}
    # The journal, the table and the final network are on the disk before the manifest, and that before run.json.
    assert max(last[name] for name in names[:3]) < last["manifest.json"] < last["run.json"]
    assert calls.made[-1] == ("fsync", "run"), "and last the folder"
    assert ("fsync", "study.journal") in calls.made[: last["manifest.json"]]


def test_appended_lines_reach_the_disk_together_and_errors_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(durable, "SYNC_INTERVAL", 1000)
    (tmp_path / "lines").touch()
    delayed, synced = DelayedSync(tmp_path / "lines"), []
    monkeypatch.setattr(durable, "sync", synced.append)
    for _ in range(5):
        delayed.written()
    assert synced == []
    delayed.flush()
    delayed.flush()
    assert synced == [tmp_path / "lines"]

    def full(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(durable, "sync", full)
    delayed.written()
    with pytest.raises(NasAggError, match="lines: cannot be written: No space left on device"):
        delayed.flush()


@pytest.mark.parametrize("again", [False, True])
def test_a_folder_that_was_removed_is_not_written_to(tmp_path, again):
    folder = tmp_path / "run"
    folder.mkdir()
    held = HeldFolder(folder)
    held.check()
    shutil.rmtree(folder)
    if again:
        folder.mkdir()
    with pytest.raises(NasAggError, match="replaced by another" if again else "the folder was removed"):
        held.check()
    held.close()


def test_what_dead_processes_left_is_removed_and_nothing_else(tmp_path):
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    own = temporary_path(tmp_path / "model")
    left = own.with_name(own.name.replace(f"-{os.getpid()}.", f"-{int(dead.stdout)}."))
    elsewhere = left.with_name(left.name.replace(durable._machine(), "00000000"))
    for path in (own, left, elsewhere):
        path.mkdir()
        (path / "weights").touch()
    (tmp_path / ".model.notes.tmp").touch()
    assert abandoned(tmp_path, "model") == [left]
    remove_abandoned(tmp_path, "other")
    assert left.exists()
    remove_abandoned(tmp_path, "model")
    assert not left.exists() and own.exists() and elsewhere.exists() and (tmp_path / ".model.notes.tmp").exists()
