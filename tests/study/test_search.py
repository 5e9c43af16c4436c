"""Searches with a function in the place of training: what is asked, refused, repeated, counted and found."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import optuna
import pytest

from nas_agg.common.errors import InputError, NasAggError
from nas_agg.expansion.costs import cost
from nas_agg.search_space.space import Space
from nas_agg.study.api import search
from nas_agg.study.definition.leaders import Leaders
from nas_agg.study.definition.metrics import METRICS
from nas_agg.study.definition.objectives import Objectives
from nas_agg.study.definition.proposals import NoProposal, Rejection
from nas_agg.study.definition.result import ranked
from nas_agg.study.definition.trial import RecordState, TrialRecord
from nas_agg.study.proposer import Proposer
from nas_agg.study.records.progress import ProgressReporter, print_result
from nas_agg.study.records.study_record import StudyRecord
from nas_agg.study.samplers.searcher import Searcher, find_searcher


class FixedPoints(Searcher):
    """Proposes listed points in turn, then the last for ever."""

    points: tuple[dict, ...] = ()
    max_rejections = 10**6

    def sampler(self, number):
        points = self.points

        class Sampler(optuna.samplers.RandomSampler):
            asked = 0

            def sample_independent(self, study, trial, name, distribution):
                if name == "width":
                    self.asked += 1
                return points[min(number + self.asked - 1, len(points) - 1)][name]

        return Sampler()


def fixed(*points):
    return type("OneAfterAnother", (FixedPoints,), {"points": points})


def point(width, deep="0", kernel="3", end='"relu"'):
    return {"width": width, "deep": deep, "kernel": kernel, "end": end}


def width_of(genotype, trial):
    return genotype.to_dict()["let"]["width"] // 2


@pytest.mark.parametrize("searcher", ["random", "tpe"])
def test_a_search_in_memory_finds_the_best_and_leaves_nothing(tiny, score, searcher, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = search(tiny, score, searcher=searcher, budget=30, seed=0)
    counted = [trial for trial in result.trials if trial.consumes_budget]
    assert len(counted) == len({trial.hash for trial in counted}) == 30
    assert result.value == max(trial.value for trial in counted)
    assert result.best == tiny.genotype(result.values)
    assert result.path is None and result.test is None
    assert list(tmp_path.iterdir()) == []
    again = search(tiny, score, searcher=searcher, budget=30, seed=0)
    assert [trial.labels for trial in again.trials] == [trial.labels for trial in result.trials]
    other = search(tiny, score, searcher=searcher, budget=30, seed=1)
    assert [trial.labels for trial in other.trials] != [trial.labels for trial in result.trials]


def test_a_duplicate_has_the_value_and_consumes_no_budget(tiny):
    calls = []

    def count(genotype, trial):
        calls.append(genotype)
        return width_of(genotype, trial)

    points = [point(4), point(5), point(4), point(8)]  # widths 4 and 5 give one network
    result = search(tiny, count, searcher=fixed(*points), budget=2)
    assert [trial.state for trial in result.trials] == ["complete", "duplicate", "duplicate", "complete"]
    assert [trial.duplicate_of for trial in result.trials] == [None, 0, 0, None]
    assert [trial.value for trial in result.trials] == [2, 2, 2, 4]
    assert len(calls) == 2


def test_a_duplicate_of_a_pruned_network_is_pruned_at_the_same_value(tiny):
    def stop(genotype, trial):
        trial.report(0.25, 1)
        raise optuna.TrialPruned

    result = search(tiny, stop, searcher=fixed(point(4), point(5), point(8)), budget=2)
    assert [(trial.state, trial.value) for trial in result.trials] == [
        ("pruned", 0.25),
        ("duplicate", 0.25),
        ("pruned", 0.25),
    ]
    assert result.value == 0.25


def test_what_is_over_a_limit_is_drawn_again_and_leaves_no_trial(tiny):
    small = cost(tiny.genotype(tiny.values(point(4))))
    for limit in ({"max_params": small.params}, {"max_macs": small.macs}):
        result = search(tiny, width_of, searcher=fixed(point(13), point(12), point(4)), budget=1, **limit)
        assert [(trial.labels["width"], trial.rejected_draws) for trial in result.trials] == [(4, 2)]
        assert (result.trials[0].params, result.trials[0].macs) == (small.params, small.macs)


@pytest.mark.parametrize("searcher", ["random", "tpe"])
def test_no_network_over_a_limit_is_ever_evaluated(tiny, score, searcher):
    costs = [cost(tiny.genotype(values)) for values in tiny.neighbours(tiny.values(point(6)))]
    limit = sorted(c.macs for c in costs)[len(costs) // 2]
    result = search(tiny, score, searcher=searcher, budget=15, max_macs=limit)
    assert max(trial.macs for trial in result.trials) <= limit
    assert sum(trial.rejected_draws for trial in result.trials) > 0


def test_the_first_networks_are_those_to_start_from(tiny, score, kept, tmp_path):
    values = [{"width": 8, "deep": 1, "kernel": 3, "end": "relu"}, {"width": 4, "deep": 0, "kernel": 3, "end": "relu"}]
    (tmp_path / "mine.json").write_text(tiny.genotype(values[1]).to_json())
    start = [values[0], str(tmp_path / "mine.json"), values[0]]
    result = search(tiny, score, searcher="random", budget=6, start=start, out=tmp_path / "run")
    assert [tiny.values(trial.labels) for trial in result.trials[:2]] == values
    assert result.trials[2].labels not in [trial.labels for trial in result.trials[:2]]
    alone = search(tiny, score, searcher="random", budget=6)
    assert [t.labels for t in alone.trials][2:4] == [t.labels for t in result.trials][2:4]
    (tmp_path / "mine.json").unlink()  # a run keeps the values, not where they came from
    again = search(tiny, score, searcher="random", budget=6, start=values, out=tmp_path / "run")
    assert again.trials == result.trials


@pytest.mark.parametrize(
    ("start", "said"),
    [
        (["nothing"], "start: tiny has no point 'nothing'"),
        (["microdense/30a64"], "start: this genotype is not in the search space tiny"),
        ([{"width": 8}], "start: values.deep: missing value"),
        (5, "start: expected points, genotypes or values, not 5"),
        ([["a"]], r"start: expected a point's name, a genotype or values, not \['a'\]"),
        ("x" * 5000, "start: tiny has no point"),
        ("./" + "x" * 5000, "start: no genotype"),
    ],
)
def test_a_network_that_is_no_start_is_refused(tiny, score, start, said):
    with pytest.raises(InputError, match=said):
        search(tiny, score, start=start)


@pytest.mark.parametrize("start", ["121", "densenet/121", "./densenet/121"])
def test_a_point_of_the_family_s_other_space_is_pointed_at(start, score):
    with pytest.raises(InputError, match="'121' is a point of the space densenet-imagenet"):
        search("densenet", score, start=start)


def test_a_start_over_a_limit_that_was_said_is_refused_before_there_is_a_run(tiny, score, tmp_path):
    values = {"width": 8, "deep": 0, "kernel": 3, "end": "relu"}
    with pytest.raises(InputError, match=r"start: network 1 has \d+ params, over --max-params 1; raise it or"):
        search(tiny, score, start=[values], max_params=1, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (
            {"max_params": 1000},
            "start: point '40-k12' has 1,019,722 params, over --max-params 1,000; raise it or leave",
        ),
        (
            {"max_macs": "1M"},
            "start: point '40-k12' has 264,812,928 MACs, over --max-macs 1,000,000; raise it or leave",
        ),
        (
            {"max_activations": 10},
            r"start: point '40-k12' has [0-9,]+ bytes of activations, over --max-activations 10;",
        ),
    ],
)
def test_a_start_over_a_limit_is_reported_with_the_point_and_the_option(score, limits, message):
    with pytest.raises(InputError, match=message):
        search("densenet", score, start=["40-k12"], **limits)


def test_the_space_s_own_limit_rises_to_the_start(tiny, score, monkeypatch):
    values = {"width": 8, "deep": 1, "kernel": 3, "end": "relu"}
    needs = cost(tiny.genotype(values)).macs
    monkeypatch.setattr(tiny, "search_text", {"max_macs": 10})
    result = search(tiny, score, start=[values], max_macs=None, budget=5)
    assert result.trials[0].macs == needs == max(trial.macs for trial in result.trials)


def test_an_exhausted_space_ends_the_search_early(tiny, score):
    result = search(tiny, score, searcher="random", budget=1000)
    everything = {cost(tiny.genotype(tiny.values(labels))).hash for labels in _all_labels(tiny)}
    assert {trial.hash for trial in result.trials} == everything
    assert sum(trial.consumes_budget for trial in result.trials) == len(everything)
    assert result.reason == "no other network of the space is within the limits"


def _all_labels(space):
    import itertools

    choices = [
        d.choices if hasattr(d, "choices") else range(d.low, d.high + 1, d.step) for d in space.distributions.values()
    ]
    return [dict(zip(space.distributions, values, strict=True)) for values in itertools.product(*choices)]


def test_a_searcher_that_finds_nothing_new_ends_the_search_after_1000_draws(tiny, monkeypatch):
    monkeypatch.setattr("nas_agg.study.proposer.SMALL_SPACE", 0)
    result = search(tiny, width_of, searcher=fixed(point(4), point(6)), budget=3)
    assert result.reason.startswith("1,000 draws in a row were duplicates or rejected")
    assert len(result.trials) == 1002
    with pytest.raises(NasAggError, match=r"no network has a result: 1,000 draws in a row .* more than 1 params"):
        search(tiny, width_of, searcher=fixed(point(4)), budget=3, max_params=1)


class Killed(BaseException):
    """The end of the process, for a test."""


def macs_of(genotype, trial):
    return cost(genotype).macs


def test_tpe_goes_on_under_a_limit_that_few_networks_keep(wide, kept, tmp_path):
    settings = {"budget": 25, "max_macs": 4000, "seed": 0}  # one network in fifty
    stubborn = type("Stubborn", (find_searcher("tpe"),), {"max_rejections": 10**6})
    assert search(wide, macs_of, searcher=stubborn, **settings).reason.startswith("1,000 draws in a row")
    result = search(wide, macs_of, out=tmp_path / "whole", **settings)
    assert result.reason == "budget exhausted"
    assert max(trial.macs for trial in result.trials) <= 4000
    assert max(trial.rejected_draws for trial in result.trials) < 500

    calls = []

    def dying(genotype, trial):
        calls.append(genotype)
        if len(calls) % 7 == 0:
            raise Killed
        return macs_of(genotype, trial)

    while True:
        try:
            search(wide, dying, out=tmp_path / "broken", **settings)
            break
        except Killed:
            continue
    assert len(calls) > 25
    assert kept(tmp_path / "broken") == kept(tmp_path / "whole")


def test_random_search_stays_random_under_a_limit(wide):
    settings = {"budget": 8, "max_macs": 4000, "seed": 0}
    alone = type("Alone", (find_searcher("random"),), {"max_rejections": 10**6})
    results = [search(wide, macs_of, searcher=searcher, **settings) for searcher in ("random", alone)]
    assert max(trial.rejected_draws for trial in results[0].trials) > find_searcher("tpe").max_rejections
    assert [trial.labels for trial in results[0].trials] == [trial.labels for trial in results[1].trials]


def test_a_long_draw_is_left_and_gone_on_with(wide):
    def propose(seconds):
        record = StudyRecord(optuna.pruners.NopPruner())
        proposer = Proposer(wide, find_searcher("tpe")(wide, 0), record, limits={"macs": 4000})
        answers = [None]
        while answers[-1] is None:
            answers.append(proposer.propose(seconds))
        return answers

    at_once, in_slices = propose(float("inf")), propose(0)
    assert len(at_once) == 2 < len(in_slices)
    assert at_once[-1] == in_slices[-1]


def test_time_and_reports_are_looked_after_while_drawing(wide, monkeypatch):
    check = Proposer._check

    def slow(self, labels):
        time.sleep(0.01)
        return check(self, labels) if self.record.next_number < 1 else Rejection("too slow")

    monkeypatch.setattr(Proposer, "_check", slow)
    begun = time.monotonic()
    result = search(wide, macs_of, searcher="random", budget=3, timeout=0.5)
    assert result.reason == "timeout reached"
    assert time.monotonic() - begun < 3, "a thousand refusals take ten seconds"


def test_a_users_own_attributes_are_the_users(tiny, score, kept, tmp_path):
    own = {"seed": 5, "hash": "x", "duplicate_of": 0, "params": "many", "reason": "mine", "rejected_draws": "no"}

    def noting(genotype, trial):
        for key, value in own.items():
            trial.set_user_attr(key, value)
        return score(genotype, trial)

    settings = {"searcher": "random", "budget": 4}
    plain = search(tiny, score, **settings)
    noted = search(tiny, noting, out=tmp_path / "run", **settings)
    again = search(tiny, noting, out=tmp_path / "run", **settings)
    for result in (noted, again):
        assert [vars(t) | {"seconds": 0} for t in result.trials] == [vars(t) | {"seconds": 0} for t in plain.trials]
    assert own.items() <= kept(tmp_path / "run")[0]["attrs"].items()


def test_what_is_kept_is_kept_up_when_no_trial_ends(monkeypatch):
    kept, now = [], [100.0]
    monkeypatch.setattr("nas_agg.study.records.progress.time.monotonic", lambda: now[0])
    display = ProgressReporter(5, Leaders(), print, lambda *_: kept.append(now[0]))
    for now[0] in (101.0, 109.0, 111.0, 112.0, 122.0):
        display.tick()
    assert kept == [111.0, 122.0]


def test_the_final_training_tells_of_each_tenth_without_a_terminal(capsys):
    logged = []
    display = ProgressReporter(5, Leaders(), logged.append, lambda *_: None, show=True)
    for epoch in range(1, 31):
        display.step("training the best", epoch, 30, 0.5)
    assert len(logged) == 10
    assert logged[-1] == "training the best: epoch 30 of 30: train acc 50.00 %"
    assert capsys.readouterr().out.splitlines() == logged


def test_a_line_of_progress_names_each_metric_once():
    logged, mae = [], Objectives([METRICS["mae"]])
    trial = TrialRecord(
        *(3, RecordState.COMPLETE, (1.5,), (-1.5,), {}, 20_000, 300_000, "a", 2.0, 0), further={"mae": 1.5, "rmse": 2.5}
    )
    ProgressReporter(5, Leaders(), logged.append, lambda *_: None, objectives=mae).trial(trial)
    assert logged == ["trial 3: mae 1.5 (20,000 params, 300,000 MACs, rmse 2.5, 2.0 s)"]


def test_a_failure_is_recorded_and_the_search_goes_on(tiny):
    def fragile(genotype, trial):
        if width_of(genotype, trial) == 2:
            raise MemoryError("too wide")
        return float("nan") if width_of(genotype, trial) == 3 else 1.0

    result = search(tiny, fragile, searcher=fixed(point(4), point(6), point(5), point(8)), budget=1)
    assert [trial.state for trial in result.trials] == ["failed", "failed", "complete"]
    assert result.trials[0].reason == "MemoryError: too wide"
    assert result.trials[1].reason == "diverged: the value is NaN"
    assert result.trials[2].rejected_draws == 1, "the network that failed is not evaluated again"


def test_ten_failures_in_a_row_end_it(tiny):
    def broken(genotype, trial):
        raise RuntimeError("no")

    with pytest.raises(NasAggError, match="10 trials in a row failed: RuntimeError: no"):
        search(tiny, broken, searcher="random", budget=50)


def test_draws_refused_while_others_run_wait(tiny):
    record = StudyRecord(optuna.pruners.NopPruner())
    proposer = Proposer(tiny, fixed(point(4), point(5))(tiny, 0), record)
    number, network = proposer.propose()
    assert number == 0 and network.params > 0
    assert proposer.propose() == NoProposal("the searcher proposes networks that are being trained")
    assert record.next_number == 1, "no trial is left of it"
    record.complete(0, 1.0)
    proposer.propose()
    assert record.trials[1].duplicate_of == 0


def test_a_network_is_known_by_its_names_in_whatever_order_a_storage_keeps_them():
    net = [{"conv": 3, "out": "a"}, {"conv": 3, "out": "b"}, "gap", {"linear": "classes"}]
    names = {name: {"from": 1, "to": 4} for name in "ab"}
    space = Space({"input": [1, 8, 8], "classes": 10, "open": names, "net": net}, "two")
    proposer = Proposer(space, find_searcher("random")(space, 0), StudyRecord(optuna.pruners.NopPruner()))
    one, other = proposer.check({"b": 1, "a": 2}), proposer.check({"a": 1, "b": 2})
    assert one.params != other.params
    assert proposer.check({"a": 2, "b": 1}) is one


def test_the_order_of_the_best(tiny):
    values = {2: 1.0, 3: 1.0, 4: 2.0, 5: 0.5}

    def by_width(genotype, trial):
        if width_of(genotype, trial) == 6:
            trial.report(9.0, 1)
            raise optuna.TrialPruned
        return values[width_of(genotype, trial)]

    result = search(tiny, by_width, searcher=fixed(*map(point, (6, 4, 8, 10, 12))), budget=5)
    assert [trial.labels["width"] for trial in ranked(result.trials)] == [8, 4, 6, 10, 12]


def test_plain_lines_when_the_output_is_no_terminal(tiny, score, capsys, tmp_path):
    result = search(tiny, score, searcher="random", budget=6, show=True, out=tmp_path / "run")
    said = capsys.readouterr().out
    assert "\x1b" not in said and "─" not in said
    assert sum(line.startswith("trial ") for line in said.splitlines()) == len(result.trials) + 1
    assert f"nas_agg show {tmp_path / 'run'}" in said
    assert len(result.top) == 5
    log = (tmp_path / "run/log.txt").read_text()
    assert log.count("trial ") == len(result.trials)
    json.dumps(result.as_dict())


def test_a_test_is_shown_with_its_images(tiny, score, capsys):
    result = search(tiny, score, searcher="random", budget=2)
    test = {"test_accuracy": 0.75, "correct": 3, "images": 4}
    print_result(type(result)(**{**vars(result), "test": test}))
    assert "test accuracy of the final network: 75.00 % (3 of 4 images)\n" in capsys.readouterr().out
    print_result(type(result)(**{**vars(result), "test": test | {"test_top5_accuracy": 1.0}}))
    assert "test accuracy of the final network: 75.00 % (3 of 4 images), top-5 100.00 %\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ({"searcher": "randm"}, "unknown searcher 'randm'; did you mean 'random'?"),
        ({"workers": 0}, "workers: an evaluate function runs on this machine"),
        ({"dataset": "digits"}, "dataset: networks are trained on it"),
        ({"storage": "sqlite:///x.db"}, "storage: requires a run folder"),
        ({"budget": "ten"}, "budget: "),
    ],
)
def test_a_wrong_call_is_one_line(tiny, score, call, said):
    with pytest.raises(InputError) as error:
        search(tiny, score, **call)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_an_unknown_space_or_data_set_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for call, said in (({"space": "microdens"}, "microdense"), ({"space": "microdense", "dataset": "digit"}, "digits")):
        with pytest.raises(InputError, match=said):
            search(**call)
    assert not [path for path in tmp_path.rglob("*") if path.name == "run.json"]


def test_nothing_of_a_search_is_imported_with_the_package():
    code = "import sys, nas_agg, nas_agg.study; sys.exit(any(m in sys.modules for m in ('torch', 'optuna', 'rich')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_optunas_own_words_are_kept_from_the_terminal(tiny, score, capfd, tmp_path):
    search(tiny, score, searcher="tpe", budget=15, out=tmp_path / "run")
    assert capfd.readouterr() == ("", "")
