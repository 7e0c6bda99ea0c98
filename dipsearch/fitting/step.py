"""One optimisation step of a fit, and the state that it changes: all on the device, nothing asked by the host."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dipsearch.error import UsageError
from dipsearch.fitting.averaging import Posterior, RunningMean
from dipsearch.fitting.capture import Captured
from dipsearch.fitting.recipe import Recipe
from dipsearch.fitting.stopping import STOPPERS, Seen
from dipsearch.fitting.weights import Weights
from dipsearch.network.build import PRECISIONS
from dipsearch.network.convolution import Convolution
from dipsearch.network.size import centre_crop

LOSSES = 10  # kept on the device
Snapshot = dict[str, dict[str, Tensor]]


class Step:
    """Fits `net` to `y`: each call draws input noise, steps Adam once on |A(f(z)) - y|^2, and takes the output into
    the average and the stopping rule.

    Every tensor that a call changes is changed in place, so that on CUDA a call is the replay of one graph.

    Args:
        net, z: the network and its fixed input, on the same device as y. The network's parameters become views.
        y: the observation, (1, C, h, w).
        operator: A.
        size: (height, width) of the picture, which is cut from the centre of the network's output.
        recipe: learning rate, input noise, averaging, stopping rule.
        precision: what the network computes in, a name in `PRECISIONS`; its master weights, the loss and all
            averages are float32.
        recompute: keep the outputs of convolutions only, and make what lies between them again.
        seeds: of the input noise, of the weight noise and of the held-out pixels.

    Raises:
        UsageError: A's output and y differ in shape, or the stopping rule lacks something.
    """

    def __init__(
        self,
        net: nn.Module,
        z: Tensor,
        y: Tensor,
        operator: Callable[[Tensor], Tensor],
        *,
        size: tuple[int, int],
        recipe: Recipe,
        precision: str = "float32",
        recompute: bool = False,
        seeds: tuple[int, int, int] = (0, 0, 0),
    ) -> None:
        self.net: nn.Module = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.z = z.contiguous(memory_format=torch.channels_last)
        self.y, self.operator, self.size, self.precision = y, operator, size, precision
        for module in net.modules():
            if isinstance(module, Convolution):
                module.recompute = recompute
        self._generators = [torch.Generator(z.device).manual_seed(seed) for seed in seeds[:2]]
        self.weights = Weights(
            net,
            precision,
            learning_rate=recipe.learning_rate,
            decay=recipe.weight_decay,
            noise=recipe.weight_noise,
            generator=self._generators[1],
        )
        self._input_noise = recipe.input_noise
        like = torch.zeros(1, y.shape[1], *size, device=z.device)
        seen, self._share = _hold_out(operator, y, recipe, seeds[2])
        self.mean = (
            Posterior(recipe.averaging, like, recipe.burn_in, recipe.thinning)
            if recipe.weight_noise
            else RunningMean(recipe.averaging, like)
        )
        try:
            self.stopper = STOPPERS[recipe.stop](recipe, seen, like)
        except ValueError as error:
            raise UsageError(f"stop: {recipe.stop}: {error}") from None
        self.tick = torch.zeros((), dtype=torch.int64, device=z.device)
        self.losses = torch.zeros(LOSSES, device=z.device)
        self.output = like  # the newest one, not averaged
        self._captured = Captured(self._generators) if z.is_cuda else None

    def __call__(self) -> None:
        """Enqueue one iteration."""
        if self._captured is None:
            self._once()
        else:
            self._captured(self._once)

    def _once(self) -> None:
        out = centre_crop(self.net(self._input()), *self.size)
        fitted = self.operator(out).float()
        if fitted.shape != self.y.shape:  # a mean over broadcast shapes would be silently wrong
            raise UsageError(
                f"the operator makes {tuple(fitted.shape)} of a {tuple(out.shape)} picture, "
                f"but the observation is {tuple(self.y.shape)}"
            )
        difference = fitted - self.y
        if self._share is not None:
            difference = difference * self._share
        loss = difference.square().mean()
        self.weights.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            loss, out, fitted = loss.detach(), out.detach(), fitted.detach()
            self.losses.index_copy_(0, (self.tick % LOSSES)[None], loss[None])
            # An output that is not finite would stay in the average that a paused fit answers with.
            finite = torch.isfinite(loss)
            out = torch.where(finite, out, self.mean.value)
            fitted = torch.where(finite, fitted, self.y)
            self.output = out
            self.mean.update(self.tick, out)
            self.stopper.update(self.tick, out, self.mean.value, fitted)
            self.weights.step()
            self.tick += 1

    def _input(self) -> Tensor:
        """z, with its noise, in the precision of the network."""
        z = self.z
        if self._input_noise:
            noise = torch.empty(z.shape, device=z.device)  # contiguous: drawing into channels-last is far slower
            z = torch.add(z, noise.normal_(generator=self._generators[0]), alpha=self._input_noise)
        return z.to(PRECISIONS[self.precision], memory_format=torch.channels_last)

    @property
    def answer(self) -> Tensor:
        """The answer so far under the stopping rule, (1, C, height, width), float32, on the device."""
        return self.stopper.answer(self.mean.value)

    def snapshot(self) -> Snapshot:
        """Copies of what a rollback brings back: weights, Adam's moments, what averages and the rule have seen."""
        parts = {"weights": self.weights.state(), "mean": self.mean.state(), "stopper": self.stopper.state()}
        return {part: {name: value.clone() for name, value in values.items()} for part, values in parts.items()}

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to a snapshot, which stays usable; iterations and noise go on, so that the way on differs."""
        self.weights.restore(snapshot["weights"])
        for mine, theirs in ((self.mean.state(), snapshot["mean"]), (self.stopper.state(), snapshot["stopper"])):
            for name, value in mine.items():
                if name in theirs:  # older states lack what came later
                    value.copy_(theirs[name])

    def state(self) -> dict[str, Any]:
        """Copies of everything that a resumed fit needs to go on bit for bit."""
        own = {"tick": self.tick.clone(), "losses": self.losses.clone(), "output": self.output.clone()}
        return {**self.snapshot(), "own": own, "generators": [each.get_state() for each in self._generators]}

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from a `state` of a step that was made with the same arguments, on the same kind of device."""
        for generator, value in zip(self._generators, state["generators"], strict=True):
            generator.set_state(value)
        self.restore(state)
        self.tick.copy_(state["own"]["tick"])
        self.losses.copy_(state["own"]["losses"])
        self.output = state["own"]["output"].to(self.output.device)


