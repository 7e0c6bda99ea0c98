"""The small parts every family is made of: convolution, normalisation, activation.

Semantics follow the code of Ulyanov et al., *Deep Image Prior* (IJCV 2020).
"""

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn

from dipsearch.network.convolution import Convolution
from dipsearch.network.normalisation import BatchNorm, InstanceNorm, UniformBatchNorm
from dipsearch.network.pending import Pending, pending

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "leaky-relu": lambda: nn.LeakyReLU(0.2, inplace=True),
    "relu": lambda: nn.ReLU(inplace=True),
    "swish": nn.SiLU,  # in place, torch would copy its input first, which the gradient needs
    "elu": lambda: nn.ELU(inplace=True),
    "none": nn.Identity,
}

# With one picture in the batch, batch norm uses that picture's own statistics: it differs from "instance"
# by its learned scale and shift. "instance" has neither, as in the paper's U-Net. Neither keeps running
# statistics, which nothing would read, so that a network is the same in training and evaluation mode.
NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": BatchNorm,
    "batch-uniform": UniformBatchNorm,
    "instance": InstanceNorm,
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
) -> Convolution:
    """A size-keeping (for stride 1) convolution with an odd `kernel` and the named padding."""
    return Convolution(
        channels_in,
        channels_out,
        kernel,
        stride=stride,
        padding=kernel // 2,
        padding_mode=PADDINGS[padding],
        bias=bias,
    )


class ConvBlock(nn.Module):
    """Convolution, then `after` (a resampling step, if any), then norm, then activation.

    The convolution keeps its bias in front of a norm, which would absorb it: the paper's networks
    have it, and their parameter counts include it.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: int,
        *,
        norm: str,
        activation: str,
        padding: str,
        stride: int = 1,
        bias: bool = True,
        after: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.conv = conv(channels_in, channels_out, kernel, stride=stride, bias=bias, padding=padding)
        finish = [NORMS[norm](channels_out), ACTIVATIONS[activation]()]
        if norm == "none" and hasattr(finish[1], "inplace"):
            finish[1].inplace = False  # type: ignore[assignment]  # the convolution's output may be kept
        self.finish = nn.Sequential(*finish if after is None else [after, *finish])

    def forward(self, x: Tensor | Pending) -> Pending:
        """NCHW to NCHW; what follows the convolution is left to whoever needs it."""
        return pending(self.conv(x)).then(self.finish)
