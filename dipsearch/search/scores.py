"""Zero-cost scores: what can be said of a genome from its untrained network. Higher should mean better.

They are a screen only where DIPBench says so: parameters and GFLOP are the null proxies to beat.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dipsearch.fitting.loop import typed_failures
from dipsearch.genome import Genome
from dipsearch.network.build import build
from dipsearch.network.inputs import network_input
from dipsearch.network.size import centre_crop
from dipsearch.seed import seed_of
from dipsearch.task import Observation

STRIP = (0.05, 0.10)  # cycles per pixel: the annulus of ISNAS-DIP
DRAWS = 4  # of each kind of random picture
BLUR = 2.0  # pixels: standard deviation of the filter that makes smooth random pictures


@dataclass(frozen=True)
class Untrained:
    """An untrained network's parameters and output (1, C, H, W) for an observation, as a fit would begin with."""

    net: nn.Module
    x: Tensor
    instance: Observation
    generator: torch.Generator

    def gradient(self, picture: Tensor) -> list[Tensor]:
        """J^T v, parameter by parameter: the gradient of the inner product of the output and a picture v."""
        return _gradient((self.x * picture).sum(), self.net)

    def speed(self, picture: Tensor) -> float:
        """v^T J J^T v of a picture of norm 1: how fast a small gradient step moves the output along it."""
        unit = picture / picture.norm()
        return float(sum(part.square().sum() for part in self.gradient(unit)))

    def white(self) -> Tensor:
        """A picture of white noise."""
        return torch.randn(self.x.shape, generator=self.generator)


def psd(untrained: Untrained) -> float:
    """Minus the mean square difference of the power spectral densities of observation and output, in units of
    10 ln (ISNAS-DIP, Arican et al., CVPR 2022, `psd db mse`)."""
    return -float(_differences(untrained).mean())


def psd_strip(untrained: Untrained) -> float:
    """As `psd`, on the annulus of 0.05 to 0.10 cycles per pixel (ISNAS-DIP's `psd db strip mse`)."""
    differences = _differences(untrained)
    radius = _radius(differences)
    return -float(differences[..., (radius >= STRIP[0]) & (radius <= STRIP[1])].mean())


def bandwidth(untrained: Untrained) -> float:
    """Minus the radius, in cycles per pixel, that holds 99 % of the output's energy (ISNAS-DIP's `psd 99_per_bw`)."""
    power = _spectrum(untrained.x.detach()).mean((0, 1)).flatten()
    radius = _radius(untrained.x).flatten()
    order = radius.argsort()
    share = power[order].cumsum(0) / power.sum()
    return -float(radius[order][(share < 0.99).sum().clamp(max=len(order) - 1)])


def smoothness(untrained: Untrained) -> float:
    """The share of the output's energy, its mean left out, below 0.1 cycles per pixel."""
    power = _spectrum(untrained.x.detach()).mean((0, 1))
    radius = _radius(untrained.x)
    return float(power[(radius > 0) & (radius <= STRIP[1])].sum() / power[radius > 0].sum())


def gradient_norm(untrained: Untrained) -> float:
    """The logarithm of the norm of the loss's gradient."""
    return float(torch.stack([part.square().sum() for part in _loss_gradient(untrained)]).sum().sqrt().log())


def snip(untrained: Untrained) -> float:
    """The logarithm of the sum of |weight x gradient| of the loss (SNIP, Lee et al., ICLR 2019)."""
    parameters = [each for each in untrained.net.parameters() if each.requires_grad]
    parts = zip(parameters, _loss_gradient(untrained), strict=True)
    return float(torch.stack([(each.detach() * part).abs().sum() for each, part in parts]).sum().log())


def noise_speed(untrained: Untrained) -> float:
    """Minus the logarithm of the speed (neural tangent kernel) at which the network would begin to fit white noise."""
    return -_mean_log([untrained.speed(untrained.white()) for _ in range(DRAWS)])


def spectral_bias(untrained: Untrained) -> float:
    """The logarithm of how much faster the network would begin to fit smooth random pictures than white noise."""
    smooth = [untrained.speed(_blurred(untrained.white())) for _ in range(DRAWS)]
    return _mean_log(smooth) + noise_speed(untrained)