def _hold_out(operator: Callable[[Tensor], Tensor], y: Tensor, recipe: Recipe, seed: int) -> tuple[Seen, Tensor | None]:
    """What the stopping rule may see, and the factor on the misfit of each value of y (None: 1).

    Pixels are drawn with all their channels; held out are those of their values that were measured. The factor
    keeps the loss, and with it the step, at the scale that it has with all values.
    """
    if recipe.stop not in ("held-out", "discrepancy"):
        return Seen(y), None
    known = getattr(operator, "known", None)
    measured = torch.ones(y.shape, dtype=torch.bool)
    if known is not None:
        try:
            measured = (known.detach().cpu() > 0).expand(y.shape)
        except (AttributeError, RuntimeError):
            raise UsageError(
                f"stop: {recipe.stop}: the operator's `known` has to be a tensor that fits y, {tuple(y.shape)}"
            ) from None
    if recipe.stop == "discrepancy":
        return Seen(y, observed=None if known is None else measured.flatten().nonzero()[:, 0].to(y.device)), None
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand((1, 1, *y.shape[-2:]), generator=generator)
    out = (drawn < recipe.held_out) & measured
    if not out.any():  # a tiny picture: the pixel that came nearest
        out = (drawn == drawn[measured.any(1, keepdim=True)].min()) & measured if measured.any() else out
    share = out.sum() / measured.sum().clamp(min=1)
    factor = (~out).float() * (1 / (1 - share).clamp(min=0.01)).sqrt()
    return Seen(y, held_out=out.flatten().nonzero()[:, 0].to(y.device)), factor.to(y.device)
