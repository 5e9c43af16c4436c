"""Table 5 of the Micro-Dense Nets paper: EfficientNet-B0 against the same network with MDConv-n in some of its blocks.

    python examples/efficientnet_mdconv.py                                     # digits, no download, about 2 minutes
    python examples/efficientnet_mdconv.py --dataset folder:./photos --image-size 224 --device cuda \
        --recipe microdense-imagenet --out mdconv                              # the paper's recipe: 300 epochs

The compression r_a of the MDConv blocks (and n, unless specified) is chosen for equal size at the paper's 224x224 and
1000 classes: parameters within 1 % and MACs within 2.5 %. Both networks start from the same random weights in all
shared blocks and are trained with the same images in the same order. With --weights both start from trained weights of
B0 instead, and only the MDConv blocks from random ones: an unequal start, which is not in the paper.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # read when torch is loaded: avoids spinning on a busy machine

import torch

import nas_agg
from nas_agg.common.console import print_table
from nas_agg.common.errors import InputError, NasAggError
from nas_agg.common.files import write_atomic
from nas_agg.compiler import Network, compile, save_weights
from nas_agg.expansion.costs import Cost
from nas_agg.language.genotype import Genotype
from nas_agg.report.tree import TreeNode, network_tree
from nas_agg.search_space.space import open_space
from nas_agg.training.data import Data, load_data
from nas_agg.training.loop import evaluate, pick_device, train
from nas_agg.training.recipes import Recipe, open_recipe

SPACE = open_space("efficientnet")
STAGES = (1, 2, 2, 3, 3, 4, 1)  # number of blocks
BLOCKS = [(stage, block) for stage, count in enumerate(STAGES, start=1) for block in range(count)]
PARAMS_WITHIN, MACS_WITHIN = 1.0, 2.5  # tolerances of equal size, in percent
LAYERS = (3, 4, 2, 5, 1, 6)  # numbers of dense layers, in the order of trial; the paper's best is 3


@dataclass(frozen=True)
class Variant:
    """B0 with MDConv-n in some blocks.

    Attributes:
        blocks: Numbers of the replaced blocks, counted from 1.
        n: Dense layers of each MDConv.
        ratio: Their compression r_a.
        genotype: The network.
        params: Difference to B0's parameters, in percent.
        macs: Difference to B0's MACs, in percent.
    """

    blocks: list[int]
    n: int
    ratio: Fraction
    genotype: Genotype
    params: float
    macs: float

    @property
    def excess(self) -> float:
        """The larger of both differences, as a multiple of its tolerance."""
        return max(abs(self.params) / PARAMS_WITHIN, abs(self.macs) / MACS_WITHIN)

    @property
    def size(self) -> str:
        """Both differences, and whether the sizes are equal within tolerance."""
        limits = f"parameters within {PARAMS_WITHIN:g} % and MACs within {MACS_WITHIN:g} %"
        verdict = f"equal ({limits})" if self.excess <= 1 else f"NOT equal ({limits})"
        return f"params {self.params:+.2f} %, MACs {self.macs:+.2f} % relative to B0: {verdict}"


def variant(b0: Genotype, cost: Cost, blocks: list[int], n: int, ratio: Fraction, se: bool) -> Variant:
    """The network with MDConv-n and compression r_a = ratio in place of some blocks.

    Args:
        b0: EfficientNet-B0.
        cost: Its cost.
        blocks: Numbers of the blocks, counted from 1.
        n: Dense layers of each MDConv.
        ratio: r_a.
        se: Whether the blocks keep B0's squeeze-excitation.
    """
    text = b0.to_dict()
    let: dict[str, Any] = dict(text["let"])
    for number in blocks:
        let |= {f"block{number}": "mdconv_se" if se else "mdconv"}
        let |= {f"layers{number}": n, f"ratio{number}": float(ratio)}
    genotype = Genotype.from_dict(text | {"let": let})
    ours = nas_agg.cost(genotype)
    params, macs = (100 * (a / b - 1) for a, b in ((ours.params, cost.params), (ours.macs, cost.macs)))
    return Variant(blocks, n, ratio, genotype, params, macs)


def variant_of_equal_size(b0: Genotype, blocks: list[int], n: int, se: bool) -> Variant:
    """The variant whose r_a, in steps of 0.001, is closest to equal parameters and MACs."""

    cost = nas_agg.cost(b0)

    def with_ratio(thousandths: int) -> Variant:
        return variant(b0, cost, blocks, n, Fraction(thousandths, 1000), se)

    # Both sizes grow with r_a: bisect, then search the neighbourhood, where sizes change in steps of whole channels.
    low, high = 10, 1000
    while high - low > 1:
        middle = (low + high) // 2
        candidate = with_ratio(middle)
        too_large = candidate.params / PARAMS_WITHIN + candidate.macs / MACS_WITHIN > 0
        low, high = (low, middle) if too_large else (middle, high)
    return min(
        map(with_ratio, range(max(10, low - 15), min(1000, low + 15) + 1)), key=lambda candidate: candidate.excess
    )


def choose_variant(b0: Genotype, blocks: list[int], n: int | None, se: bool) -> Variant:
    """The variant of equal size, with n dense layers or the first number of `LAYERS` for which sizes can be equal."""
    best = None
    for layers in LAYERS if n is None else (n,):
        candidate = variant_of_equal_size(b0, blocks, layers, se)
        if candidate.excess <= 1:
            return candidate
        best = candidate if best is None or candidate.excess < best.excess else best
    assert best is not None
    return best


def print_blocks(before: Genotype, after: Variant) -> None:
    """Print both networks block by block."""
    trees = [network_tree(genotype) for genotype in (before, after.genotype)]
    rows = []
    for name, node in trees[0].parts.items():
        if not name.startswith("stage"):
            rows.append([name, "", *_cells(node), *_cells(trees[1].parts[name])])
            continue
        for number, (stage, block) in enumerate(BLOCKS, start=1):
            if name == f"stage{stage}":
                parts = [tree.parts[name].parts[str(block)] for tree in trees]
                kind = "MBConv -> MDConv" if number in after.blocks else "MBConv"
                rows.append([f"block {number}", kind, *_cells(parts[0]), *_cells(parts[1])])
    rows.append(["all", "", *_cells(trees[0]), *_cells(trees[1])])
    header = ["part", "kind", "output", "params", "MACs", "output", "params", "MACs"]
    print_table(header, rows, right=(2, 3, 4, 5, 6, 7))


def _cells(node: TreeNode) -> list[str]:
    return ["x".join(map(str, node.shape)), f"{node.params:,}", f"{node.macs:,}"]


def outside(state: dict[str, torch.Tensor], blocks: list[int]) -> dict[str, torch.Tensor]:
    """The tensors of a network outside of some blocks."""
    own = tuple(f"stage{stage}.{block}.unit." for stage, block in (BLOCKS[number - 1] for number in blocks))
    return {name: tensor for name, tensor in state.items() if not name.startswith(own)}


def copy_weights(target: Network, source: Network, blocks: list[int]) -> tuple[int, list[str]]:
    """Copy weights from another network, except in some blocks and where shapes differ.

    Returns:
        The number of copied tensors, and the names of the others.
    """
    state, theirs = target.state_dict(), source.state_dict()
    ours = outside(state, blocks)
    same = {name: theirs[name] for name in ours if name in theirs and theirs[name].shape == ours[name].shape}
    target.load_state_dict(state | same)
    return len(same), [name for name in state if name not in same]


def check_shared(target: Network, source: Network, blocks: list[int]) -> None:
    """Check that all weights outside of some blocks are equal, bit for bit."""
    ours, theirs = (outside(network.state_dict(), blocks) for network in (target, source))
    if ours.keys() != theirs.keys() or not all(torch.equal(ours[name], theirs[name]) for name in ours):
        raise NasAggError("blocks that were not replaced differ")


@dataclass(frozen=True)
class Start:
    """The initial weights of both networks.

    Attributes:
        networks: B0 and its variant.
        names: Descriptions of each network's initial weights, for the summary.
        about: A description of the comparison.
    """

    networks: list[Network]
    names: list[str]
    about: str


def make_start(b0: Genotype, after: Variant, data: Data, recipe: Recipe, options: argparse.Namespace) -> Start:
    """Build both networks for a data set, with equal weights in all shared blocks."""
    genotypes = [genotype.with_task(data.input, data.classes) for genotype in (b0, after.genotype)]
    networks = [compile(genotype, options.seed, **recipe.compile_options) for genotype in genotypes]
    names = [f"random, seed {options.seed}", "as B0; MDConv random"]
    about = "equal, both random: only the MDConv blocks and those they replace have different random weights"
    if options.weights:
        pretrained = nas_agg.compile(b0, weights=options.weights)
        copied, new = copy_weights(networks[0], pretrained, [])
        print(
            f"B0: {copied} tensors from {options.weights}; random, because of other shapes: {', '.join(new) or 'none'}"
        )
        names = [Path(options.weights).name, "as B0; MDConv random"]
        about = (
            f"NOT equal: B0 starts from {options.weights} in all blocks, its variant in all but the MDConv blocks, "
            "which are random; the paper starts both at random (omit --weights)"
        )
    copied, new = copy_weights(networks[1], networks[0], after.blocks)
    check_shared(networks[1], networks[0], after.blocks)
    print(
        f"{copied} tensors of shared blocks are equal to B0's, bit for bit; {len(new)} tensors belong to MDConv blocks"
    )
    return Start(networks, names, about)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--blocks", default="8,9,10", help="MBConv blocks to replace, counted from 1 (default: 8,9,10)")
    parser.add_argument("--n", type=int, help="dense layers of each MDConv (default: 3 if sizes can be equal)")
    parser.add_argument("--se", choices=["on", "off"], default="on", help="squeeze-excitation in MDConv (default: on)")
    parser.add_argument(
        "--dataset", default="digits", help="data set as in nas_agg train, for example folder:PATH or cifar10"
    )
    parser.add_argument("--image-size", type=int, help="scale images to this side")
    parser.add_argument("--recipe", default="final", help="see nas_agg recipes (default: final)")
    parser.add_argument("--epochs", type=int, help="default: 15 on digits, else the recipe's")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--seed", type=int, default=0)
    weights = (
        "start from trained weights of EfficientNet-B0 (an unequal start): a file of torchvision's, a .safetensors "
    )
    parser.add_argument("--weights", help=f"{weights}file, or a name")
    parser.add_argument("--out", type=Path, help="folder for both networks: genotype.json and weights.safetensors")
    try:
        run(parser.parse_args())
    except NasAggError as error:
        print(f"efficientnet_mdconv: {error}", file=sys.stderr)
        sys.exit(error.status)


def check(options: argparse.Namespace) -> list[int]:
    """The numbers of the blocks to replace.

    Raises:
        InputError: An option is out of range.
    """
    if not all(
        part.isdecimal() and part.isascii() and len(part) < 3 and 1 <= int(part) <= len(BLOCKS)
        for part in options.blocks.split(",")
    ):
        raise InputError(
            f"--blocks: '{options.blocks}' is not a list of blocks from 1 to {len(BLOCKS)}; use for example 8,9,10"
        )
    if not 0 <= options.seed < 2**63:
        raise InputError("--seed: must be an integer from 0 to 2**63 - 1")
    if options.n is not None and not 0 <= options.n <= 6:
        raise InputError("--n: must be 0 to 6")
    return sorted({int(part) for part in options.blocks.split(",")})


def folders(out: Path | None) -> list[Path]:
    """The output folders of both networks; empty without ``--out``.

    Raises:
        InputError: A folder cannot be created.
    """
    paths = [out / name for name in ("b0", "b0-mdconv")] if out else []
    for folder in paths:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"--out: cannot create {folder}: {error.strerror}") from None
    return paths


def run(options: argparse.Namespace) -> None:
    blocks, out = check(options), folders(options.out)
    b0 = SPACE.point("b0")
    after = choose_variant(b0, blocks, options.n, options.se == "on")
    print(
        f"EfficientNet-B0, and with MDConv-{after.n} ({'with' if options.se == 'on' else 'no'} squeeze-excitation) "
        f"in place of blocks {options.blocks}: r_a = {float(after.ratio)}"
    )
    print_blocks(b0, after)
    print(f"{after.size}\n")

    data = load_data(options.dataset, options.seed, options.image_size, SPACE.min_input)
    device, recipe = pick_device(options.device), open_recipe(options.recipe)
    start = make_start(b0, after, data, recipe, options)
    epochs = options.epochs
    if epochs is None:
        epochs = 15 if options.dataset == "digits" else recipe.epochs
    images = len(data.train) + len(data.validation)
    print(f"training both on {data.name}, {images} images of {data.input}, {epochs} epochs of {recipe.name}")
    rows = []
    for k, (name, genotype) in enumerate((("EfficientNet-B0", b0), (f"with MDConv-{after.n}", after.genotype))):
        network, cost, task = start.networks[k], nas_agg.cost(genotype), genotype.with_task(data.input, data.classes)
        on = "train+validation"
        result = train(network, data, recipe, seed=options.seed, device=device, epochs=epochs, on=on, report=_report)
        test = evaluate(network, data.test, data, device)
        if out:
            write_atomic(out[k] / "genotype.json", task.to_json() + "\n")
            save_weights(network, out[k] / "weights.safetensors")
        print(f"{name}: {result.seconds:.0f} s")
        here = nas_agg.cost(task)
        sizes = [f"{cost.params:,}", f"{cost.macs / 1e6:.1f}M", f"{here.params:,}", f"{here.macs / 1e6:.2f}M"]
        rows.append([name, start.names[k], *sizes, *_errors(test)])
    print(f"\nsize: {after.size}\nstart: {start.about}")
    header = ["model", "start", f"params, {b0.classes} classes", "MACs at 224x224"]
    header += [f"params on {data.name}", "MACs", "test error (%)", "top-5 error (%)"]
    print_table(header[: len(rows[0])], rows, right=range(2, len(rows[0])))


def _errors(test: dict[str, Any]) -> list[str]:
    """Top-1 and, for more than 5 classes, top-5 error in percent."""
    return [f"{100 * (1 - test[name]):.2f}" for name in ("accuracy", "top5_accuracy") if name in test]


def _report(epoch: int, metrics: dict[str, Any]) -> bool:
    print(f"  epoch {epoch}: loss {metrics['train_loss']:.3f}, {metrics['images_per_second']:.0f} images/s", flush=True)
    return False


if __name__ == "__main__":
    main()
