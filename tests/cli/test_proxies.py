"""`nas_agg proxies`: what it lists, how it scores a network and ranks a run, and what it refuses."""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import nas_agg
from nas_agg.language.genotype import Genotype
from nas_agg.search_space.space import Space
from nas_agg.study import proxy_ranking as ranking
from nas_agg.study.samplers.proxy_scorer import PROXIES, ZERO_COST_PROXIES, ProxyScorer
from nas_agg.training import proxies
from nas_agg.training.data import load_data

SMALL = {"input": [1, 8, 8], "classes": 10, "net": [{"conv": 3, "out": 6}, "bn", "relu", "gap", {"linear": "classes"}]}


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a user's function, which prefers wide networks."""
    net = [{"conv": 3, "out": "width"}, "bn", "relu", "gap", {"linear": "classes"}]
    space = Space({"input": [1, 8, 8], "classes": 10, "open": {"width": {"from": 2, "to": 40}}, "net": net}, "small")
    path = tmp_path_factory.mktemp("finished_run") / "widths"

    def score(genotype: Genotype, trial: object) -> float:
        return genotype.to_dict()["let"]["width"]

    nas_agg.search(space, score, searcher="random", budget=6, out=path)
    return path


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "small.json").write_text(json.dumps(SMALL))
    monkeypatch.setattr(ranking, "RESAMPLES", 40)
    return "small.json"


def heads(out: str) -> list[str]:
    """The first words of a table's rows."""
    return [line.split()[0] for line in out.splitlines()[1:] if line.split()[0] in PROXIES]


def test_lists_the_proxies(run):
    status, out, err = run("proxies")
    assert (status, err) == (0, "")
    assert heads(out) == list(PROXIES)
    assert "SynFlow, NeurIPS 2020" in out and "free" in out
    listed = json.loads(run("proxies", "--format", "json", "--proxy", "snip")[1])
    assert [proxy["name"] for proxy in listed] == ["params", "macs", "snip"]
    assert listed[2]["cost"] == "one backward pass" and "SNIP" in listed[2]["paper"]


def test_the_list_and_a_second_ranking_need_no_torch(run, small, finished_run):
    run("proxies", "--rank", str(finished_run), "--dataset", "digits", "--proxy", "zen")
    code = (
        "import sys; from nas_agg.cli.main import main\n"
        "try: main()\nfinally: print('torch' in sys.modules, file=sys.stderr)"
    )
    for words in (("proxies",), ("proxies", "--rank", str(finished_run), "--dataset", "digits", "--proxy", "zen")):
        report = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
        assert (report.returncode, report.stderr) == (0, "False\n")
        assert "zen" in report.stdout


def test_scores_a_network(run, small):
    status, out, err = run("proxies", small)
    assert (status, err) == (0, "")
    assert heads(out) == list(ZERO_COST_PROXIES)
    assert out.splitlines()[-1] == "64 training images of digits, 3 initializations, seed 0"
    report = json.loads(run("proxies", small, "--format", "json", "--seed", "4", "--batch", "16", "--inits", "4")[1])
    scorer = ProxyScorer(load_data("digits", 4), 4, 16)
    direct = [scorer.scores(nas_agg.load(SMALL), ZERO_COST_PROXIES, init) for init in range(4)]
    for proxy in report["proxies"]:
        scores = [scores[proxy["proxy"]] for scores in direct]
        assert proxy["scores"] == scores
        assert proxy["mean"] == pytest.approx(np.mean(scores))
        assert proxy["std"] == pytest.approx(statistics.stdev(scores))
        assert (proxy["std"] == 0) == (proxy["proxy"] in ("params", "macs"))
    assert report["proxies"][0]["mean"] == nas_agg.cost(SMALL).params
    assert (report["images"], report["input"], report["classes"]) == (16, [1, 8, 8], 10)


def test_for_another_task(run, small):
    words = ("proxies", small, "--input", "1x12x10", "--classes", "11", "--proxy", "zen", "--inits", "1")
    report = json.loads(run(*words, "--format", "json")[1])
    cost = nas_agg.cost(nas_agg.load(SMALL).with_task((1, 12, 10), 11))
    assert [proxy["mean"] for proxy in report["proxies"][:2]] == [cost.params, cost.macs]
    assert report["proxies"][2]["std"] is None
    assert "one initialization" in run(*words)[1]


def test_one_epoch_is_scored_only_if_named(run, small, finished_run):
    report = json.loads(run("proxies", small, "--proxy", "one-epoch", "--inits", "2", "--format", "json")[1])
    assert all(score < 0 for score in report["proxies"][2]["scores"])
    words = ("proxies", "--rank", str(finished_run), "--dataset", "digits", "--proxy", "one-epoch", "--seed", "5")
    ranked = json.loads(run(*words, "--limit", "4", "--format", "json")[1])
    assert ranked["correlations"][2]["proxy"] == "one-epoch" and ranked["seconds"]["one-epoch"] > 0
    assert json.loads(run(*words, "--limit", "4", "--format", "json")[1])["seconds"] == {}, "scores are saved"


