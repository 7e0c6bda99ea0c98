"""Averages of the outputs of one fit. All state is on the device, so that a step needs no host."""

import torch
from torch import Tensor


class RunningMean:
    """Exponential moving average of the output: the paper's, with a decay of 0.99.

    The paper starts at the first output and so keeps 13 % of it after 200 iterations. Here the decay grows
    as (1 + t) / (10 + t) until it reaches its value (at t = 890 for 0.99), which short fits need and
    long ones do not notice.

    Args:
        decay: the weight of the past, in [0, 1); 0: `value` is the last output.
        like: an output, for shape and device.
    """

    uncertainty: Tensor | None = None

    def __init__(self, decay: float, like: Tensor) -> None:
        self.decay = decay
        self.value = torch.zeros_like(like)

    def update(self, tick: Tensor, x: Tensor) -> None:
        """Take the output of an iteration; `tick` counts from 0."""
        if self.decay == 0:
            self.value.copy_(x)
        else:
            self.value.lerp_(x, (9 / (10 + tick)).clamp(min=1 - self.decay) * (tick > 0) + (tick == 0))

    def state(self) -> dict[str, Tensor]:
        """What a resumed fit needs."""
        return {"value": self.value}


class Posterior(RunningMean):
    """Mean and deviation of outputs sampled after a burn-in: the posterior under Langevin noise.

    Until the first sample, the running mean stands in.

    Source: Cheng et al., *A Bayesian Perspective on the Deep Image Prior* (CVPR 2019): 7,000 iterations of
    burn-in, every 50th output of 20,000.
    """

    def __init__(self, decay: float, like: Tensor, burn_in: int, thinning: int) -> None:
        super().__init__(decay, like)
        self.burn_in, self.thinning = burn_in, thinning
        self.count = torch.zeros((), device=like.device)
        self.mean, self.squares = torch.zeros_like(like), torch.zeros_like(like)

    def update(self, tick: Tensor, x: Tensor) -> None:
        """Take the output of an iteration; Welford's update, with a weight of 0 where it is no sample."""
        past = tick + 1 - self.burn_in
        sample = ((past > 0) & (past % self.thinning == 0)).to(x.dtype)
        self.count += sample
        change = (x - self.mean) * sample
        self.mean += change / self.count.clamp(min=1)
        self.squares += change * (x - self.mean)
        super().update(tick, x)
        self.value.copy_(torch.where(self.count > 0, self.mean, self.value))

    @property
    def uncertainty(self) -> Tensor | None:  # type: ignore[override]
        """Standard deviation of the samples, value by value; None for fewer than two."""
        return (self.squares / (self.count - 1)).sqrt() if float(self.count) > 1 else None

    def state(self) -> dict[str, Tensor]:
        """What a resumed fit needs."""
        return super().state() | {"count": self.count, "mean": self.mean, "squares": self.squares}
