"""The graph's operations: one small class each, with its shape, cost and form in PyTorch.

A shape is ``(channels, height, width)`` of one image. Torch is not imported: an operation gives the ``torch.nn`` module
it is (`Primitive.module`) or the expression that computes it (`Primitive.call`), and the compiler builds from that.
"""

from nas_agg.graph.primitives.base import (
    MAX_CHANNELS,
    MAX_KERNEL,
    MAX_SIDE,
    Input,
    Primitive,
    SavedTensors,
    Shape,
    format_shape,
)
from nas_agg.graph.primitives.channels import Pad, Shuffle, Slice
from nas_agg.graph.primitives.elementwise import ACTIVATIONS, Act, Dropout, DropPath, Times
from nas_agg.graph.primitives.joins import Add, Cat, Mean, Mul, Product, broadcastable
from nas_agg.graph.primitives.layers import Conv, Linear, Norm, Scale
from nas_agg.graph.primitives.pooling import AdaptivePool, AvgPool, ChannelMax, ChannelMean, Gap, Gmp, MaxPool

__all__ = [
    "ACTIVATIONS",
    "MAX_CHANNELS",
    "MAX_KERNEL",
    "MAX_SIDE",
    "Act",
    "AdaptivePool",
    "Add",
    "AvgPool",
    "Cat",
    "ChannelMax",
    "ChannelMean",
    "Conv",
    "DropPath",
    "Dropout",
    "Gap",
    "Gmp",
    "Input",
    "Linear",
    "MaxPool",
    "Mean",
    "Mul",
    "Norm",
    "Pad",
    "Primitive",
    "Product",
    "SavedTensors",
    "Scale",
    "Shape",
    "Shuffle",
    "Slice",
    "Times",
    "broadcastable",
    "format_shape",
]
