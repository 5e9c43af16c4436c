"""A search that is killed goes on as if it had not been."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time

import pytest
from dying import Killed, dying_after

from nas_agg.common.errors import InputError, NasAggError
from nas_agg.study.api import resume, search
from nas_agg.study.records.journal import JOURNAL
from nas_agg.study.records.run_folder import RunFolder

SEARCHERS = ["random", "tpe"]


@pytest.mark.parametrize("searcher", [*SEARCHERS, "evolution", "local", "nsga2", "predictor"])
def test_killed_in_the_middle_of_writes(tiny, score, kept, searcher, tmp_path, monkeypatch):
    settings = {"searcher": searcher, "budget": 25, "seed": 3}
    whole = search(tiny, score, out=tmp_path / "whole", **settings)
    draw, kills = random.Random(0), 0
    while True:
        with monkeypatch.context() as patch:
            dying_after(patch, draw.randint(1, 24))
            try:
                broken = search(tiny, score, out=tmp_path / "broken", **settings)
                break
            except Killed:
                kills += 1
    assert kills >= 10
    assert kept(tmp_path / "broken") == kept(tmp_path / "whole")
    states = {trial.state for trial in whole.trials}
    # The run had all of it to get right; the predictor leaves out networks equal to others.
    assert states == {"complete", "pruned", *(["duplicate"] if searcher != "predictor" else [])}
    assert broken.best == whole.best
    assert (tmp_path / "broken/trials.csv").read_text().count("\n") == len(whole.trials) + 1


SCRIPT = """
import sys, time
sys.path.insert(0, {here!r})
from conftest import TINY, score
from nas_agg.search_space.space import Space
from nas_agg.study.api import search

def slow(genotype, trial):
    time.sleep(0.03)
    return score(genotype, trial)

