"""The command line: output, errors and exit statuses."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys

import pytest
import typer

from nas_agg import __version__
from nas_agg.cli import main as cli
from nas_agg.cli.examples import EXAMPLES
from nas_agg.common.console import print_table
from nas_agg.common.errors import InputError
from nas_agg.study.definition.settings import Settings

METRICS = ["params", "macs", "flops", "activation_bytes", "activation_bytes_lean", "activation_bytes_leanest"]
METRICS += ["peak_bytes_inference", "depth", "connections", "gradient_path", "hash"]


@pytest.mark.parametrize(("point", "params"), [("30a64", 724_727), ("60a115", 4_031_046)])
def test_cost_gives_the_papers_integers(run, point, params):
    status, out, _ = run("cost", f"microdense/{point}", "--format", "json")
    metrics = json.loads(out)
    assert status == 0
    assert list(metrics) == METRICS
    assert metrics["params"] == params
    assert metrics["flops"] == 2 * metrics["macs"]


def test_cost_for_another_task(run):
    metrics = json.loads(
        run("cost", "microdense/30a64", "--classes", "100", "--input", "1x28x28", "--format", "json")[1]
    )
    assert (
        metrics["params"] == 724_727 + 90 * 81 - 2 * 9 * 16
    )  # 80 inputs and a bias per class; a 3x3 stem on one channel


@pytest.mark.parametrize("words", [["cost", "microdense/30a64"], ["spaces"], ["points"], ["datasets"], ["recipes"]])
def test_commands_that_describe_or_count_do_not_import_torch(words):
    code = (
        f"import sys; sys.argv = ['nas_agg', *{words!r}]\n"
        "from nas_agg.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print([name for name in ('torch', 'torchvision', 'sklearn') if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert len(out.splitlines()) > 2
    assert out.splitlines()[-1] == "[]"


def test_lists(run):
    points = json.loads(run("points", "microdense", "--format", "json")[1])
    assert {"microdense/30a64", "microdense/60a115", "microdense/table6"} <= {point["point"] for point in points}
    tables = {space["name"]: space["table"] for space in json.loads(run("spaces", "--format", "json")[1])}
    assert (tables["agg-bench"], tables["microdense"]) == (1278, None)
    assert {"random", "tpe"} <= {searcher["name"] for searcher in json.loads(run("searchers", "--format", "json")[1])}
    assert "digits" in {name["name"] for name in json.loads(run("datasets", "--format", "json")[1])}
    assert {"search", "final", "microdense-cifar"} <= {
        r["name"] for r in json.loads(run("recipes", "--format", "json")[1])
    }


def test_control_characters_in_tables_are_escaped(capsys):
    print_table(["a\x1b[31m"], [["b\u202e\x07\n"]])
    assert capsys.readouterr().out == "a\\x1b[31m\nb\\u202e\\x07\\n\n"


def test_points_takes_the_space_as_an_option_too(run, refused):
    assert run("points", "--space", "densenet") == run("points", "densenet")
    assert "the space is specified twice" in refused("points", "densenet", "--space", "dsnet")
    assert "unknown search space 'densnet'; did you mean 'densenet'?" in refused("points", "--space", "densnet")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["se"], {"search", "searchers"}),
        (["search", "--max-l"], {"--max-latency", "--max-loss"}),
        (["search", "--space", "dens"], {"densenet", "densenet-imagenet"}),
        (["search", "--searcher", "n"], {"nsga2"}),
        (["points", "--space", "micro"], {"microdense"}),
        (["cost", "densenet/bc-"], {"densenet/bc-100-k12", "densenet/bc-250-k24", "densenet/bc-190-k40"}),
        (["train", "x", "--recipe", "fi"], {"final"}),
        (["train", "x", "--dataset", "cifar1"], {"cifar10", "cifar100"}),
        (["cost", "no/such"], set()),
    ],
)
def test_the_shell_completes_commands_options_and_values(run, monkeypatch, words, expected):
    monkeypatch.setenv("_NAS_AGG_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", " ".join(["nas_agg", *words]))
    monkeypatch.setenv("COMP_CWORD", str(len(words)))
    assert set(run()[1].split()) == expected


@pytest.mark.parametrize("command", ["spaces", "points", "searchers", "datasets", "recipes"])
def test_tables_are_plain_without_a_terminal(run, command):
    status, out, _ = run(command)
    assert status == 0
    assert len(out.splitlines()) > 1
    assert not set(out) & set("│┃─━\x1b")


def test_a_points_address_is_a_genotype(run, tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "input: [1, 8, 8]\nclasses: 3\nopen: {k: [4, 8]}\npoints: {small: {values: {k: 4}}}\n"
        "net: [{conv: 3, out: k}, bn, relu, gap, {linear: classes}]\n"
    )
    address = json.loads(run("points", "mine.yaml", "--format", "json")[1])[0]["point"]
    assert json.loads(run("cost", address, "--format", "json")[1])["params"] == 9 * 4 + 2 * 4 + 5 * 3


def test_show_is_a_tree_of_shapes_and_costs(run):
    out = run("show", "microdense/30a64")[1]
    assert out.splitlines()[0].split()[:4] == ["net", "10x1x1", "724,727", "139,549,472"]
    assert len(out.splitlines()) == 1 + 6 + 30
    tree = json.loads(run("show", "microdense/30a64", "--format", "json")[1])
    assert tree["params"] == sum(part["params"] for part in tree["parts"]) == 724_727


def test_every_setting_is_an_option_with_a_description(run):
    words = run("search", "--help")[1]
    assert all(f"--{name.replace('_', '-')}" in words for name in Settings.model_fields)
    assert all(field.description for field in Settings.model_fields.values())


def test_options_not_given_are_the_defaults_of_the_settings(run, monkeypatch):
    from nas_agg import study

    calls = []
    monkeypatch.setitem(study.__dict__, "search", lambda **values: calls.append(values) or sys.exit(0))
    run("search", "--space", "microdense", "--proxy-candidates", "5", "--start", "30a64", "--no-compile")
    given = {"space": "microdense", "proxy_candidates": 5, "start": ["30a64"], "compile": False}
    assert calls == [given | {"out": None, "show": True, "callbacks": []}]


def test_version_and_help(run):
    assert run("--version")[1] == f"nas_agg {__version__}\n"
    assert "search" in run()[1]
    assert run("search", "--help")[0] == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["cost", "microdens/30a64"], "did you mean 'microdense/30a64'?"),
        (["cost", "microdense/30a6"], "did you mean '30a64'?"),
        (["cost", "none.json"], "none.json"),
        (["cost", "microdense"], "specify one of its points"),
        (["cost", "microdense/30a64", "--input", "3x32"], "--input"),
        (["cost", "microdense/30a64", "--input", "0x8x8"], "input"),
        (["cots", "microdense/30a64"], "cots"),
        (["cost"], "GENOTYPE"),
        (["search"], "--space"),
        (["search", "--space", "microdens"], "did you mean 'microdense'?"),
        (["search", "--space", "microdense", "--searcher", "tp"], "did you mean 'tpe'?"),
        (["search", "--space", "microdense", "--dataset", "digit"], "did you mean 'digits'?"),
        (["search", "--space", "microdense", "--recipe", "finale"], "did you mean 'final'?"),
        (["search", "--space", "microdense", "--budget", "0"], "budget"),
        (["search", "--space", "microdense", "--max-params", "many"], "max_params"),
        (["search", "--space", "microdense", "--timeout", "soon"], "timeout"),
        (["search", "--space", "microdense", "--seed", "-1"], "seed"),
        (["search", "--space", "microdense", "--device", "tpu"], "tpu"),
        (["search", "--resume", "runs/none"], "runs/none"),
        (["search", "--space", "microdense", "--resume", "runs/none"], "--space"),
        (["search", "--resume", "runs/none", "--seed", "7"], "--seed: cannot change when a run is resumed"),
        (["search", "--resume", "runs/none", "--out", "x"], "--out: cannot change when a run is resumed"),
        (["train", "microdense/30a64", "--dataset", "folder:"], "folder:PATH"),
        (["evaluate", "microdense/30a64"], "--weights"),
        (["evaluate", "."], "not a run folder"),
        (["points", "microdens"], "did you mean 'microdense'?"),
    ],
)
def test_errors_are_one_line(refused, words, message):
    assert message in refused(*words)


def test_an_error_in_a_file_names_file_and_field(refused, tmp_path):
    (tmp_path / "bad.json").write_text('{"input": [3, 32, 32], "classes": 10, "net": [{"conv": 3, "ot": 16}]}')
    assert "bad.json: net[0].ot: unknown field; did you mean 'out'?" in refused("cost", "bad.json")


def test_a_billion_channels_are_refused_at_once(refused, tmp_path):
    (tmp_path / "big.json").write_text('{"input": [3, 32, 32], "classes": 10, "net": [{"conv": 3, "out": 1000000000}]}')
    assert "net[0].out" in refused("cost", "big.json")


def test_debug_shows_the_traceback(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["nas_agg", "cost", "none.json", "--debug"])
    with pytest.raises(InputError):
        cli.main()


def test_a_pipe_is_refused(refused, tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe.yaml")
    assert "pipe.yaml: is a pipe or a device, not a file" in refused("cost", "pipe.yaml")


def test_an_odd_name_stays_on_one_line(refused):
    assert refused("cost", "a\nb\x1b[31m.yaml").count("\x1b") == 0


def test_output_that_is_closed_or_full_ends_quietly(tmp_path):
    ran = subprocess.run(
        ["sh", "-c", f"'{sys.executable}' -m nas_agg points | head -1; '{sys.executable}' -m nas_agg spaces >&-"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert ran.returncode == 0
    assert ran.stderr == ""
    assert ran.stdout.startswith("point")


def test_signals_of_broken_pipes_stay_ignored(run):
    before = signal.getsignal(signal.SIGPIPE)
    run("spaces")
    run("bench", "--help")
    assert signal.getsignal(signal.SIGPIPE) == before == signal.SIG_IGN  # else a dead worker's pipe would end a search


def test_show_draws_into_a_file(run, refused, tmp_path):
    status, out, _ = run("show", "microdense/30a64", "--svg", "net.svg")
    assert (status, out) == (0, "wrote net.svg\n")
    assert (tmp_path / "net.svg").read_text().startswith("<svg")
    status, out, err = run("show", "microdense/30a64", "--svg", "nowhere/net.svg")
    assert (status, out) == (1, "") and "nowhere/net.svg: cannot be written" in err


@pytest.mark.parametrize(("command", "line"), [(name, line) for name, lines in EXAMPLES.items() for line in lines])
def test_examples_of_help_have_valid_options(command: str, line: str) -> None:
    program, name, *words = shlex.split(line)
    assert (program, name) == ("nas_agg", command)
    parameters = typer.main.get_command(cli.app).commands[command].params  # type: ignore[attr-defined]
    assert {word for word in words if word.startswith("--")} <= {option for p in parameters for option in p.opts}


def test_help_ends_with_examples(run) -> None:
    _, out, _ = run("trials", "--help")
    assert [line.strip() for line in out[out.index("Examples:") :].splitlines() if line.strip()][1:] == [
        *EXAMPLES["trials"]
    ]


@pytest.mark.parametrize("command", ["search", "train"])
def test_every_option_has_a_group_in_the_help(run, monkeypatch, command) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    _, out, _ = run(command, "--help")
    options = out[out.index("─ Options ") :].partition("╰")[0]
    assert re.findall(r"--[\w-]+", options) == ["--help"]
