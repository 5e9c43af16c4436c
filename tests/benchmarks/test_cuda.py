"""The script of all that needs a GPU runs through on a CPU, with tiny settings."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "cuda.py"


@pytest.mark.slow
def test_all_sections_run_dry() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), "--dry"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    sections = ["tests", "networks", "small", "evaluation", "search"]
    assert [name for name in result if isinstance(result[name], dict)] == sections
    assert not [name for name in result if "failed" in result[name] and result[name]["failed"]]
    assert (
        "test" in result["tests"]["summary"] and result["networks"]["networks"]["efficientnet/b0 torchvision"]["ms"] > 0
    )
    assert set(result["small"]["trainings_per_hour"]) == {"plain loop", "nas_agg", "nas_agg, cuda_graphs"}
    assert result["search"]["networks"] == 1
