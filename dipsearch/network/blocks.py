"""The small parts every family is made of: convolution, normalisation, activation.

Semantics follow the code of Ulyanov et al., *Deep Image Prior* (IJCV 2020).
"""

from collections.abc import Callable
from typing import Literal

from torch import nn

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "leaky-relu": lambda: nn.LeakyReLU(0.2, inplace=True),
    "relu": lambda: nn.ReLU(inplace=True),
    "swish": lambda: nn.SiLU(inplace=True),
    "elu": lambda: nn.ELU(inplace=True),
    "none": nn.Identity,
}

# With one picture in the batch, batch norm in training mode uses that picture's own statistics: it
# differs from "instance" by its learned scale and shift. "instance" has neither, as in the paper's U-Net.
NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "instance": nn.InstanceNorm2d,
    "none": lambda channels: nn.Identity(),
}

# name -> torch's `padding_mode`
PADDINGS: dict[str, Literal["reflect", "zeros"]] = {"reflect": "reflect", "zero": "zeros"}


def conv(
    channels_in: int,
    channels_out: int,
    kernel: int,
    *,
    stride: int = 1,
    bias: bool = True,
    padding: str = "reflect",
) -> nn.Conv2d:
    """A size-keeping (for stride 1) convolution with an odd `kernel` and the named padding."""
    return nn.Conv2d(
        channels_in,
        channels_out,
        kernel,
        stride=stride,
        padding=kernel // 2,
        padding_mode=PADDINGS[padding],
        bias=bias,
    )


def conv_block(
    channels_in: int,
    channels_out: int,
    kernel: int,
    *,
    norm: str,
    activation: str,
    padding: str,
    stride: int = 1,
    after: nn.Module | None = None,
) -> nn.Sequential:
    """Convolution, then `after` (a resampling step, if any), then norm, then activation.

    The convolution keeps its bias in front of a norm, which would absorb it: the paper's networks
    have it, and their parameter counts include it.
    """
    parts: list[nn.Module] = [conv(channels_in, channels_out, kernel, stride=stride, padding=padding)]
    if after is not None:
        parts.append(after)
    parts += [NORMS[norm](channels_out), ACTIVATIONS[activation]()]
    return nn.Sequential(*parts)
