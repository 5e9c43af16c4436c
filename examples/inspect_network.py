"""Plots of trained networks: weights by source, Grad-CAM, learning curves.

    nas_agg train densenet/40-k12 --dataset cifar10 --epochs 20 --out runs/dense
    nas_agg train residual/wrn-16-8 --dataset cifar10 --epochs 20 --out runs/wide
    python examples/inspect_network.py runs/dense runs/wide                   # all applicable plots, into plots/
    python examples/inspect_network.py runs/dense --plot weights --aggregates block1,block3
    python examples/inspect_network.py runs/search runs/search:3 --plot curves      # the final training and a trial
    python examples/inspect_network.py residual/resnet50 --weights resnet50-11ad3fa6.pth --dataset folder:./photos

weights   heat maps of source by reading layer: mean absolute weights of filters that read a concat, and learned scales
          of weighted sums (Figure 5 of SeqConv and of DenseNet)
grad-cam  Grad-CAM maps for images of the test split, one row per network (Micro-Dense Nets, Figure 3; DSNet, Figure 5)
curves    error and loss over epochs of all networks (Figure 4 of Micro-Dense Nets, DSNet and SeqConv)

Each plot is saved as PNG and SVG. Requires matplotlib, and captum for Grad-CAM: pip install 'nas-agg[inspect]'.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

import nas_agg
from nas_agg.common.errors import InputError, NasAggError
from nas_agg.compiler.last_map import LAST_MAP, with_last_map
from nas_agg.compiler.network import Network
from nas_agg.expansion.expansion import expand
from nas_agg.language.genotype import Genotype
from nas_agg.report.plots import Explanation, cam_overlays, check_matplotlib, heat_maps, learning_curves, save
from nas_agg.report.source_weights import source_weights
from nas_agg.study.records.history import HISTORY_FILE, read_history
from nas_agg.study.records.run_folder import WEIGHTS_FILE, dataset_arguments, read_metrics, read_run
from nas_agg.training.augment import normalise
from nas_agg.training.data import Data, load_data

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Figures = Iterator[tuple[str, "Figure"]]
KINDS = {"filters": "weights of filters that read a concat", "scales": "learned scales of weighted sums"}


@dataclass
class Subject:
    """A network to be inspected.

    Attributes:
        text: Its reference: a run folder, ``RUN:TRIAL``, or a genotype.
        weights: File of its weights; None if there are none.
        run: Its run folder; None for other genotypes.
    """

    text: str
    weights: str | Path | None
    run: Path | None

    @classmethod
    def of(cls, text: str, weights: str | None) -> Subject:
        """Resolve a reference; a run's own weights are used unless others are specified."""
        folder, colon, _ = text.rpartition(":")
        run = Path(text) if Path(text).is_dir() else Path(folder) if colon and Path(folder).is_dir() else None
        if run is not None:
            read_run(run)
        if run != Path(text):
            nas_agg.load(text)  # raises an error for an invalid reference
        own = Path(text) / "best" / WEIGHTS_FILE
        return cls(text, weights or (own if own.is_file() else None), run)

    @property
    def name(self) -> str:
        """A short name for legends and files."""
        text = self.text.rstrip("/").removeprefix("runs/") if self.run is None else Path(self.text).resolve().name
        return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.")

    def network(self, genotype: Genotype) -> Network:
        """The network with its weights, in evaluation mode."""
        if self.weights is None:
            raise InputError(f"{self.text}: no trained weights; use a finished run, or --weights")
        return nas_agg.compile(genotype, weights=self.weights).eval()

    def history(self) -> list[dict[str, Any]]:
        """The metrics of each epoch, as written by the training."""
        if self.run is None:
            raise InputError(f"{self.text}: not a run folder, so there is no learning curve")
        trial = self.text.rpartition(":")[2]
        places = ("best", "best.tmp") if Path(self.text).is_dir() else (f"trials/{trial}",)
        for place in places:
            if history := read_history(self.run / place):
                return history
        raise InputError(f"{self.text}: no epoch was trained (no {places[0]}/{HISTORY_FILE})")

    def test(self) -> dict[str, Any]:
        """The test metrics of a finished run; empty for a trial, which is not tested."""
        best = Path(self.text) / "best"
        return read_metrics(best) if best.is_dir() else {}


# ---------------------------------------------------------------------- weights by source


def plot_weights(subjects: list[Subject], options: argparse.Namespace) -> Figures:
    """Heat maps of each network, one figure per kind of weights."""
    for subject in subjects:
        genotype = nas_agg.load(subject.text)
        tables = source_weights(expand(genotype), subject.network(genotype).state_dict())
        if not tables:
            raise InputError(f"{subject.text}: no layer reads several sources by concat or weighted sum")
        known = list(dict.fromkeys(table.aggregate for table in tables))
        chosen = options.aggregates.split(",") if options.aggregates else known
        if unknown := [name for name in chosen if name not in known]:
            raise InputError(f"--aggregates: {subject.text} has no '{unknown[0]}'; it has {', '.join(known)}")
        for kind, about in KINDS.items():
            of_kind = [table for table in tables if table.kind == kind and table.aggregate in chosen]
            if of_kind:
                count = min(len(of_kind), options.panels)
                shown = [of_kind[round(k)] for k in np.linspace(0, len(of_kind) - 1, count)]
                part = f", {count} of {len(of_kind)} aggregates" if count < len(of_kind) else ""
                title = f"{subject.name}: {about}{part}"
                yield f"weights-{subject.name}-{kind}", heat_maps(shown, title, absolute=options.absolute)


# ---------------------------------------------------------------------- Grad-CAM


