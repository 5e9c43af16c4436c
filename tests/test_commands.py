"""Every command and Python block of the documentation is run, page by page, in the order of the page.

A folder is prepared with small images and runs; searches and trainings are shortened (`adapted`), and those that train
are run by the slow tests. `EXCEPTIONS` has what no test can run, with the reason.
"""

from __future__ import annotations

import glob
import itertools
import re
import shlex
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import nas_agg

ROOT = Path(__file__).parents[1]
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
PAGES = [page for page in PAGES if not page.startswith("docs/_site")]

#: Pages whose commands or Python blocks other tests run: page, kind, test.
ELSEWHERE = {
    **{(page, kind): "tests/test_tutorials.py" for page in PAGES if "/tutorials/" in page for kind in ("sh", "python")},
    **{(page, "python"): "tests/test_docs.py" for page in ("README.md", "docs/python.md")},
}

#: What no test can run: a pattern of commands or of Python blocks, and why.
EXCEPTIONS = {
    r"^(pip|git|python -m venv)\b": "installs; CI begins with it",
    r"^nas_agg dashboard\b": "a server; tests/report/test_dashboard.py sends requests to one",
    r"^(createdb|mysql|srun|for host)\b": "needs a database server, a cluster or other machines",
    r"URL|example\.org|/shared/|get_storage": "needs a server or other machines; tests/study/workers has the like",
    r"--backend (ray|slurm)": "needs a cluster; tests/study/workers has clusters of one machine",
    r"--download|download=True": "downloads weights; tests/compiler/test_torchvision_weights.py has files",
    r"folder:imagenet|--device cuda|--recipe densenet-imagenet": "needs ImageNet and a GPU",
    r'^from model import build\n\nlogits = build\("weights': "a fragment, run in tests/compiler",
    r"^import timm\b": "tests/integrations runs it",
    r"^nas_agg --version": "tests/cli/test_main.py",
    r"model_json_schema": "tests/test_docs.py compares its result",
}
#: What each command prints, as pages say: a pattern by the command's name.
PRINTED = {
    "search": r"^\d+ networks? evaluated; ",
    "train": r"^test accuracy",
    "evaluate": r"^test accuracy \d.*, loss \d",
    "compile": r"^  model\.py|^model\.py.* the network in plain PyTorch",
    "cost": r"^params +[\d,]+",
    "show": r"^wrote \S+\.svg$|^(~ )?net  ",
    "report": r"^wrote \S+\.html",
    "runs": r"^run +state",
    "trials": r"^trial[ ,]",
    "curves": r"[▁▂▃▄▅▆▇█]|epoch",
    "compare": r"^run +.*state$",
}
#: Results that pages state in words, by a pattern of commands.
STATED = {
    "cost microdense/30a64$": "139,549,472",
    "cost densenet/121": "activation_bytes_lean",
    "cost sparsenet/100-k24": r"connections +405\b",
    "trials runs/front --front": r"^trial +state +accuracy +MACs",
    "--sort -macs --format csv": ",macs,",
    "--diff": "→",
    "--resume runs/resumed --budget 24": "^8 networks evaluated",  # a third of 24
    "predict.py": r"^\S+cat/0\.jpg",
}
#: Pages that show a file mine.yaml, and which of their blocks it is.
FILES = {"README.md": 0, "docs/recipes.md": 0}
PROGRAMS = ("nas_agg", "python", "pip", "git", "createdb", "mysql", "srun", "for host")
TABLES = ("agg-bench", "--resume")  # searches of these train nothing
TRAINING = re.compile(
    r"^nas_agg (report|train|evaluate|proxies|worker|bench|compile|search)\b|^python \w+-net/|--latency"
)


class Item(NamedTuple):
    """A command or a Python block of a page, or a file that it shows: kind is sh, python or a file's name."""

    kind: str
    text: str


