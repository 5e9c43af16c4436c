"""Helper classes and functions, which emitted files contain if they use them."""

from __future__ import annotations

_HELPERS = {
    "InstanceNorm": '''class InstanceNorm(nn.GroupNorm):
    """Instance norm that also accepts a single image on a map of one pixel."""

    def forward(self, x):
        return torch.group_norm(x, self.num_groups, self.weight, self.bias)
''',
    "SE": '''class SE(nn.Module):
    """Squeeze-and-excitation: multiplies each channel by a gate computed from the averages of all channels."""

    def __init__(self, channels, squeeze):
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeeze, 1)
        self.excite = nn.Conv2d(squeeze, channels, 1)

    def forward(self, x):
        y = ACT(self.squeeze(F.adaptive_avg_pool2d(x, 1)))
        return x * GATE(self.excite(y))
''',
    "SE0": '''class SE(nn.Module):
    """Squeeze-and-excitation: multiplies each channel by a gate computed from the averages of all channels."""

    def __init__(self, channels, squeeze, act, gate):
        super().__init__()
        self.act, self.gate = act, gate
        self.squeeze = nn.Conv2d(channels, squeeze, 1) if squeeze else None
        self.excite = nn.Conv2d(squeeze or channels, channels, 1)

    def forward(self, x):
        y = F.adaptive_avg_pool2d(x, 1)
        if self.squeeze is not None:
            y = self.act(self.squeeze(y))
        return x * self.gate(self.excite(y))
''',
    "Slice": """class Slice(nn.Module):
    def __init__(self, first, last):
        super().__init__()
        self.first, self.last = first, last

    def forward(self, x):
        return x[:, self.first : self.last]
""",
    "Pad": '''class Pad(nn.Module):
    """Appends zero channels up to a number of channels."""

    def __init__(self, channels):
        super().__init__()
        self.channels = channels

    def forward(self, x):
        return F.pad(x, (0, 0, 0, 0, 0, self.channels - x.shape[1]))
''',
    "Shuffle": '''class Shuffle(nn.Module):
    """Channel shuffle between groups."""

    def __init__(self, groups):
        super().__init__()
        self.groups = groups

    def forward(self, x):
        return x.unflatten(1, (self.groups, -1)).transpose(1, 2).flatten(1, 2)
''',
    "ChannelMean": '''class ChannelMean(nn.Module):
    """The mean over all channels."""

    def forward(self, x):
        return x.mean(1, keepdim=True)
''',
    "ChannelMax": '''class ChannelMax(nn.Module):
    """The maximum over all channels."""

    def forward(self, x):
        return x.amax(1, keepdim=True)
''',
    "Times": '''class Times(nn.Module):
    """Multiplication by a fixed number."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return x * self.factor
''',
    "DropPath": '''class DropPath(nn.Module):
    """Stochastic depth: drops the whole maps of some images in training and scales the others."""

    def __init__(self, rate):
        super().__init__()
        self.rate = rate

    def forward(self, x):
        return F.dropout3d(x[None], self.rate, self.training)[0]
''',
    "named": '''def named(**layers):
    """A sequence of named layers."""
    return nn.Sequential(OrderedDict(layers))
''',
    "chain": '''def chain(*units):
    """A sequence of nodes."""
    return nn.Sequential(*(named(unit=unit) for unit in units))
''',
    "spaced": '''def spaced(features, base):
    """The features 1, base, base**2, ... steps back, oldest first."""
    steps = [base**k for k in range(len(features).bit_length()) if base**k <= len(features)]
    return [features[-step] for step in reversed(steps)]
''',
    "unfit": '''def unfit(sources, shapes, shape):
    """The sources whose shape differs from the given one, to which their entries in shapes are set."""
    result = [k for k in sources if shapes[k] != shape]
    for k in result:
        shapes[k] = shape
    return result
''',
    "mixed": '''def mixed(state, x, summed):
    """Adds the first channels of x to the first channels of the state and appends the others."""
    return torch.cat([state[:, :summed] + x[:, :summed], state[:, summed:], x[:, summed:]], 1)
''',
    "mixed_back": '''def mixed_back(state, x, summed):
    """Adds the first channels of x to the last channels of the state and appends the others."""
    first = state.shape[1] - summed
    return torch.cat([state[:, :first], state[:, first:] + x[:, :summed], x[:, summed:]], 1)
''',
    "mean": '''def mean(tensors):
    """The mean of some tensors."""
    return reduce(torch.add, tensors) / len(tensors)
''',
    "normed": '''def normed(x):
    """Group norm without parameters."""
    return torch.group_norm(x, math.gcd(32, x.shape[1]))
''',
    "weights": '''def weights(widths):
    """One weight per channel of each source."""
    return nn.ParameterList(torch.full((width, 1, 1), 1 / len(widths)) for width in widths)
''',
    "weights_from": '''def weights_from(start, widths):
    """One weight per channel of each source, with an initial value."""
    return nn.ParameterList(torch.full((width, 1, 1), float(start)) for width in widths)
''',
    "gates": '''def gates(widths):
    """One 1x1 convolution per source, which computes its gate."""
    return nn.ModuleList(nn.ModuleDict({"conv": nn.Conv2d(width, width, 1)}) for width in widths)
''',
    "gated": '''def gated(sources, gates):
    """Multiplies each source by a gate computed from its average."""
    pooled = [F.adaptive_avg_pool2d(source, 1) for source in sources]
    return [x * F.sigmoid(gate.conv(y)) for x, y, gate in zip(sources, pooled, gates)]
''',
}


def helpers(text: str, squeezes: set[tuple[str, str, bool]], single_squeeze: bool) -> list[str]:
    """The helpers that a file uses, each ahead of those that call it.

    Args:
        text: Its classes.
        squeezes: Its kinds of squeeze-and-excitation.
        single_squeeze: Whether these are one, with squeeze channels, whose activations need no arguments.
    """
    needed: list[str] = []
    for name, part in reversed(_HELPERS.items()):
        if name.startswith("SE"):
            if squeezes and (name == "SE") is single_squeeze:
                act, gate, _ = next(iter(squeezes))
                needed.insert(0, part.replace("ACT", act).replace("GATE", gate))
        elif f"{name}(" in "\n".join([text, *needed]):
            needed.insert(0, part)
    return needed