def test_scores_that_are_not_finite_are_announced(run, small, monkeypatch):
    class Odd(proxies.Proxy):
        def score(self, graph, sample, seed):
            return -float("inf")

    class Broken(Odd):
        def score(self, graph, sample, seed):
            raise MemoryError

    monkeypatch.setitem(proxies.PROXIES, "snip", Odd())
    monkeypatch.setitem(proxies.PROXIES, "zen", Broken())
    out = run("proxies", small, "--proxy", "snip", "--proxy", "zen")[1].splitlines()
    assert [line.split()[1] for line in out[3:5]] == ["-inf", "nan"]
    assert out[-1] == "Note: zen could not be computed: out of memory; a smaller batch needs less"
    report = json.loads(run("proxies", small, "--proxy", "snip", "--format", "json")[1])
    assert report["proxies"][2] == {"proxy": "snip", "mean": None, "std": None, "scores": [None] * 3}


def test_ranks_a_run(run, small, finished_run):
    words = ("proxies", "--rank", str(finished_run), "--dataset", "digits", "--proxy", "naswot", "--proxy", "grad-norm")
    status, out, err = run(*words)
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert heads(out) == ["params", "macs", "naswot", "grad-norm"]
    assert lines[1].split() == ["params", "6", "1.00", "1.00", "to", "1.00", "1.00", "1.00", "to", "1.00", "-"]
    assert float(lines[3].split()[-1]) > 0
    assert lines[5].startswith("6 fully trained networks by value; scores on 64 training images of digits, one init")
    assert lines[6].startswith("Note: not distinguishable from params") and "macs" in lines[6]
    report = json.loads(run(*words, "--format", "json", "--inits", "2", "--limit", "4")[1])
    assert (report["networks"], report["inits"], report["metric"], report["dataset"]) == (4, 2, "value", "digits")
    assert [c["proxy"] for c in report["correlations"]] == ["params", "macs", "naswot", "grad-norm"]
    assert report["correlations"][0]["kendall"] == pytest.approx(1)
    assert report["correlations"][0]["networks"] == 4


def test_notes_list_what_is_left_out(run, small, finished_run, monkeypatch):
    class Odd(proxies.Proxy):
        def score(self, graph, sample, seed):
            width = graph.shapes[1][0]
            return float("inf") if width == min(widths) else -width

    widths = [nas_agg.load(f"{finished_run}:{number}").to_dict()["let"]["width"] for number in range(6)]
    monkeypatch.setitem(proxies.PROXIES, "snip", Odd())
    out = run("proxies", "--rank", str(finished_run), "--dataset", "digits", "--proxy", "snip", "--seed", "9")[
        1
    ].splitlines()
    assert out[3].split()[:3] == ["snip", "5", "-1.00"]
    assert out[5] == "Note: not distinguishable from params (intervals of Kendall's tau overlap): macs"
    assert out[6] == "Note: snip: 1 network left out: the score is not finite"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--proxy", "sinflow"), "unknown proxy 'sinflow'; did you mean 'synflow'?"),
        (("small.json", "--proxy", "x"), "unknown proxy 'x'; available: params, macs, grad-norm"),
        (("--batch", "8"), "--batch: requires a genotype or --rank RUN"),
        (("--limit", "8"), "--limit: requires a genotype or --rank RUN"),
        (("small.json", "--limit", "8"), "--limit: requires --rank"),
        (("small.json", "--batch", "1"), "invalid value for '--batch'"),
        (("small.json", "--inits", "0"), "invalid value for '--inits'"),
        (("small.json", "--dataset", "digit"), "unknown data set 'digit'; did you mean 'digits'?"),
        (("small.json", "--input", "3x8x8"), "--input: 3 channels, but digits has 1"),
        (("small.json", "--input", "8x8"), "--input: '8x8' is not channels x height x width"),
        (("small.json", "--classes", "9"), "--classes: 9, but digits has 10"),
        (("smal.json",), "smal.json: no such file; did you mean 'small.json'?"),
        (("--rank", "runs"), "runs: not a run folder"),
        (("small.json", "--rank", "runs"), "--rank: cannot be combined with a genotype; leave out one of them"),
        (("--rank", "RUN", "--classes", "9"), "--classes: requires a genotype"),
        (("--rank", "RUN"), "its networks were not trained on a data set; specify one with --dataset"),
        (("--rank", "RUN", "--dataset", "digit"), "unknown data set 'digit'"),
    ],
)
def test_errors_are_one_line(refused, small, finished_run, words, line):
    assert line in refused("proxies", *[str(finished_run) if word == "RUN" else word for word in words])


def test_a_signal_stops_it_and_scores_are_saved(small, finished_run, tmp_path):
    words = ("--rank", str(finished_run), "--dataset", "digits", "--proxy", "zen", "--inits", "100000", "--seed", "77")
    process = subprocess.Popen([sys.executable, "-m", "nas_agg", "proxies", *words], stderr=subprocess.PIPE, text=True)
    saved, end = finished_run / "proxies.json", time.monotonic() + 60
    while not (saved.exists() and '"seed\\":77' in saved.read_text()) and time.monotonic() < end:
        time.sleep(0.1)
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGTERM)
    assert process.communicate(timeout=30)[1] == (
        "nas_agg: stopped; the scores so far are saved with the run, rerun the command to resume\n"
    )
    assert process.returncode == 143
    (scored,) = [networks for key, networks in json.loads(saved.read_text()).items() if '"seed":77' in key]
    assert sum(len(scores["zen"]) for scores in scored.values()) > 1
