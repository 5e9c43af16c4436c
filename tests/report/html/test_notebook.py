"""What notebooks show: drawings, tables of costs, searches and runs, with every text escaped; DataFrames."""

from __future__ import annotations

import base64
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from pages import HOSTILE

import nas_agg
from nas_agg.expansion.costs import COST_METRICS
from nas_agg.language.genotype import Genotype
from nas_agg.report.drawing import draw
from nas_agg.search_space.space import open_space
from nas_agg.study.definition.result import SearchResult

SPACE: dict[str, Any] = {"rate": {"from": 1, "to": 9}, "how": ["sum", "concat"]}


class Elements(HTMLParser):
    """The names of elements, the sources of images and the texts of cells and paragraphs."""

    def __init__(self, text: str | None):
        super().__init__()
        self.names: set[str] = set()
        self.images: list[str] = []
        self.texts: list[str] = []
        assert text is not None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        assert {name for name, _ in attrs} <= {"style", "class", "src", "alt"}
        self.images += [value or "" for name, value in attrs if name == "src"]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.fixture(scope="module")
def result() -> SearchResult:
    return nas_agg.search("agg-bench", budget=8, objective="accuracy,macs", pruner="none", out=None, seed=1)


@pytest.fixture(autouse=True, scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("runs"))
        yield


def test_a_network_is_drawn() -> None:
    genotype = nas_agg.load("microdense/30a64")
    assert genotype._repr_svg_() == draw(genotype, adapts=False)
    shown = Elements(genotype._repr_html_())
    (image,) = shown.images
    assert base64.b64decode(image.removeprefix("data:image/svg+xml;base64,")).decode() == draw(genotype)
    assert "<style" not in (genotype._repr_svg_() or ""), "rules of a drawing would hold for the whole page"


def test_a_genotype_without_a_network_shows_what_it_has() -> None:
    template = open_space("microdense").template
    assert template.open and template._repr_svg_() is None
    assert set(template.open) <= set(Elements(template._repr_html_()).texts)
    broken = Genotype.from_dict({"input": [3, 8, 8], "classes": 2, "net": [{"conv": 3, "out": "w"}]})
    assert broken._repr_svg_() is None
    assert Elements(broken._repr_html_()).texts[0].startswith("net[0].out: ")


def test_a_cost_is_a_table() -> None:
    cost = nas_agg.cost("microdense/30a64")
    texts = Elements(cost._repr_html_()).texts
    assert set(COST_METRICS) <= set(texts) and "724,727 (0.725 M)" in texts


def test_a_search_shows_its_front(result: SearchResult) -> None:
    shown = Elements(result._repr_html_())
    rows = re.findall(r"<tr><td[^>]*>(\d+)</td>", result._repr_html_() or "")
    assert [int(row) for row in rows] == [trial.number for trial in result.front]
    assert "Pareto front" in shown.texts and shown.images
    assert result.path is not None
    run = nas_agg.open_run(result.path)
    assert f"{result.path}: finished, 8 networks evaluated" in Elements(run._repr_html_()).texts


def test_trials_as_a_frame(result: SearchResult, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pandas")
    frame = result.to_dataframe()
    assert list(frame.index) == [trial.number for trial in result.trials]
    assert list(frame["macs"]) == [trial.macs for trial in result.trials]
    assert list(frame["hash"]) == [trial.hash for trial in result.trials]
    assert set(frame["block_operator"]) <= {"sum", "concat"}, "choices as people write them"
    assert result.path is not None and nas_agg.open_run(result.path).to_dataframe().equals(frame)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(nas_agg.InputError, match="pip install"):
        result.to_dataframe()


def test_hostile_texts_are_escaped(tmp_path: Path) -> None:
    names = {f"{text} {i}": ["a", text] for i, text in enumerate(HOSTILE)}
    result = nas_agg.search(
        names, lambda values, trial: 1.0, budget=6, searcher="random", out=tmp_path / HOSTILE[0][:8]
    )
    for text in (result._repr_html_(), nas_agg.open_run(result.path or "")._repr_html_()):
        shown = Elements(text)
        assert shown.names <= {"p", "table", "caption", "thead", "tbody", "tr", "th", "td"}
        assert any("<script>alert(1)</script>" in part for part in shown.texts)
        assert "\u202e" not in (text or "") and any("\\u202e" in part for part in shown.texts)