def items(page: str) -> list[Item]:
    """The commands, Python blocks and named files of a page, in order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found: list[Item] = []
    pieces = re.split(r'^```(\w+)(?: title="([\w./-]+)")?\n(.*?)^```$', text, flags=re.M | re.S)
    for place in range(0, len(pieces), 4):
        indented = re.findall(r"^    (\S.*)$", pieces[place], re.M)
        found += [
            Item("sh", command(line)) for line in indented if line.startswith(PROGRAMS) and line.split()[0][-1] != ":"
        ]
        if place + 3 < len(pieces):
            language, name, body = pieces[place + 1 : place + 4]
            if name:
                found.append(Item(name, body))
            elif language == "sh":
                found += [Item("sh", command(line)) for line in body.splitlines()]
            elif language == "python":
                found.append(Item("python", body))
    return found


def command(line: str) -> str:
    return line.partition("  #")[0].strip()


def excuse(text: str) -> str:
    return next((reason for pattern, reason in EXCEPTIONS.items() if re.search(pattern, text)), "")


def runnable(page: str) -> list[Item]:
    """What this module runs of a page."""
    return [item for item in items(page) if (page, item.kind) not in ELSEWHERE and not excuse(item.text)]


def trains(item: Item) -> bool:
    text = item.text
    if item.kind == "python":
        return "nas_agg.train(" in text or "weights.safetensors" in text or "runs/source" in text
    return bool(TRAINING.search(text)) and not (text.startswith("nas_agg search") and any(t in text for t in TABLES))


def adapted(text: str) -> list[str]:
    """The words of a command, whose data are the prepared ones, and whose trainings are short."""
    text = text.replace("compare RUN RUN", "compare runs/random-0 runs/random-1")
    text = re.sub(r"\bRUN\b", "runs/microdense-digits-0", text).replace(" --open", "").replace("\\|", "|")
    text = text.replace("--freeze conv,stage1", "--freeze conv")  # names of another network
    text = re.sub(r"--dataset (cifar\w+|fashion-mnist|folder:\S+)", "--dataset folder:photos", text)
    if text.startswith(("nas_agg search", "nas_agg train")) and not any(table in text for table in TABLES):
        text = re.sub(r" --(budget|epochs|max-macs|image-size) \S+", "", text) + " --epochs 1"
        if "folder:" in text:
            text += " --image-size 16"
        if text.startswith("nas_agg search"):
            text += " --budget 1 --final-epochs 1 --workers 1 --max-macs 20M"
            # A run of its own: the prepared ones have other settings.
            text += "" if "--out" in text or "--resume" in text else f" --out runs/page-{zlib.crc32(text.encode())}"
    elif text.startswith("nas_agg search"):
        text = re.sub(r" --budget (\d+)", lambda found: f" --budget {int(found[1]) // 3}", text)
        text += "" if "--budget" in text or "--resume" in text else " --budget 6"
    return [found for word in shlex.split(text) for found in (sorted(glob.glob(word)) if "*" in word else [word])]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos, arrays, a table, and runs of a table of results."""
    from PIL import Image

    folder, rng = tmp_path_factory.mktemp("prepared"), np.random.default_rng(0)
    for label in ("cat", "dog", "eel"):
        (folder / "photos" / label).mkdir(parents=True)
        for i in range(12):
            pixels = rng.integers(0, 256, (16, 16), dtype=np.uint8)  # grey, as the digits that weights come from
            Image.fromarray(pixels).save(folder / "photos" / label / f"{i}.jpg")
    shutil.copy(folder / "photos" / "cat" / "0.jpg", folder / "cat.jpg")
    images = rng.integers(0, 256, (60, 8, 8), dtype=np.uint8)
    np.savez(folder / "mine.npz", x_train=images, y_train=np.arange(60) % 3)
    for name, options in {
        "microdense-digits-0": {"budget": 14, "searcher": "random"},
        **{f"random-{seed}": {"budget": 3, "searcher": "random", "seed": seed} for seed in (0, 1)},
        "predictor-0": {"budget": 3, "searcher": "evolution"},
    }.items():
        nas_agg.search("agg-bench", out=folder / "runs" / name, **options)
    return folder


@pytest.fixture
def folder(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    return tmp_path


def follow(page: str, run: Callable, chosen: Callable[[Item], bool]) -> int:
    """Run the chosen items of a page; returns their number."""
    count = 0
    if page in FILES:
        blocks = re.findall(r"^```yaml\n(.*?)^```$", (ROOT / page).read_text(encoding="utf-8"), re.M | re.S)
        Path("mine.yaml").write_text(blocks[FILES[page]], encoding="utf-8")
    for item in runnable(page):
        if item.kind not in ("sh", "python"):
            Path(item.kind).write_text(item.text, encoding="utf-8")
        elif chosen(item):
            count += 1
            if item.kind == "python":
                exec(compile(item.text, page, "exec"), {})
                continue
            program, *words = adapted(item.text)
            if program == "nas_agg":
                status, out, err = run(*words)
                assert status == 0, f"{item.text}: {err}"
                check_output(item.text, words, out)
            else:
                assert program == "python", item.text
                done = subprocess.run([sys.executable, *words], check=True, capture_output=True, text=True)
                check_output(item.text, words, done.stdout)
    return count


def check_output(text: str, words: list[str], out: str) -> None:
    """Check that what the pages say of a command comes out: what it prints, and the files that its options name."""
    patterns = [PRINTED[words[0]]] if text.startswith("nas_agg") else []
    patterns += [pattern for called, pattern in STATED.items() if re.search(called, text)]
    for pattern in patterns:
        assert re.search(pattern, out, re.M), f"{text}: no {pattern!r} in {out}"
    for option, name in itertools.pairwise(words):
        if option in ("--out", "--svg"):
            assert Path(name).exists(), f"{text}: no {name}"


@pytest.mark.parametrize("page", [page for page in PAGES if any(not trains(item) for item in runnable(page))])
def test_commands_run(page: str, folder: Path, run: Callable) -> None:
    follow(page, run, lambda item: not trains(item))


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if any(trains(item) for item in runnable(page))])
def test_commands_that_train_run(page: str, folder: Path, run: Callable) -> None:
    shutil.rmtree("runs/microdense-digits-0")
    settings: dict[str, Any] = {"budget": 13, "epochs": 1, "final_epochs": 1, "workers": 1, "max_macs": "1M"}
    nas_agg.search("microdense", dataset="digits", out="runs/microdense-digits-0", **settings)
    shutil.copytree("runs/microdense-digits-0", "runs/first")
    assert follow(page, run, lambda item: True)


def test_every_exception_is_needed() -> None:
    texts = [item.text for page in PAGES for item in items(page)]
    assert len(texts) > 100
    for pattern in EXCEPTIONS:
        assert any(re.search(pattern, text) for text in texts), f"nothing matches {pattern}"


def test_every_block_is_of_a_known_kind() -> None:
    """A fence of another language would not be run."""
    for page in PAGES:
        languages = re.findall(r"^```(\w+)", (ROOT / page).read_text(encoding="utf-8"), re.M)
        assert set(languages) <= {"sh", "python", "yaml", "json", "text", "toml", "bash", "csv"}, page