def picture_bias(untrained: Untrained) -> float:
    """As `spectral_bias`, with the observation itself, its mean left out; where it is not of the output's shape
    (super-resolution), it is enlarged."""
    y = untrained.instance.y
    y = F.interpolate(y, untrained.x.shape[-2:], mode="bilinear") if y.shape != untrained.x.shape else y
    return _mean_log([untrained.speed(y - y.mean((2, 3), keepdim=True))]) + noise_speed(untrained)


SCORES: dict[str, Callable[[Untrained], float]] = {
    "psd": psd,
    "psd-strip": psd_strip,
    "bandwidth": bandwidth,
    "smoothness": smoothness,
    "gradient-norm": gradient_norm,
    "snip": snip,
    "noise-speed": noise_speed,
    "spectral-bias": spectral_bias,
    "picture-bias": picture_bias,
}


def untrained(genome: Genome, instance: Observation) -> Untrained:
    """The network that a fit of this genome to this observation begins with."""
    channels, height, width = instance.shape
    net = build(genome, channels, seed=seed_of(instance.seed, "weights"))
    generator = torch.Generator().manual_seed(seed_of(instance.seed, "z"))
    z = network_input(genome, *net.size_rule.padded(height, width), generator)
    return Untrained(net, centre_crop(net(z), height, width), instance, _probes(instance))


def score(name: str, genome: Genome, instance: Observation) -> float:
    """One score of a genome on an observation; OutOfMemory where it does not fit."""
    with typed_failures(genome):
        return SCORES[name](untrained(genome, instance))


def scores(genome: Genome, instance: Observation) -> dict[str, float]:
    """Every score of a genome on an observation, by name."""
    start = untrained(genome, instance)  # one network: no score changes it
    return {name: score(replace(start, generator=_probes(instance))) for name, score in SCORES.items()}


def _probes(instance: Observation) -> torch.Generator:
    return torch.Generator().manual_seed(seed_of(instance.seed, "probes"))


def _loss_gradient(untrained: Untrained) -> list[Tensor]:
    loss = (untrained.instance.operator(untrained.x) - untrained.instance.y).square().mean()
    return _gradient(loss, untrained.net)


def _gradient(value: Tensor, net: nn.Module) -> list[Tensor]:
    parameters = [each for each in net.parameters() if each.requires_grad]
    return list(torch.autograd.grad(value, parameters, retain_graph=True, materialize_grads=True))


def _spectrum(x: Tensor) -> Tensor:
    """|FFT|^2 of each channel, with the mean at index (0, 0)."""
    return torch.fft.fft2(x.double(), norm="forward").abs().square()  # type: ignore[no-any-return]


def _differences(untrained: Untrained) -> Tensor:
    """Squared differences of spectra, in units of 10 ln."""
    y = untrained.instance.y
    output = untrained.instance.operator(untrained.x.detach())
    decibels = [10 * (_spectrum(each) + 1e-20).log() for each in (y, output)]
    return (decibels[0] - decibels[1]).square()


def _radius(x: Tensor) -> Tensor:
    """Cycles per pixel of each entry of a spectrum, (H, W)."""
    rows, columns = (torch.fft.fftfreq(side, dtype=torch.float64) for side in x.shape[-2:])
    return torch.hypot(rows[:, None], columns)


def _blurred(x: Tensor) -> Tensor:
    reach = int(3 * BLUR)
    line = torch.exp(-(torch.arange(-reach, reach + 1) ** 2) / (2 * BLUR**2))
    line = (line / line.sum()).expand(x.shape[1], 1, 1, -1)
    padded = F.pad(x, (reach, reach, reach, reach), mode="reflect")
    once = F.conv2d(padded, line, groups=x.shape[1])
    twice: Tensor = F.conv2d(once, line.transpose(2, 3), groups=x.shape[1])
    return twice


def _mean_log(values: list[float]) -> float:
    return float(torch.tensor(values).clamp(min=1e-30).log().mean())