def grad_cam(genotype: Genotype, network: nn.Module, images: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Grad-CAM at the network's last feature map (Selvaraju et al., 2017).

    Args:
        genotype: The network's genotype.
        network: The compiled network with its weights.
        images: Normalised images, ``(N, C, H, W)``.
        classes: The class whose logit is explained, per image, ``(N,)``.

    Returns:
        Non-negative maps at the resolution of the feature map ``(N, h, w)``, and logits ``(N, classes)``.
    """
    try:
        from captum.attr import LayerGradCam
    except ImportError:
        raise InputError("Grad-CAM needs captum: pip install 'nas-agg[inspect]'") from None
    model = Network(with_last_map(expand(genotype))).eval()
    model.load_state_dict(network.state_dict())
    cam = LayerGradCam(model, model.get_submodule(LAST_MAP))
    maps = cam.attribute(images, classes, relu_attributions=True)
    with torch.no_grad():
        return maps.squeeze(1), model(images)


def plot_grad_cam(subjects: list[Subject], options: argparse.Namespace) -> Figures:
    """Grad-CAM maps of each network for the true class of test images, the first image of each of some classes."""
    data = load_data(**data_arguments(subjects, options))
    labels = data.test.labels.numpy()
    classes = np.linspace(0, data.classes - 1, min(options.images, data.classes)).round()
    places = [place for label in classes for place in np.flatnonzero(labels == label)[:1]]
    images = data.test.images[places]
    rows = []
    for subject in subjects:
        genotype = nas_agg.load(subject.text).with_task(data.input, data.classes)
        inputs = normalise(images, data.mean, data.std)
        maps, logits = grad_cam(genotype, subject.network(genotype), inputs, data.test.labels[places])
        rows.append(Explanation(subject.name, maps.detach().numpy(), logits.softmax(1).numpy()))
    title = f"Grad-CAM for the true class, with its probability: test images of {data_name(data)}"
    yield "grad-cam", cam_overlays(images.permute(0, 2, 3, 1).numpy(), labels[places], data.class_names, rows, title)


def data_name(data: Data) -> str:
    """The data set's name without folders."""
    kind, colon, path = data.name.partition(":")
    return Path(path).name if colon else kind


def data_arguments(subjects: list[Subject], options: argparse.Namespace) -> dict[str, Any]:
    """The data set specified, or else the one on which all networks were trained."""
    if options.dataset:
        return {"spec": options.dataset, "image_size": options.image_size}
    arguments = []
    for subject in subjects:
        if subject.run is None:
            raise InputError(f"{subject.text}: not a run folder; specify images with --dataset")
        arguments.append(dataset_arguments(read_run(subject.run), subject.run))
        if any(arguments[-1].get(name) != arguments[0].get(name) for name in ("spec", "image_size", "min_side")):
            raise InputError(f"{subject.text}: trained on other images than {subjects[0].text}; use --dataset")
    return arguments[0]


def plot_curves(subjects: list[Subject], options: argparse.Namespace) -> Figures:
    """Error and loss over epochs of all networks."""
    histories = {subject.name: subject.history() for subject in subjects}
    yield "curves", learning_curves(histories, {subject.name: subject.test() for subject in subjects})


PLOTS = {"weights": plot_weights, "grad-cam": plot_grad_cam, "curves": plot_curves}


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("networks", nargs="+", metavar="NETWORK", help="a run folder, RUN:TRIAL, or a genotype")
    parser.add_argument("--plot", choices=PLOTS, help="one plot (default: all that apply)")
    parser.add_argument("--out", type=Path, default=Path("plots"), help="output folder (default: plots)")
    parser.add_argument("--weights", help="weights of a single network, as in nas_agg compile --weights")
    parser.add_argument("--dataset", help="images for Grad-CAM (default: the run's data set)")
    parser.add_argument("--image-size", type=int, help="scale images of --dataset to this side")
    parser.add_argument(
        "--images", type=int, default=6, help="images for Grad-CAM, each of a different class (default: 6)"
    )
    parser.add_argument("--aggregates", help="aggregates in heat maps, for example block1,block3 (default: all)")
    parser.add_argument("--panels", type=int, default=12, help="maximum number of heat maps per plot (default: 12)")
    parser.add_argument("--absolute", action="store_true", help="do not divide heat maps by the maximum of each reader")
    return parser


def run(options: argparse.Namespace) -> None:
    for name in ("images", "panels"):
        if getattr(options, name) < 1:
            raise InputError(f"--{name}: must be 1 or more")
    if options.weights and len(options.networks) > 1:
        raise InputError("--weights: allowed for a single network only; runs have their own weights")
    check_matplotlib()
    subjects = [Subject.of(text, options.weights) for text in options.networks]
    if len({subject.name for subject in subjects}) < len(subjects):
        raise InputError("two networks have the same name; rename a run folder")
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out: cannot create {options.out}: {error.strerror}") from None
    plots = [options.plot] if options.plot else list(PLOTS)
    count, skipped = 0, []
    for name in plots:
        for group in [[subject] for subject in subjects] if name == "weights" else [subjects]:
            try:
                for file, figure in PLOTS[name](group, options):
                    count += 1
                    print(*save(figure, options.out / file))
            except InputError as error:
                skipped.append(f"no {name} plot: {error}")
    if not count:
        raise InputError("; ".join(skipped))
    for line in skipped:
        print(line, file=sys.stderr)


if __name__ == "__main__":
    try:
        run(parser().parse_args())
    except NasAggError as error:
        print(f"inspect_network: {error}", file=sys.stderr)
        sys.exit(error.status)
