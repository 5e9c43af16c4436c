"""EfficientNet-B0 with MBConv blocks replaced by MDConv-n of the same size, side by side with the original.

    python examples/efficientnet_mdconv.py                                     # digits, no download, some 2 minutes
    python examples/efficientnet_mdconv.py --dataset folder:./photos --image-size 224 --device cuda \
        --weights efficientnet_b0_rwightman-7f5810bc.pth --recipe microdense-imagenet --out mdconv

Prints the blocks of both networks, which weights stay as they are, and, after both were trained under equal
conditions, a table like the paper's Table 5. Without --weights both start from the same random ones.
"""

from __future__ import annotations

import argparse
import os
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # read when torch is loaded: a busy machine's cores are not waited for

import torch

import nas_agg
from nas_agg.compiler import Network, save_weights
from nas_agg.console import print_table
from nas_agg.errors import InputError, NasAggError
from nas_agg.files import write_atomic
from nas_agg.genotype import Genotype
from nas_agg.report.tree import Branch, network_tree
from nas_agg.space import open_space
from nas_agg.training.data import load_data
from nas_agg.training.loop import evaluate, pick_device, train
from nas_agg.training.recipes import get_recipe

SPACE = open_space("efficientnet")
STAGES = (1, 2, 2, 3, 3, 4, 1)  # blocks of each
PLACES = [(stage, block) for stage, count in enumerate(STAGES, start=1) for block in range(count)]


def path(number: int) -> str:
    """Where block `number`, counted from 1, stands in the network."""
    stage, block = PLACES[number - 1]
    return f"stage{stage}.{block}.unit"


def replaced(b0: Genotype, blocks: list[int], n: int, ratio: Fraction) -> Genotype:
    """The network with MDConv-n, compressed by r_a = ratio, in the place of some blocks."""
    text = b0.text()
    let: dict[str, Any] = dict(text["let"])
    for number in blocks:
        let |= {f"block{number}": "mdconv", f"layers{number}": n, f"ratio{number}": float(ratio)}
    return Genotype.read(text | {"let": let})


def solved(b0: Genotype, blocks: list[int], n: int) -> tuple[Fraction, Genotype]:
    """The r_a, in thousandths, whose network comes nearest to the original's parameters (then to its MACs)."""
    params, macs = nas_agg.cost(b0).params, nas_agg.cost(b0).macs

    def distance(thousandths: int) -> tuple[int, int]:
        cost = nas_agg.cost(replaced(b0, blocks, n, Fraction(thousandths, 1000)))
        return abs(cost.params - params), abs(cost.macs - macs)

    # Parameters grow with r_a: halve the range, then look at the neighbourhood, where whole channels make steps.
    low, high = 10, 1000
    while high - low > 1:
        middle = (low + high) // 2
        more = nas_agg.cost(replaced(b0, blocks, n, Fraction(middle, 1000))).params > params
        low, high = (low, middle) if more else (middle, high)
    best = min(range(max(10, low - 15), min(1000, low + 15) + 1), key=distance)
    return Fraction(best, 1000), replaced(b0, blocks, n, Fraction(best, 1000))


def print_blocks(before: Genotype, after: Genotype, blocks: list[int]) -> None:
    """Both networks block by block."""
    trees = [network_tree(genotype) for genotype in (before, after)]
    rows = []
    for name, branch in trees[0].parts.items():
        if not name.startswith("stage"):
            rows.append([name, "", *_cells(branch), *_cells(trees[1].parts[name])])
            continue
        for number, (stage, block) in enumerate(PLACES, start=1):
            if name == f"stage{stage}":
                parts = [tree.parts[name].parts[str(block)] for tree in trees]
                kind = "MBConv -> MDConv" if number in blocks else "MBConv"
                rows.append([f"block {number}", kind, *_cells(parts[0]), *_cells(parts[1])])
    rows.append(["all", "", *_cells(trees[0]), *_cells(trees[1])])
    header = ["part", "kind", "output", "params", "MACs", "output", "params", "MACs"]
    print_table(header, rows, right=(2, 3, 4, 5, 6, 7))


def _cells(branch: Branch) -> list[str]:
    return ["x".join(map(str, branch.shape)), f"{branch.params:,}", f"{branch.macs:,}"]


def take(target: Network, source: Network, blocks: list[int]) -> tuple[int, list[str]]:
    """Gives a network another's weights, but for its own blocks and what has another shape.

    Returns:
        How many tensors were taken, and the names of those that were not.
    """
    own = tuple(f"{path(number)}." for number in blocks)
    state, theirs = target.state_dict(), source.state_dict()
    same = {
        name: theirs[name]
        for name, tensor in state.items()
        if name in theirs and theirs[name].shape == tensor.shape and not name.startswith(own)
    }
    target.load_state_dict(state | same)
    return len(same), [name for name in state if name not in same]


