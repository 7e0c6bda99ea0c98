"""All learned numbers of a network in one vector."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from dipsearch.error import UsageError
from dipsearch.network.build import PRECISIONS

ADAM: dict[str, Any] = {"amsgrad": False, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "maximize": False}  # as torch's


class Weights:
    """Float32 master weights of a network and Adam on them, in one contiguous vector each.

    The network's parameters become views (channels-last) of the vector, so that the optimiser, a snapshot
    and a rollback are one call each, whatever the number of layers. In bfloat16, convolutions hold a rounded
    copy of their part; norms stay in float32 (their sums would lose too much).

    One vector also makes Adam's fused kernel safe: on the CPU it silently mis-steps where a weight and its
    gradient differ in memory format.

    Args:
        net: on its device; its parameters are replaced in place.
        precision: a name in `PRECISIONS`.
        learning_rate: of Adam.
        decay: Adam's weight decay.
        noise: standard deviation of the noise added to all convolution kernels after a step, in units of
            the learning rate: stochastic gradient Langevin dynamics as in Cheng et al. (CVPR 2019) for 2.
        generator: of that noise.

    Raises:
        UsageError: the network has no learned number.
    """

    def __init__(
        self,
        net: nn.Module,
        precision: str,
        *,
        learning_rate: float,
        decay: float = 0.0,
        noise: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        of_norms = {
            id(parameter)
            for module in net.modules()
            if isinstance(module, nn.BatchNorm2d | nn.InstanceNorm2d)
            for parameter in module.parameters()
        }

        def group(parameter: nn.Parameter) -> int:
            return 2 if id(parameter) in of_norms else 0 if parameter.ndim == 4 else 1

        parameters = sorted(net.parameters(), key=group)  # kernels, biases, norms
        if not parameters:
            raise UsageError("the network has nothing to learn")
        counts = [sum(p.numel() for p in parameters if group(p) == g) for g in range(3)]
        self.kernels = counts[0]
        self.master = torch.cat([_flat(parameter.detach()) for parameter in parameters]).float()
        self.grad = torch.zeros_like(self.master)
        rounded = counts[0] + counts[1] if precision != "float32" else 0
        self._low = self.master[:rounded].to(PRECISIONS[precision])
        self._low_grad = torch.zeros_like(self._low)
        start = 0
        for parameter in parameters:
            end = start + parameter.numel()
            low = end <= rounded
            values, grads = (self._low, self._low_grad) if low else (self.master, self.grad)
            parameter.data = _shaped(values[start:end], parameter.shape)
            parameter.grad = _shaped(grads[start:end], parameter.shape)
            start = end
        self._noise_sd, self._generator = noise * learning_rate, generator
        self._noise = torch.empty_like(self.master[: self.kernels]) if noise else None
        fused = self.master.device.type in ("cpu", "cuda")
        self._moments = {
            "step": torch.zeros((), dtype=torch.float32, device=self.master.device if fused else "cpu"),
            "exp_avg": torch.zeros_like(self.master),
            "exp_avg_sq": torch.zeros_like(self.master),
        }
        self._settings = ADAM | {"lr": learning_rate, "weight_decay": decay, "fused": fused}

    def zero_grad(self) -> None:
        """Before the backward pass, which adds."""
        self.grad.zero_()
        self._low_grad.zero_()

    @torch.no_grad()
    def step(self) -> None:
        """After the backward pass: Adam once, then Langevin noise if there is any."""
        count = self._low.numel()
        if count:
            self.grad[:count].copy_(self._low_grad)
        self._adam()
        if self._noise is not None:
            self.master[: self.kernels].add_(self._noise.normal_(generator=self._generator), alpha=self._noise_sd)
        if count:
            self._low.copy_(self.master[:count])

    def _adam(self) -> None:
        """torch's function, for its class imports torch's compiler, which takes a second."""
        step, average, squares = ([moment] for moment in self._moments.values())
        capturable = self.master.is_cuda
        adam([self.master], [self.grad], average, squares, [], step, capturable=capturable, **self._settings)

    def state(self) -> dict[str, Tensor]:
        """Weights and moments themselves, not copies."""
        return {"master": self.master, **self._moments}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go back to the copies of a `state`."""
        for name, value in self.state().items():
            value.copy_(state[name])
        if self._low.numel():
            self._low.copy_(self.master[: self._low.numel()])


def _flat(parameter: Tensor) -> Tensor:
    """A parameter's values in channels-last order."""
    return (parameter.permute(0, 2, 3, 1) if parameter.ndim == 4 else parameter).reshape(-1)


def _shaped(values: Tensor, shape: torch.Size) -> Tensor:
    """The reverse of `_flat`, as a view."""
    if len(shape) != 4:
        return values.view(shape)
    first, second, height, width = shape
    return values.view(first, height, width, second).permute(0, 3, 1, 2)
