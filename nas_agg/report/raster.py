"""Drawings as PNG and PDF, by cairosvg (`pip install 'nas-agg[draw]'`)."""

from __future__ import annotations

import io
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from nas_agg.common.errors import InputError
from nas_agg.common.files import write_atomic

if TYPE_CHECKING:
    import numpy as np

MAX_PIXELS = 40_000_000  # of a PNG


def has_cairosvg() -> bool:
    """Whether cairosvg is installed."""
    return find_spec("cairosvg") is not None


def check_cairosvg(option: str) -> None:
    """Check that cairosvg and the cairo library are installed.

    Args:
        option: The option that needs them.

    Raises:
        InputError: They are not.
    """
    try:
        import cairosvg  # noqa: F401
    except ImportError:
        raise InputError(f"{option}: cairosvg is not installed: pip install 'nas-agg[draw]'") from None
    except OSError:
        raise InputError(
            f"{option}: the cairo library is not installed: apt install libcairo2, or brew install cairo"
        ) from None


def write_png(path: Path, svg: str, scale: float = 2.0) -> None:
    """Write a drawing as a PNG file.

    Args:
        path: The file.
        svg: The drawing.
        scale: Pixels per unit of the drawing; less for a drawing of more than ``MAX_PIXELS``.

    Raises:
        NasAggError: The file cannot be written.
    """
    write_atomic(path, _png(svg, scale))


def write_pdf(path: Path, svg: str) -> None:
    """Write a drawing as a PDF file, with its text as text.

    Raises:
        NasAggError: The file cannot be written.
    """
    import cairosvg

    write_atomic(path, cairosvg.svg2pdf(bytestring=svg.encode()))


def png_pixels(svg: str) -> np.ndarray:
    """A drawing as pixels: uint8, (H, W, 3)."""
    import numpy as np
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(_png(svg, 1.0))).convert("RGB"))


def _png(svg: str, scale: float) -> bytes:
    import cairosvg

    width, height = _size(svg)
    scale = min(scale, (MAX_PIXELS / (width * height)) ** 0.5)
    data: bytes = cairosvg.svg2png(bytestring=svg.encode(), scale=scale)
    return data


def _size(svg: str) -> tuple[float, float]:
    from xml.etree.ElementTree import fromstring

    root = fromstring(svg)
    return float(root.get("width", "1")), float(root.get("height", "1"))
