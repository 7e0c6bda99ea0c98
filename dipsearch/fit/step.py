"""One optimisation step of a fit, and the state that it changes."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dipsearch.error import UsageError
from dipsearch.network.size import centre_crop


class Step:
    """Fits `net` to `y`: each call draws input noise, steps Adam once on |A(f(z)) - y|^2.

    Args:
        net, z: the network and its fixed input, on the same device as y.
        y: the observation, (1, C, h, w).
        operator: A.
        size: (height, width) of the picture, which is cut from the centre of the network's output.
        learning_rate: of Adam.
        input_noise: standard deviation of the noise added to z at every step.
        seed: of that noise.
    """

    def __init__(
        self,
        net: nn.Module,
        z: Tensor,
        y: Tensor,
        operator: Callable[[Tensor], Tensor],
        *,
        size: tuple[int, int],
        learning_rate: float,
        input_noise: float,
        seed: int,
    ) -> None:
        self.net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.z, self.y, self.operator, self.size = z, y, operator, size
        self.input_noise = input_noise
        # Not fused: on the CPU, fused Adam silently mis-steps where a weight and its gradient differ in
        # memory format.
        self.optimiser = torch.optim.Adam(self.net.parameters(), lr=learning_rate, fused=False)
        self.generator = torch.Generator(z.device).manual_seed(seed)
        self._noise = torch.empty_like(z)  # contiguous: drawing into channels-last memory is far slower

    def __call__(self) -> tuple[Tensor, Tensor]:
        """The output (1, C, height, width) before the step, and its loss, both detached, on the device."""
        z = self.z
        if self.input_noise:
            z = torch.add(z, self._noise.normal_(generator=self.generator), alpha=self.input_noise)
        out = centre_crop(self.net(z.contiguous(memory_format=torch.channels_last)), *self.size)
        fitted = self.operator(out)
        if fitted.shape != self.y.shape:  # a mean over broadcast shapes would be silently wrong
            raise UsageError(
                f"the operator makes {tuple(fitted.shape)} of a {tuple(out.shape)} picture, "
                f"but the observation is {tuple(self.y.shape)}"
            )
        loss = torch.nn.functional.mse_loss(fitted, self.y)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        return out.detach(), loss.detach()

    def snapshot(self) -> dict[str, Any]:
        """Copies of weights, norm statistics and Adam's moments."""
        return {"net": _cloned(self.net.state_dict()), "optimiser": _cloned(self.optimiser.state_dict())}

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Go back to a snapshot, which stays usable; the noise goes on, so that the way on differs."""
        self.net.load_state_dict(snapshot["net"])
        self.optimiser.load_state_dict(_cloned(snapshot["optimiser"]))


def _cloned(state: Any) -> Any:
    """A state dict with its own memory: on the CPU, `.cpu()` and `.detach()` would share it."""
    if isinstance(state, Tensor):
        return state.clone()
    if isinstance(state, dict):
        return {key: _cloned(value) for key, value in state.items()}
    return [_cloned(value) for value in state] if isinstance(state, list) else state
