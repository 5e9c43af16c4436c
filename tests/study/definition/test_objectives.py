"""Several objectives: what a study of them holds, its front, limits, and what is refused."""

from __future__ import annotations

import optuna
import pytest

from nas_agg.common.errors import InputError
from nas_agg.expansion.costs import cost
from nas_agg.study.api import search
from nas_agg.study.definition.metrics import METRICS, SCORE, VALUE
from nas_agg.study.definition.objectives import objectives_of
from nas_agg.study.definition.result import pareto_front
from nas_agg.study.definition.settings import Settings
from nas_agg.study.scheduling.constraints import constraint_violations


def accuracy(genotype, trial):
    """Grows with the width, up to a point."""
    width = genotype.to_dict()["let"]["width"] // 2
    return 1 - 0.4 / width - 0.02 * width


def test_objectives_are_named_and_know_their_direction():
    found = objectives_of(Settings.parse(space="tiny", objective="accuracy, macs,latency"), evaluated=False)
    assert found.names == ("accuracy", "macs", "latency")
    assert found.directions == ["maximize", "minimize", "minimize"]
    assert found.scores((0.9, 1000.0, 2.0)) == (0.9, -1000.0, -2.0)
    assert found.values({"accuracy": 0.5, "macs": 7, "latency_ms": 3, "loss": 1}) == (0.5, 7.0, 3.0)
    alone = objectives_of(Settings.parse(space="tiny"), evaluated=False)
    assert (alone.names, alone.is_multi_objective) == (("accuracy",), False)
    assert list(objectives_of(Settings.parse(space="tiny"), evaluated=True)) == [VALUE]
    assert list(objectives_of(Settings.parse(space="tiny", latency_target="5ms"), evaluated=False)) == [SCORE]


def test_a_functions_own_objectives_have_a_direction():
    found = objectives_of(Settings.parse(space="tiny", objective="error:min,speed:max,macs"), evaluated=True)
    assert [(metric.name, metric.direction, metric.known_a_priori) for metric in found] == [
        ("error", "minimize", False),
        ("speed", "maximize", False),
        ("macs", "minimize", True),
    ]


@pytest.mark.parametrize(
    ("objective", "evaluated", "said"),
    [
        ("acuracy", False, "unknown metric 'acuracy'; did you mean 'accuracy'?"),
        ("accuracy,accuracy", False, "duplicate metric accuracy"),
        ("params,macs", False, "none of these depends on training"),
        ("latency,macs", False, "trained for accuracy or loss"),
        ("", False, "unknown metric ''"),
        ((), False, "no metric specified"),
        ("error:down", True, "write error:min or error:max"),
        ("my error:min", True, "is not a valid name"),
    ],
)
def test_invalid_objectives(objective, evaluated, said):
    with pytest.raises(InputError, match=f"^objective: .*{said.replace('?', '[?]')}"):
        objectives_of(Settings.parse(space="tiny", objective=objective), evaluated)


def test_settings_that_exclude_several_objectives(tiny):
    with pytest.raises(InputError, match="median takes a single objective; use halving"):
        objectives_of(Settings.parse(space="tiny", objective="accuracy,macs", pruner="median"), evaluated=False)
    with pytest.raises(InputError, match="latency_target: it defines the objective"):
        objectives_of(Settings.parse(space="tiny", objective="loss", latency_target="5ms"), evaluated=False)
    with pytest.raises(InputError, match="supports a single objective only, not accuracy, macs"):
        search(tiny, accuracy, searcher="local", objective="accuracy,macs", budget=3)


def test_the_front_is_that_of_the_study(tiny, tmp_path):
    result = search(tiny, accuracy, searcher="random", objective="accuracy,macs", budget=25, out=tmp_path / "run")
    url = str(next((tmp_path / "run").glob("*.journal")))
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(url))
    study = optuna.load_study(study_name=storage.get_all_studies()[0].study_name, storage=storage)
    assert study.directions == [optuna.study.StudyDirection.MAXIMIZE, optuna.study.StudyDirection.MINIMIZE]
    kept = {tuple(trial.values) for trial in study.best_trials}
    assert {trial.values for trial in result.front} == kept
    assert len(kept) > 1
    assert result.value == max(values[0] for values in kept)
    for trial in result.trials:
        genotype = tiny.genotype(tiny.values(trial.labels))
        assert trial.values == (accuracy(genotype, None), cost(genotype).macs)


def test_a_search_of_several_goes_on_as_it_would_have(tiny, tmp_path):
    settings = {"searcher": "nsga2", "objective": "accuracy,params", "seed": 3}
    whole = search(tiny, accuracy, budget=20, **settings)

    def killed(genotype, trial):
        if trial.number == 11:
            raise KeyboardInterrupt
        return accuracy(genotype, trial)

    with pytest.raises(KeyboardInterrupt):
        search(tiny, killed, budget=20, out=tmp_path / "run", **settings)
    again = search(tiny, accuracy, budget=20, out=tmp_path / "run", **settings)
    assert [(t.labels, t.values) for t in again.trials] == [(t.labels, t.values) for t in whole.trials]


def test_a_function_gives_what_arithmetic_does_not_know(tiny):
    def two(genotype, trial):
        if trial.number == 2:
            return 0.5
        return accuracy(genotype, trial), 0.1 * trial.number

    result = search(tiny, two, searcher="random", objective="quality:max,error:min,params", budget=6)
    assert [trial.reason for trial in result.trials if trial.state == "failed"] == [
        "evaluate returned a value of type float, not 2 numbers"
    ]
    first = result.trials[0]
    assert first.values == (accuracy(tiny.genotype(tiny.values(first.labels)), None), 0.0, first.params)


def test_a_single_objective_may_be_minimised(tiny):
    result = search(tiny, lambda genotype, trial: genotype.to_dict()["let"]["width"], objective="width:min", budget=12)
    assert result.value == min(trial.value for trial in result.trials if trial.consumes_budget)
    assert [trial.value for trial in result.top] == sorted(trial.value for trial in result.top)


def test_limits_that_a_training_tells_of():
    settings = Settings.parse(space="tiny", min_accuracy=0.9, max_loss=0.5, max_latency="2ms")
    by = constraint_violations(settings, {"accuracy": 0.85, "loss": 0.4, "latency_ms": 1.5})
    assert by == {"accuracy": pytest.approx(0.05), "loss": pytest.approx(-0.1), "latency": -0.5}
    assert constraint_violations(Settings.parse(space="tiny"), {"accuracy": 0.1}) == {}


def test_networks_over_a_limit_are_no_front_and_the_sampler_knows(tiny):
    from nas_agg.study.definition.objectives import Objectives
    from nas_agg.study.records.study_record import StudyRecord

    objectives = Objectives((METRICS["accuracy"], METRICS["macs"]))
    record = StudyRecord(optuna.pruners.NopPruner(), objectives=objectives)
    sampler = optuna.samplers.RandomSampler(seed=0)
    for number, much in enumerate((-0.1, 0.2)):
        labels = next(record.draws(sampler, tiny.distributions))
        record.create_trial(labels, tiny.distributions, {"hash": str(number), "params": 1, "macs": 5, "seed": 0})
        record.complete(number, (0.5 + number / 10, 5.0), {"accuracy": much})
    assert [trial.number for trial in pareto_front(record.trials)] == [0]
    assert [trial.number for trial in record.study.best_trials] == [0]
    assert record.trials[1].consumes_budget
    assert record.trials[1].scores is None
    assert record.study.trials[1].constraints == {"accuracy": 0.2}
