"""Data that several test modules share: genotypes written by hand, random ones, hostile files, points of the spaces."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

#: Networks written by hand, each with its name, genotype, and numbers of parameters and MACs.
NETWORKS: list[dict[str, Any]] = json.loads((Path(__file__).parent / "networks.json").read_text(encoding="utf-8"))
