"""Averages of the outputs of one fit."""

from torch import Tensor


class RunningMean:
    """Exponential moving average of the output: the paper's, with a decay of 0.99.

    The paper starts at the first output and so keeps 13 % of it after 200 iterations. Here the decay grows
    as (1 + t) / (10 + t) until it reaches its value (at t = 890 for 0.99), which short fits need and
    long ones do not notice.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.value: Tensor | None = None
        self._count = 0

    def update(self, x: Tensor) -> Tensor:
        """Take an output, give the average; the output itself for a decay of 0."""
        x = x.detach()
        if self.value is None or self.decay == 0:
            self.value = x.clone()
        else:
            decay = min(self.decay, (1 + self._count) / (10 + self._count))
            self.value.lerp_(x, 1 - decay)
        self._count += 1
        return self.value
