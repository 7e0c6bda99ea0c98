"""The published optimisation loop, kept as it was: what the engine is measured against."""

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from dipsearch.fitting.recipe import Recipe
from dipsearch.genome import Genome
from dipsearch.network.build import build
from dipsearch.network.inputs import network_input
from dipsearch.seed import seed_of

SHOW_EVERY = 100  # iterations between the original's looks at whether it has to fall back


class PaperLoop:
    """float32, contiguous, eager; Adam; three PSNRs on the host in every iteration; falls back by 5 dB.

    Network, weights, z and noise are drawn as the engine draws them, so that a seed means the same fit. Two
    things differ from the original: the decay of the averaged output starts low, as the engine's does
    (`dipsearch.fitting.averaging`), so that what is compared is the arithmetic; and it looks whether to fall back at
    every hundredth iteration, where the notebook does so at all the others.

    Source: Ulyanov et al., *Deep Image Prior* (IJCV 2020), the released denoising notebook.
    """

    def __init__(
        self,
        genome: Genome,
        y: Tensor,
        operator: Callable[[Tensor], Tensor],
        truth: Tensor,
        recipe: Recipe,
        seed: int,
        device: str = "cpu",
    ) -> None:
        self.y, self.operator, self.recipe = y.to(device), operator, recipe
        self.noisy, self.clean = y[0].numpy(), truth[0].numpy()
        self.net: nn.Module = build(genome, y.shape[1], seed=seed_of(seed, "weights")).to(device)
        height, width = truth.shape[-2:]
        if self.net.size_rule.padded(height, width) != (height, width):
            raise ValueError(f"{width}x{height} is not a size that {genome.summary()} gives back")
        generator = torch.Generator().manual_seed(seed_of(seed, "z"))
        self.saved = network_input(genome, height, width, generator).to(device)
        self.noise = self.saved.detach().clone()
        self.generator = torch.Generator(device).manual_seed(seed_of(seed, "input noise"))
        self.optimiser = torch.optim.Adam(self.net.parameters(), lr=recipe.learning_rate)
        self.mse = nn.MSELoss()
        self.average: Tensor | None = None
        self.iteration = 0
        self.psnr = (0.0, 0.0, 0.0)  # to the observation, of the output, of the averaged output
        self._last: tuple[float, dict[str, Tensor]] = (0.0, {})

    def step(self) -> float:
        """One iteration; the loss."""
        self.optimiser.zero_grad()
        z = self.saved
        if self.recipe.input_noise > 0:
            z = self.saved + self.noise.normal_(generator=self.generator) * self.recipe.input_noise
        out = self.net(z)
        if self.average is None or not self.recipe.averaging:
            self.average = out.detach().clone()
        else:
            decay = min(self.recipe.averaging, (1 + self.iteration) / (10 + self.iteration))
            self.average = self.average * decay + out.detach() * (1 - decay)
        fitted = self.operator(out)
        loss = self.mse(fitted, self.y)
        loss.backward()
        host = out.detach().cpu().numpy()[0]
        self.psnr = (
            _psnr(self.noisy, fitted.detach().cpu().numpy()[0]),
            _psnr(self.clean, host),
            _psnr(self.clean, self.average.cpu().numpy()[0]),
        )
        if self.iteration % SHOW_EVERY == 0:
            self._fall_back_or_keep()
        self.optimiser.step()
        self.iteration += 1
        return loss.item()

    def _fall_back_or_keep(self) -> None:
        fit, weights = self._last
        if weights and self.psnr[0] - fit < -5:
            self.net.load_state_dict(weights)
        else:
            self._last = (self.psnr[0], copy.deepcopy(self.net.state_dict()))


def _psnr(a: np.ndarray, b: np.ndarray) -> float:
    """As scikit-image's `peak_signal_noise_ratio` with a data range of 1: float64 for the mean."""
    return float(10 * np.log10(1 / np.mean((a - b) ** 2, dtype=np.float64)))