def check_kept(target: Network, source: Network, blocks: list[int]) -> None:
    """Compares all weights outside of the replaced blocks, bit for bit."""
    own = tuple(f"{path(number)}." for number in blocks)
    ours, theirs = ({k: v for k, v in n.state_dict().items() if not k.startswith(own)} for n in (target, source))
    if ours.keys() != theirs.keys() or not all(torch.equal(ours[name], theirs[name]) for name in ours):
        raise NasAggError("the blocks that were not replaced differ")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--blocks", default="8,9,10", help="MBConv blocks to replace, counted from 1 (default: 8,9,10)")
    parser.add_argument("--n", type=int, default=3, help="dense layers of each MDConv (default: 3)")
    parser.add_argument("--dataset", default="digits", help="as in nas_agg train, such as folder:PATH or cifar10")
    parser.add_argument("--image-size", type=int, help="side that images are scaled to")
    parser.add_argument("--recipe", default="final", help="see nas_agg recipes")
    parser.add_argument("--epochs", type=int, help="default: 15 on digits, else the recipe's")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--weights", help="of EfficientNet-B0: a torchvision file, a .safetensors file, or a name")
    parser.add_argument("--out", type=Path, help="folder for both networks: genotype.json and weights.safetensors")
    try:
        run(parser.parse_args())
    except NasAggError as error:
        print(f"efficientnet_mdconv: {error}", file=sys.stderr)
        sys.exit(error.status)


def run(options: argparse.Namespace) -> None:
    if not all(
        part.isdecimal() and part.isascii() and len(part) < 3 and 1 <= int(part) <= len(PLACES)
        for part in options.blocks.split(",")
    ):
        raise InputError(
            f"--blocks: '{options.blocks}' is not a list of blocks from 1 to {len(PLACES)}, such as 8,9,10"
        )
    if not 0 <= options.seed < 2**63:
        raise InputError("--seed: give a whole number from 0 to 2**63 - 1")
    names = ["EfficientNet-B0", f"Micro-Dense-EfficientNet-B0 (MDConv-{options.n})"]
    folders = [options.out / name for name in ("b0", "b0-mdconv")] if options.out else []
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"--out: {folder} cannot be made: {error.strerror}") from None
    blocks = sorted({int(part) for part in options.blocks.split(",")})
    if not 0 <= options.n <= 6:
        raise InputError("--n: give 0 to 6 dense layers")
    b0 = SPACE.point("b0")
    ratio, mdconv = solved(b0, blocks, options.n)
    costs = [nas_agg.cost(genotype) for genotype in (b0, mdconv)]
    print(f"EfficientNet-B0, and with MDConv-{options.n} in the place of blocks {options.blocks}: r_a = {float(ratio)}")
    print_blocks(b0, mdconv, blocks)
    params, macs = (100 * (getattr(costs[1], name) / getattr(costs[0], name) - 1) for name in ("params", "macs"))
    print(f"params {params:+.2f} %, MACs {macs:+.2f} %\n")

    data = load_data(options.dataset, options.seed, options.image_size, SPACE.min_input)
    device, recipe = pick_device(options.device), get_recipe(options.recipe)
    genotypes = [genotype.with_task(data.input, data.classes) for genotype in (b0, mdconv)]
    networks = [nas_agg.compile(genotype, seed=options.seed) for genotype in genotypes]
    if options.weights:
        pretrained = nas_agg.compile(b0, weights=options.weights)
        taken, new = take(networks[0], pretrained, [])
        print(f"B0 takes {taken} tensors from {options.weights}; new, of other shapes: {', '.join(new) or 'none'}")
    taken, new = take(networks[1], networks[0], blocks)
    check_kept(networks[1], networks[0], blocks)
    print(f"{taken} tensors of the untouched blocks are B0's, bit for bit; {len(new)} are the MDConv blocks' own")

    epochs = options.epochs
    if epochs is None:
        epochs = 15 if options.dataset == "digits" else recipe.epochs
    images = len(data.train) + len(data.validation)
    print(f"training both on {data.name}, {images} images of {data.input}, {epochs} epochs of {recipe.name}")
    rows = []
    for k, (name, cost, genotype, network) in enumerate(zip(names, costs, genotypes, networks, strict=True)):
        on = "train+validation"
        result = train(network, data, recipe, seed=options.seed, device=device, epochs=epochs, on=on, report=_told)
        test = evaluate(network, data.test, data, device)
        if folders:
            write_atomic(folders[k] / "genotype.json", genotype.to_json() + "\n")
            save_weights(network, folders[k] / "weights.safetensors")
        print(f"{name}: {result.seconds:.0f} s")
        error = f"{100 * (1 - test['accuracy']):.2f}"
        here = nas_agg.cost(genotype).params
        rows.append([name, f"{cost.params / 1e6:.1f}M", f"{cost.macs / 1e9:.1f}G", f"{here:,}", error])
    print()
    header = ["model", f"params, {b0.classes} classes", "FLOPs at 224x224", f"params on {data.name}", "test error (%)"]
    print_table(header, rows, right=(1, 2, 3, 4))


def _told(epoch: int, metrics: dict[str, Any]) -> bool:
    print(f"  epoch {epoch}: loss {metrics['train_loss']:.3f}, {metrics['images_per_second']:.0f} images/s", flush=True)
    return False


if __name__ == "__main__":
    main()
