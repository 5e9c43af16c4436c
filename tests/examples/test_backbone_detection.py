"""The example of a detection backbone, run in a separate process."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "backbone_detection.py"


def run(*words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, EXAMPLE, *words], capture_output=True, text=True, timeout=240, env=environment
    )


def test_it_trains() -> None:
    ran = run("dsnet/dsnet26-0.25x", "--size", "64", "--steps", "2")
    assert ran.returncode == 0, ran.stderr
    assert re.findall(r"(stride\d+): +(\d+) channels", ran.stdout) == [
        ("stride1", "64"), ("stride2", "128"), ("stride4", "256"), ("stride8", "512"),
    ]  # fmt: skip
    losses = [float(text) for text in re.findall(r"step \d: loss ([\d.]+)", ran.stdout)]
    assert len(losses) == 2 and losses[-1] < losses[0]
    assert "boxes found" in ran.stdout


def test_a_missing_genotype_is_a_one_line_error() -> None:
    ran = run("residual/resnet51")
    assert ran.returncode == 1
    assert "did you mean 'resnet50'" in ran.stderr and ran.stderr.count("\n") == 1
