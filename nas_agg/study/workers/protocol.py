"""What a search's coordinator and workers elsewhere say to each other: attributes of the study and of its trials.

Each attribute has one writer, so nobody can spoil what another wrote, whatever the storage:

======================  ===========  =====================================================================
of the study            writer       says
======================  ===========  =====================================================================
``task``                coordinator  the data set, its checksum, versions, the run's folder, the time of a trial
``coordinator``         coordinator  that it is there: session, beat, lease; or that the search has finished
``worker:ID``           worker       who it is, and how many trials it trains at once; at last, that it left
``beat:ID``             worker       that it is alive: a number that grows
======================  ===========  =====================================================================

======================  ===========  =====================================================================
of a trial, `remote:`   writer       says
======================  ===========  =====================================================================
``job:PIECE``           coordinator  what is to be done, as JSON in pieces
``lease``               coordinator  whose it is, and which attempt
``stop:ATTEMPT``        coordinator  that it is not worth its end
``report:ATTEMPT:N``    worker       twenty reports, each a step and a value
``outcome:ATTEMPT``     worker       how it ended
======================  ===========  =====================================================================
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from nas_agg.study.definition.trial import OWN, REMOTE

TASK, COORDINATOR, WORKER, BEAT = (f"{OWN}{name}" for name in ("task", "coordinator", "worker:", "beat:"))
LEASE, JOB, STOP, REPORT, OUTCOME = (f"{REMOTE}{name}" for name in ("lease", "job:", "stop:", "report:", "outcome:"))
PIECE = 20_000  # characters: MySQL's texts end at 65,535 bytes, and a quotation mark within a text takes two
BLOCK = 20  # reports an attribute
FINISHED = "finished"

Attrs = Mapping[str, Any]


def pieces(order: Mapping[str, Any]) -> dict[str, str]:
    """A job as attributes."""
    text = json.dumps(order, separators=(",", ":"))
    return {f"{JOB}{i}": text[start : start + PIECE] for i, start in enumerate(range(0, len(text), PIECE))}


def order_of(attrs: Attrs) -> dict[str, Any]:
    """The job that a trial's attributes say."""
    return json.loads("".join(attrs[f"{JOB}{i}"] for i in range(attrs[LEASE]["pieces"])))


def blocks(attempt: int, reports: Sequence[tuple[int, float]], sent: int) -> dict[str, list]:
    """The attributes that say all reports of an attempt, when the first ``sent`` are known."""
    first = sent // BLOCK
    starts = range(first * BLOCK, len(reports), BLOCK)
    return {
        f"{REPORT}{attempt}:{first + i}": [list(report) for report in reports[start : start + BLOCK]]
        for i, start in enumerate(starts)
    }


def reports_of(attrs: Attrs, attempt: int, known: int) -> list[tuple[int, float]]:
    """The reports of an attempt after the first ``known``, in the order in which they were made."""
    found: list[tuple[int, float]] = []
    number = known // BLOCK
    while (block := attrs.get(f"{REPORT}{attempt}:{number}")) is not None:
        found += [(int(step), float(value)) for step, value in block]
        number += 1
    return found[known % BLOCK :]


def versions() -> dict[str, str]:
    """What must be the same on both sides."""
    return {"nas_agg": version("nas-agg"), "torch": _minor(version("torch"))}


def _minor(full: str) -> str:
    found = re.match(r"\d+\.\d+", full)
    return found[0] if found else full
