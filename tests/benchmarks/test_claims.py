"""The study of the papers' claims: statistics, arms, and the generated document."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

import nas_agg

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import claims  # noqa: E402
from claims_report import Family, verdict  # noqa: E402
from claims_statistics import Contrast, contrast, holm, residual_deviation  # noqa: E402


def figures(arms=3, seeds=4, seed=0):
    draw = np.random.default_rng(seed)
    of_seed = draw.normal(size=seeds)
    return {f"arm{arm}": {s: 50 + arm + of_seed[s] + 0.3 * draw.normal() for s in range(seeds)} for arm in range(arms)}


def test_two_arms_are_a_paired_t_test():
    results = figures(arms=2)
    result = contrast(results, list(results), {"arm1": 1, "arm0": -1})
    one, other = (np.array(list(results[name].values())) for name in ("arm1", "arm0"))
    test = stats.ttest_rel(one, other)
    assert result.p == pytest.approx(test.pvalue)
    assert result.interval == pytest.approx(tuple(test.confidence_interval()))
    assert result.degrees == 3


def test_effects_of_a_seed_common_to_all_arms_are_not_noise():
    results = figures()
    shifted = {arm: {seed: value + 10 * seed for seed, value in of.items()} for arm, of in results.items()}
    assert residual_deviation(shifted, list(shifted)) == pytest.approx(residual_deviation(results, list(results)))


def test_a_contrast_of_means_of_arms():
    results = figures(arms=4)
    result = contrast(results, list(results), {"arm3": 1, "arm2": 1, "arm1": -1, "arm0": -1})
    means = {arm: np.mean(list(of.values())) for arm, of in results.items()}
    assert result.estimate == pytest.approx((means["arm3"] + means["arm2"] - means["arm1"] - means["arm0"]) / 2)
    deviation, degrees = residual_deviation(results, list(results))
    assert result.half_width == pytest.approx(stats.t.ppf(0.975, degrees) * deviation * np.sqrt(4 / 4 / 4))


def test_only_seeds_that_all_arms_have():
    results = figures()
    del results["arm0"][1]
    assert contrast(results, list(results), {"arm1": 1, "arm0": -1}).seeds == 3


def test_holm():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.9]) == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize(
    ("estimate", "p", "expected", "words"),
    [
        (1.0, 0.01, "gain", "holds"),
        (-1.0, 0.01, "gain", "reversed"),
        (1.0, 0.2, "gain", "undecided at this scale"),
        (1.0, 0.01, "none", "does not hold: it gains"),
        (-1.0, 0.01, "none", "holds: it loses"),
        (1.0, 0.2, "none", "not contradicted"),
    ],
)
def test_verdicts(estimate, p, expected, words):
    assert verdict(Contrast(estimate, 1.0, p, 3, 4), p, expected) == words


def test_a_training_that_diverged_counts_as_guessing():
    spec = {"dataset": "cifar100", "arms": {"a": {}}}
    assert Family("F", spec, {"a": {0: {"failed": "diverged"}}}).accuracy == {"a": {0: 1.0}}


@pytest.mark.parametrize("family", list(claims.plan()["families"]))
def test_arms_have_the_parameters_of_their_family(family):
    spec = claims.plan()["families"][family]
    arms = claims.arms(family)
    assert len(arms) == len(spec["arms"])
    for arm in arms:
        assert nas_agg.cost(arm.genotype).params == pytest.approx(spec["params"], rel=claims.TOLERANCE), arm.name
    assert all(set(planned["of"]) <= set(spec["arms"]) for planned in spec["contrasts"].values())


def test_results_are_of_the_arms_as_they_are_written():
    for family in claims.plan()["families"]:
        hashes = {arm.name: str(nas_agg.cost(arm.genotype).hash) for arm in claims.arms(family) if arm.family == family}
        for line in claims.results(family):
            assert line["hash"] == hashes[line["arm"]], (family, line["arm"])


@pytest.mark.parametrize("place", ["cifar10", "cifar10=", "cifar=npz:a.npz"])
def test_a_wrong_place_of_data_is_one_line(place, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["claims.py", "run", "--data", place])
    with pytest.raises(SystemExit) as end:
        claims.main()
    assert end.value.code == 2
    assert f"--data {place!r}: expected cifar10=DATASET" in capsys.readouterr().err


def test_the_document_is_generated_from_the_results():
    assert claims.DOCUMENT.read_text() == claims.report()
