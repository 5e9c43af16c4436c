"""A network as the backbone of torchvision's Faster R-CNN with a feature pyramid, trained on synthetic images.

    python examples/backbone_detection.py                                          # ResNet-50, no download
    python examples/backbone_detection.py dsnet/ds2net50 --steps 20 --size 256
    python examples/backbone_detection.py runs/mine --weights runs/mine/best/weights.safetensors

The images are grey noise with coloured rectangles; the class of a box is its colour. Prints the stages that feed the
pyramid and the loss of each step.
"""

from __future__ import annotations

import argparse
import sys
from collections import OrderedDict

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

import nas_agg
from nas_agg.common.errors import NasAggError
from nas_agg.compiler.backbone import Backbone

COLOURS = torch.tensor([[1.0, 0.1, 0.1], [0.1, 1.0, 0.1], [0.1, 0.1, 1.0]])


class Pyramid(nn.Module):
    """A feature pyramid on the last four stages of a backbone, with an additional pooled level.

    Args:
        backbone: The backbone.
        out_channels: Channels of all levels.
    """

    def __init__(self, backbone: Backbone, out_channels: int = 256):
        super().__init__()
        self.backbone, self.out_channels = backbone, out_channels
        self.stages = list(backbone.channels)[-4:]
        channels = [backbone.channels[name] for name in self.stages]
        self.pyramid = FeaturePyramidNetwork(channels, out_channels, extra_blocks=LastLevelMaxPool())

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps = self.backbone(images)
        return self.pyramid(OrderedDict((name, maps[name]) for name in self.stages))


def detector(backbone: Backbone, size: int) -> FasterRCNN:
    """Faster R-CNN on a backbone, for images of one size."""
    pyramid = Pyramid(backbone)
    strides = [backbone.strides[name] for name in pyramid.stages]
    sides = [*(8 * stride for stride in strides), 16 * strides[-1]]  # of anchors: 32 to 512 pixels at strides 4 to 64
    return FasterRCNN(
        pyramid,
        num_classes=1 + len(COLOURS),
        min_size=size,
        max_size=size,
        rpn_anchor_generator=AnchorGenerator(tuple((side,) for side in sides), ((0.5, 1.0, 2.0),) * len(sides)),
        box_roi_pool=MultiScaleRoIAlign(pyramid.stages, output_size=7, sampling_ratio=2),
        box_batch_size_per_image=64,
    )


def synthetic_images(count: int, size: int, generator: torch.Generator) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Images with coloured rectangles, and their boxes and labels."""
    images, targets = [], []
    for _ in range(count):
        image = 0.4 + 0.1 * torch.rand(3, size, size, generator=generator)
        labels = torch.randint(len(COLOURS), (3,), generator=generator)
        sides = torch.randint(size // 6, size // 2, (3, 2), generator=generator)
        corners = (torch.rand(3, 2, generator=generator) * (size - sides)).long()
        for label, (x, y), (w, h) in zip(labels, corners, sides, strict=True):
            image[:, y : y + h, x : x + w] = COLOURS[label][:, None, None]
        images.append(image)
        targets.append({"boxes": torch.cat([corners, corners + sides], 1).float(), "labels": labels + 1})
    return images, targets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "genotype", nargs="?", default="residual/resnet50", help="genotype: a file, a named point or a run folder"
    )
    parser.add_argument("--weights", help="weights of the whole network")
    parser.add_argument("--size", type=int, default=128, help="side of images in pixels")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    backbone = nas_agg.compile(options.genotype, options.seed, options.weights, features=True)
    model = detector(backbone, options.size)
    for name in model.backbone.stages:
        print(f"{name:>9}: {backbone.channels[name]:5} channels")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.005, momentum=0.9, weight_decay=1e-4)
    generator = torch.Generator().manual_seed(options.seed)
    model.train()
    for step in range(1, options.steps + 1):
        losses = model(*synthetic_images(2, options.size, generator))
        loss = sum(losses.values())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        parts = ", ".join(f"{name.removeprefix('loss_')} {value.item():.3f}" for name, value in losses.items())
        print(f"step {step}: loss {loss.item():.3f} ({parts})")
    model.eval()
    with torch.no_grad():
        images, _ = synthetic_images(1, options.size, generator)
        print(f"inference on a new image: {len(model(images)[0]['boxes'])} boxes found")


if __name__ == "__main__":
    try:
        main()
    except NasAggError as error:
        sys.exit(f"backbone_detection: {error}")
