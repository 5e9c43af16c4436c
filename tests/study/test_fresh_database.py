"""Several processes open a fresh database at the same moment; a database that dies says how to resume."""

from __future__ import annotations

import multiprocessing
import sqlite3
import time
from pathlib import Path

import pytest
import sqlalchemy
from postgres import postgres

from nas_agg.common.errors import InputError, NasAggError
from nas_agg.study.api import search
from nas_agg.study.definition.objectives import Objectives
from nas_agg.study.records.storages import find_or_create_study, open_storage

WORKERS = 4


def wait_for_study(url: str, start, failures) -> None:
    """What a worker does that was started before its search."""
    start.wait()
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            storage = open_storage(url, Path(), must_exist=True)
            if storage.get_all_studies():
                return
        except InputError as error:
            if "holds no search yet" not in str(error) and "no such file" not in str(error):
                return failures.put(str(error))
        except Exception as error:
            return failures.put(f"{type(error).__name__}: {error}")
    failures.put("a worker found no study")


def begin_study(url: str, name: str, start, failures) -> None:
    """What a search does."""
    start.wait()
    try:
        find_or_create_study(open_storage(url, Path()), name, False, Objectives(), url)
    except Exception as error:
        failures.put(f"{type(error).__name__}: {error}")


def failures_of_a_start(url: str, searches: int) -> list[str]:
    """Start processes at the same moment on a fresh database; returns what went wrong."""
    context = multiprocessing.get_context("fork")
    start, failures = context.Barrier(WORKERS + searches), context.Queue()
    processes = [context.Process(target=wait_for_study, args=(url, start, failures)) for _ in range(WORKERS)]
    for number in range(searches):
        processes.append(context.Process(target=begin_study, args=(url, f"study-{number}", start, failures)))
    for process in processes:
        process.start()
    for process in processes:
        process.join(90)
    assert not any(process.exitcode for process in processes)
    found = []
    while not failures.empty():
        found.append(failures.get())
    return found


@pytest.mark.parametrize("searches", [1, 3])
@pytest.mark.parametrize("starts", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_postgresql_is_opened_by_all_at_once(starts, searches):
    with postgres() as url:
        for start in range(starts):
            engine = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT")
            with engine.connect() as connection:
                connection.execute(sqlalchemy.text(f"CREATE DATABASE fresh{start}"))
            engine.dispose()
            assert failures_of_a_start(url.replace("/postgres?", f"/fresh{start}?"), searches) == []


def test_sqlite_is_opened_by_all_at_once(tmp_path):
    for start in range(3):
        assert failures_of_a_start(f"sqlite:///{tmp_path}/{start}.db", 2) == []


def test_a_database_that_dies_says_why_and_how_to_resume(tiny, score, tmp_path):
    url, out = f"sqlite:///{tmp_path}/study.db", tmp_path / "run"

    def die(genotype, trial):
        if trial.number == 2:
            with sqlite3.connect(tmp_path / "study.db") as database:
                database.execute("DROP TABLE trial_user_attributes")
        return score(genotype, trial)

    with pytest.raises(NasAggError) as error:
        search(tiny, die, searcher="random", budget=4, storage=url, out=out)
    line = str(error.value)
    assert "no such table: trial_user_attributes" in line and "invalid data" not in line and "\n" not in line
    assert f"once it can be used again, resume by calling nas_agg.search again with out={str(out)!r}" in line
