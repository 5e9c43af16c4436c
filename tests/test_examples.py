"""The examples run, each in a process of its own as a user runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(name, *words):
    ran = subprocess.run([sys.executable, EXAMPLES / name, *words], capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_own_space():
    out = run("own_space.py", "--budget", "3", "--epochs", "1")
    assert "3 networks evaluated" in out
    assert "best score" in out
