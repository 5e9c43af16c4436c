"""Drawings as PNG and PDF files."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from PIL import Image


def test_show_writes_png_and_pdf(run):
    pytest.importorskip("cairosvg")
    words = ("--png", "a.png", "--pdf", "a.pdf", "--svg", "a.svg")
    assert run("show", "densenet/121", *words) == (0, "wrote a.svg\nwrote a.png\nwrote a.pdf\n", "")
    image = Image.open(io.BytesIO(Path("a.png").read_bytes())).convert("RGB")
    assert image.width > 1500 and image.getpixel((0, 0)) == (255, 255, 255)
    assert len(image.getcolors(10**6)) > 20
    assert Path("a.pdf").read_bytes().startswith(b"%PDF")


def test_without_cairosvg(refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "cairosvg", None)
    line = "nas_agg: --png: cairosvg is not installed: pip install 'nas-agg[draw]'\n"
    assert refused("show", "densenet/121", "--png", "a.png") == line
    assert not Path("a.png").exists()
