"""Predict labels of images with the network in this folder: python predict.py IMAGE_OR_FOLDER ...

Reads config.json and weights.safetensors, which are data, and model.py. Requires torch, numpy and Pillow alone.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import math
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch.nn import functional

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".pnm", ".tif", ".tiff", ".webp", ".npy")
FORMATS = ("PNG", "JPEG", "BMP", "DIB", "GIF", "PPM", "TIFF", "WEBP")
MAX_PIXELS = 2**26
MAX_BYTES = 2**28


class Predictor:
    """The network of a folder, with its preprocessing.

    Args:
        folder: The folder of a compiled model; by default that of this file.
        device: The device, for example ``cuda``.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None, device: str = "cpu"):
        folder = Path(__file__).parent if folder is None else Path(folder)
        self.config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        cfg = self.config["pretrained_cfg"]
        if "mean" not in cfg or "preprocessing" not in self.config:
            raise ValueError(f"{folder / 'config.json'}: no mean, std and preprocessing; the weights are untrained")
        self.task = self.config["task"]
        self.labels = self.config.get("label_names") or [str(number) for number in range(cfg["num_classes"])]
        self.channels, height, width = cfg["input_size"]
        scales = [1 / (255 * std) for std in cfg["std"]]
        shifts = [-mean / std for mean, std in zip(cfg["mean"], cfg["std"], strict=True)]
        self.scale, self.shift = (torch.tensor(values).view(-1, 1, 1).to(device) for values in (scales, shifts))
        self.device = device
        self.batch_size = max(16, min(1024, 2**18 // (self.channels * height * width)))
        spec = importlib.util.spec_from_file_location("model", folder / "model.py")
        assert spec is not None and spec.loader is not None
        model = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(model)
        self.network = model.build(folder / "weights.safetensors").eval().to(device)

    def read(self, path: str | os.PathLike[str]) -> torch.Tensor:
        """An image file as the network's input without normalization: values 0 to 255, (C, H, W).

        Raises:
            ValueError: It cannot be read, or has other channels than the network.
        """
        return read_image(path, self.config["preprocessing"], self.channels)

    @torch.no_grad()
    def outputs(self, images: torch.Tensor) -> torch.Tensor:
        """Logits, or values of a regression, of images with values 0 to 255: (N, C, H, W) to (N, outputs)."""
        images = images.to(self.device).contiguous(memory_format=torch.channels_last)
        return self.network(images.float().mul(self.scale).add_(self.shift)).float()

    def predict(self, images: torch.Tensor) -> torch.Tensor:
        """Probabilities of labels, or values of a regression: (N, C, H, W) of values 0 to 255 to (N, outputs)."""
        outputs = self.outputs(images)
        if self.task == "regression":
            return outputs
        return outputs.softmax(1) if self.task == "classification" else outputs.sigmoid()


def read_image(path: str | os.PathLike[str], preprocessing: dict[str, Any], channels: int) -> torch.Tensor:
    """Read an image file and make it fit: float32, values 0 to 255, (C, H, W).

    Args:
        path: The file.
        preprocessing: ``size``, ``stored``, ``resize`` and ``interpolation`` as in config.json.
        channels: The channels of the result; a grey image is repeated, a colour image converted to grey.

    Raises:
        ValueError: The file is damaged, too large, of an unknown kind, or has other channels.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ValueError(f"larger than {MAX_BYTES // 2**20} MiB")
        if Path(path).suffix.lower() == ".npy":
            pixels = fit_array(np.load(io.BytesIO(data), allow_pickle=False), preprocessing)
        else:
            pixels = fit_picture(data, preprocessing, channels)
    except Exception as error:  # a damaged image can make Pillow raise almost anything
        if "cannot identify image" in str(error):
            raise ValueError(f"{path}: not an image of a known kind") from None
        raise ValueError(f"{path}: {' '.join(str(error).split())[:200] or type(error).__name__}") from None
    if len(pixels) not in (1, channels):
        raise ValueError(f"{path}: {len(pixels)} channels; the network is for {channels}")
    values = torch.from_numpy(np.ascontiguousarray(pixels).astype(np.float32)).expand(channels, -1, -1)
    (height, width), (rows, columns) = preprocessing["size"], values.shape[1:]
    top, left = (rows - height) // 2, (columns - width) // 2
    values = values[:, top : top + height, left : left + width]
    return values / 257 if pixels.dtype == np.uint16 else values


def fit_picture(data: bytes, preprocessing: dict[str, Any], channels: int) -> np.ndarray:
    """Decode an image and make it fit: uint8, or uint16 if it has more than 8 bits, (C, H, W)."""
    with warnings.catch_warnings(), Image.open(io.BytesIO(data), formats=FORMATS) as image:
        warnings.simplefilter("ignore")
        if image.width * image.height > MAX_PIXELS and image.format == "JPEG":
            image.draft(None, (max(preprocessing["stored"]),) * 2)  # decodes a fraction of the size
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"{image.width}x{image.height} pixels, more than {MAX_PIXELS:,}")
        mode = image.mode
        picture = ImageOps.exif_transpose(image)
        if mode[:1] in ("I", "F"):
            deep = Image.fromarray(to_16_bits(np.asarray(picture)).astype(np.float32))
            return np.rint(fit(deep, preprocessing)).clip(0, 65535).astype(np.uint16)[None]
        if mode in ("1", "L", "LA", "La"):
            return fit(picture.convert("L"), preprocessing)[None]
        pixels = fit(picture.convert("RGB"), preprocessing).transpose(2, 0, 1)
        if channels == 1:
            is_grey = (pixels[0] == pixels[1]).all() and (pixels[0] == pixels[2]).all()
            return pixels[:1] if is_grey else fit(picture.convert("RGB").convert("L"), preprocessing)[None]
        return pixels


def fit(image: Image.Image, preprocessing: dict[str, Any]) -> np.ndarray:
    """Scale an image and crop or pad it to the stored size: (H, W) or (H, W, C)."""
    target = preprocessing["stored"]
    height, width = scaled_size(image.height, image.width, target, preprocessing["resize"])
    if (height, width) != (image.height, image.width):
        image = image.resize((width, height), Image.Resampling[preprocessing["interpolation"].upper()])
    return crop_or_pad(np.asarray(image), target)


def scaled_size(height: int, width: int, target: Sequence[int], resize: str) -> tuple[int, int]:
    """Height and width to which an image is scaled before it is cropped or padded.

    Raises:
        ValueError: The image is so narrow that the scaled one would not fit into memory.
    """
    if resize == "squash":
        return target[0], target[1]
    if resize == "crop":  # rounds down, as torchvision.transforms.Resize does
        if target[1] * height >= target[0] * width:
            scaled = (max(target[0], target[1] * height // width), target[1])
        else:
            scaled = (target[0], max(target[1], target[0] * width // height))
        if scaled[0] * scaled[1] > max(MAX_PIXELS, height * width):
            raise ValueError(f"{height}x{width} pixels are too narrow to be scaled to {target[0]}x{target[1]}; crop it")
        return scaled
    scale = min(target[0] / height, target[1] / width)
    return min(target[0], max(1, round(height * scale))), min(target[1], max(1, round(width * scale)))


def crop_or_pad(pixels: np.ndarray, target: Sequence[int]) -> np.ndarray:
    """The centre of an image (H, W, ...), or the image on black, rounded as torchvision.transforms.CenterCrop does."""
    if pixels.shape[:2] == tuple(target):
        return pixels
    out = np.zeros((*target, *pixels.shape[2:]), pixels.dtype)
    ours, theirs = [], []
    for length, side in zip(pixels.shape[:2], target, strict=True):
        offset = round((length - side) / 2) if length >= side else -round((side - length) / 2)
        ours.append(slice(max(0, -offset), max(0, -offset) + min(length, side)))
        theirs.append(slice(max(0, offset), max(0, offset) + min(length, side)))
    out[tuple(ours)] = pixels[tuple(theirs)]
    return out


def fit_array(values: np.ndarray, preprocessing: dict[str, Any]) -> np.ndarray:
    """Make an array (H, W), (H, W, C) or (C, H, W) fit: uint8 or uint16, (C, H, W)."""
    if values.dtype.kind not in "uif" or values.ndim not in (2, 3) or values.size == 0:
        raise ValueError(f"an array of type {values.dtype} and shape {values.shape}; expected (H, W), (H, W, C)")
    if values.ndim == 3 and values.shape[0] == values.shape[2]:
        raise ValueError(f"an array of shape {values.shape} is (C, H, W) or (H, W, C); crop or pad it")
    if values.ndim == 3 and values.shape[0] > values.shape[2]:  # the shorter axis is that of channels
        values = values.transpose(2, 0, 1)
    pixels = values[None] if values.ndim == 2 else values
    if pixels.dtype != np.uint8:
        pixels = to_16_bits(pixels)
    target, (height, width) = preprocessing["stored"], pixels.shape[1:]
    scaled = scaled_size(height, width, target, preprocessing["resize"])
    chunk = torch.from_numpy(pixels.astype(np.float32))[None]
    if height % scaled[0] == 0 and width % scaled[1] == 0:
        chunk = functional.avg_pool2d(chunk, (height // scaled[0], width // scaled[1]))
    else:
        chunk = functional.interpolate(chunk, scaled, mode="bilinear", antialias=True, align_corners=False)
    fitted = chunk[0].round().clamp(0, np.iinfo(pixels.dtype).max).numpy().astype(pixels.dtype)
    return crop_or_pad(fitted.transpose(1, 2, 0), target).transpose(2, 0, 1)


def to_16_bits(values: np.ndarray) -> np.ndarray:
    """Integers of 0 to 65,535, or floats of 0 to 1, as uint16."""
    low, high = float(values.min()), float(values.max())
    if values.dtype.kind == "f":
        if not (low >= -0.001 and high <= 1.001):
            raise ValueError(f"floats from {low:g} to {high:g}; save floats of 0 to 1, or 16-bit integers")
        return np.rint(values.clip(0, 1) * 65535).astype(np.uint16)
    if low < 0 or high > 65535:
        raise ValueError(f"integers from {low:g} to {high:g}; save 16-bit integers")
    return values.astype(np.uint16)


def image_files(paths: Sequence[str]) -> list[Path]:
    """The files among some paths, and the image files in the folders among them, in order of their names.

    Raises:
        FileNotFoundError: There is no such file or folder, or it is neither.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            found = (file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
            files += sorted(file for file in found if not file.name.startswith("."))
        elif path.is_file():
            files.append(path)
        elif path.exists():  # reading a pipe could wait for ever
            raise FileNotFoundError(f"{path}: a pipe or device, not a file")
        else:
            raise FileNotFoundError(f"{path}: no such file or folder")
    return files


def printable(text: str) -> str:
    """A text on one line: control characters, and bytes of file names that are not UTF-8, as escape sequences."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def predictions(predictor: Predictor, files: Sequence[Path]) -> Iterator[tuple[Path, torch.Tensor | str]]:
    """Each file with its probabilities or values, or the reason why it cannot be read."""
    for start in range(0, len(files), predictor.batch_size):
        read: list[tuple[Path, torch.Tensor | str]] = []
        for path in files[start : start + predictor.batch_size]:
            try:
                read.append((path, predictor.read(path)))
            except ValueError as error:
                read.append((path, str(error)))
        images = [image for _, image in read if isinstance(image, torch.Tensor)]
        results = iter(predictor.predict(torch.stack(images)).cpu() if images else ())
        for path, image in read:
            yield path, image if isinstance(image, str) else next(results)


def describe(predictor: Predictor, values: torch.Tensor, top: int) -> str:
    """One image's result as text: the most probable classes, the labels above one half, or values."""
    named = list(zip(predictor.labels, values.tolist(), strict=True))
    if predictor.task == "regression":
        return ", ".join(f"{name} {value:.6g}" for name, value in named)
    named.sort(key=lambda entry: -entry[1])
    if predictor.task == "multilabel":
        chosen = [entry for entry in named if entry[1] >= 0.5]
        if not chosen:
            return f"no label above 50 %; the highest is {named[0][0]} {100 * named[0][1]:.2f} %"
    else:
        chosen = named[:top]
    return ", ".join(f"{name} {100 * value:.2f} %" for name, value in chosen)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print predictions; returns the exit status: 1 if a file could not be read."""
    parser = argparse.ArgumentParser(description="Predict labels of images with the network in this folder.")
    parser.add_argument("paths", nargs="+", metavar="IMAGE", help="an image file, or a folder of them")
    parser.add_argument("--top", type=int, default=3, metavar="N", help="classes per image (default: 3)")
    parser.add_argument("--json", action="store_true", help="one JSON object per image, with every label")
    parser.add_argument("--device", default="cpu", help="for example cuda (default: cpu)")
    options = parser.parse_args(arguments)
    if options.top < 1:
        parser.error("--top: must be 1 or more")
    try:
        predictor, files = Predictor(device=options.device), image_files(options.paths)
        if not files:
            raise ValueError(f"{', '.join(options.paths)}: no images")
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        print(printable(f"predict.py: {error}"), file=sys.stderr)
        return 2
    status = 0
    for path, result in predictions(predictor, files):
        if isinstance(result, str):
            print(printable(result), file=sys.stderr)
            status = 1
        elif options.json:
            finite = [value if math.isfinite(value) else None for value in result.tolist()]
            values = dict(zip(predictor.labels, finite, strict=True))
            print(json.dumps({"file": str(path), "predictions": values}))
        else:
            print(printable(f"{path}  {describe(predictor, result, options.top)}"))
    return status


if __name__ == "__main__":
    try:
        status = main()
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of the lines has exited, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nor may the interpreter's last flush fail
        status = 141
    sys.exit(status)