search(Space(TINY, "tiny"), slow, searcher={searcher!r}, budget=50, seed=5, out={out!r}, show=True)
"""


@pytest.mark.parametrize(
    ("searcher", "kills"),
    [("tpe", 4), *(pytest.param(name, 10, marks=pytest.mark.slow) for name in SEARCHERS)],
)
def test_sigkill_at_random_moments(tiny, score, kept, searcher, kills, tmp_path, request):
    search(tiny, score, searcher=searcher, budget=50, seed=5, out=tmp_path / "whole")
    out = tmp_path / "broken"
    script = SCRIPT.format(here=str(request.path.parent), searcher=searcher, out=str(out))
    draw, finished = random.Random(1), {}
    for _ in range(kills):
        process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
        process.stdout.readline()  # it has begun
        time.sleep(draw.uniform(0, 0.15))
        process.kill()
        process.communicate()
        now = {trial["number"]: trial for trial in kept(out) if trial["state"] != "RUNNING"} if _begun(out) else {}
        assert all(now[number] == trial for number, trial in finished.items())
        finished = now
    assert 0 < len(finished) < 50, "the kills came before or after the search"
    subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL)
    ended = kept(out)
    assert ended == kept(tmp_path / "whole")
    new = [trial for trial in ended if "nas_agg:duplicate_of" not in trial["attrs"]]
    assert len(new) == len({trial["attrs"]["nas_agg:hash"] for trial in new}) == 50


def _begun(out) -> bool:
    return (out / JOURNAL).exists() and (out / JOURNAL).read_bytes().count(b"\n") > 1


def test_ctrl_c_and_sigterm_stop_and_say_how_to_go_on(kept, tmp_path, request):
    out = tmp_path / "run"
    script = SCRIPT.format(here=str(request.path.parent), searcher="random", out=str(out)).replace("0.01", "0.2")
    for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        wrapped = "import sys\nfrom nas_agg.common.errors import NasAggError\ntry:\n" + "".join(
            f"    {line}\n" for line in script.strip().splitlines()
        )
        wrapped += "except NasAggError as error:\n    print(error)\n    sys.exit(error.status)\n"
        process = subprocess.Popen(
            [sys.executable, "-c", wrapped], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        process.stdout.readline()
        time.sleep(0.5)
        process.send_signal(number)
        said = process.communicate(timeout=20)[0]
        assert process.returncode == status, said
        assert said.splitlines()[-1] == f"stopped; resume by calling nas_agg.search again with out={str(out)!r}"
        assert json.loads((out / "run.json").read_text())["status"] == "stopped"


def test_another_process_is_refused_while_one_searches(tiny, score, tmp_path):
    def ask_again(genotype, trial):
        with pytest.raises(InputError, match="another process is using this run folder"):
            search(tiny, score, budget=1, out=tmp_path / "run")
        return score(genotype, trial)

    result = search(tiny, ask_again, searcher="random", budget=2, out=tmp_path / "run")
    assert [trial.state for trial in result.trials] == ["complete", "complete"]


@pytest.mark.parametrize("searcher", ["random", "predictor"])
def test_a_finished_search_goes_on_for_more_networks(tiny, score, tmp_path, searcher):
    whole = search(tiny, score, searcher=searcher, budget=20, out=tmp_path / "whole")
    first = search(tiny, score, searcher=searcher, budget=14, out=tmp_path / "run")
    more = search(tiny, score, searcher=searcher, budget=20, out=tmp_path / "run")
    told = [(trial.labels, trial.value) for trial in whole.trials]
    assert [(trial.labels, trial.value) for trial in more.trials] == told
    before = json.loads((tmp_path / "run" / "best-of-14" / "metrics.json").read_text())
    assert before["value"] == first.value
    assert json.loads((tmp_path / "run" / "best" / "metrics.json").read_text())["value"] == whole.value
    with pytest.raises(InputError, match="budget: the run has a budget of 20 networks; specify as many or more"):
        search(tiny, score, searcher=searcher, budget=19, out=tmp_path / "run")


def test_other_settings_are_refused_by_name(tiny, score, tmp_path):
    search(tiny, score, searcher="random", budget=3, out=tmp_path / "run")
    with pytest.raises(InputError, match="seed is 0 there and 4 here; choose another --out"):
        search(tiny, score, searcher="random", budget=3, seed=4, out=tmp_path / "run")
    other = type(tiny)({**_tiny_text(), "classes": 9}, "tiny")
    with pytest.raises(InputError, match="the space tiny has changed"):
        search(other, score, searcher="random", budget=3, out=tmp_path / "run")


def _tiny_text():
    from importlib.util import module_from_spec, spec_from_file_location
    from pathlib import Path

    spec = spec_from_file_location("tiny_space", Path(__file__).with_name("conftest.py"))
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.TINY


def test_a_folder_of_a_training_is_no_search(tiny, score, tmp_path):
    folder = RunFolder(tmp_path / "train")
    folder.begin({"seed": 0}, kind="train")
    folder.close()
    with pytest.raises(InputError, match="the run folder of a standalone training, not of a search"):
        resume(tmp_path / "train")
    with pytest.raises(InputError, match="it is not a search; choose another --out"):
        search(tiny, score, budget=1, out=tmp_path / "train")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda text: "{}\n" + text, "study.journal: line 1 is damaged"),
        (lambda text: text.replace('"op_code":4', '"op_code":', 1), "study.journal: line [0-9]+ is damaged"),
    ],
)
def test_a_damaged_journal_is_one_line(tiny, score, tmp_path, damage, said):
    search(tiny, score, searcher="random", budget=2, out=tmp_path / "run")
    journal = tmp_path / "run" / JOURNAL
    journal.write_text(damage(journal.read_text()))
    with pytest.raises(InputError, match=said) as error:
        search(tiny, score, searcher="random", budget=2, out=tmp_path / "run")
    assert "\n" not in str(error.value)


def test_a_finished_run_shows_its_table_and_changes_nothing(tiny, score, tmp_path, capsys):
    first = search(tiny, score, searcher="random", budget=3, out=tmp_path / "run")
    journal = (tmp_path / "run" / JOURNAL).read_bytes()
    again = search(tiny, score, searcher="random", budget=3, out=tmp_path / "run", show=True)
    assert again.trials == first.trials and again.best == first.best
    assert (tmp_path / "run" / JOURNAL).read_bytes() == journal
    assert "is finished" in capsys.readouterr().out


def test_the_lock_of_a_killed_writer_holds_nobody_up(tiny, score, tmp_path):
    with pytest.raises(Killed):
        search(tiny, _killing, searcher="random", budget=3, out=tmp_path / "run")
    (tmp_path / "run" / f"{JOURNAL}.lock").symlink_to(tmp_path / "run" / JOURNAL)
    begun = time.monotonic()
    result = search(tiny, score, searcher="random", budget=3, out=tmp_path / "run")
    assert time.monotonic() - begun < 10
    assert [trial.number for trial in result.trials if trial.consumes_budget][-1] >= 2


def _killing(genotype, trial):
    raise Killed


def test_a_folder_of_something_else_is_refused(tiny, score, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    with pytest.raises(InputError, match="neither empty nor a run folder"):
        search(tiny, score, budget=1, out=tmp_path / "mine")


def test_any_optuna_url_keeps_the_study(tiny, score, tmp_path):
    url = f"sqlite:///{tmp_path}/studies.db"
    settings = {"searcher": "tpe", "budget": 12, "seed": 1, "storage": url}
    calls = []

    def interrupted(genotype, trial):
        calls.append(1)
        if len(calls) == 8:
            raise Killed
        return score(genotype, trial)

    with pytest.raises(Killed):
        search(tiny, interrupted, out=tmp_path / "a", **settings)
    broken = search(tiny, score, out=tmp_path / "a", **settings)
    whole = search(tiny, score, **{**settings, "storage": None})
    assert [(t.labels, t.value, t.state) for t in broken.trials] == [(t.labels, t.value, t.state) for t in whole.trials]
    assert not (tmp_path / "a" / JOURNAL).exists()
    with pytest.raises(InputError, match="cannot be opened"):
        search(tiny, score, out=tmp_path / "b", **{**settings, "storage": "nosuch://x"})
    again = search(tiny, score, out=tmp_path / "b", **settings)  # the folder is as good as new
    assert len(again.trials) == len(whole.trials)


def test_a_storage_that_breaks_leaves_a_failed_run(tiny, score, tmp_path, monkeypatch):
    import nas_agg.study.records.study_record as record

    def breaks(*args):
        raise NasAggError("the storage cannot be used: it is full")

    settings = {"searcher": "random", "budget": 2, "out": tmp_path / "run"}
    with monkeypatch.context() as patch:
        patch.setattr(record, "find_or_create_study", breaks)
        with pytest.raises(NasAggError, match="it is full"):
            search(tiny, score, **settings)
    assert json.loads((tmp_path / "run/run.json").read_text())["status"] == "failed"
    assert search(tiny, score, **settings).reason == "budget exhausted"


def test_a_search_of_a_table_goes_on(tmp_path):
    search("agg-bench", searcher="random", budget=5, out=tmp_path / "run")
    more = resume(tmp_path / "run", budget=8)
    assert sum(trial.consumes_budget for trial in more.trials) == 8
    assert (tmp_path / "run/best-of-5").is_dir()
    with pytest.raises(InputError, match="workers: agg-bench has a table of results"):
        search("agg-bench", workers=2, out=tmp_path / "other")


def test_a_search_whose_time_was_up_goes_on_with_more(tiny, score, tmp_path, monkeypatch):
    def slow(genotype, trial):
        time.sleep(0.1)
        return score(genotype, trial)

    settings = {"searcher": "random", "budget": 12, "out": tmp_path / "run"}
    first = search(tiny, slow, timeout=0.5, **settings)
    assert first.reason == "timeout reached" and 0 < len(first.trials) < 12
    again = search(tiny, slow, timeout=0.5, **settings)
    assert len(again.trials) == len(first.trials), "no more time, nothing more"
    more = search(tiny, slow, timeout=60, **settings)
    assert sum(trial.consumes_budget for trial in more.trials) == 12 and more.reason == "budget exhausted"
    assert (tmp_path / "run/best-after-0.5s").is_dir() and (tmp_path / "run/best").is_dir()
    assert len(search(tiny, slow, timeout=90, **settings).trials) == len(more.trials)
